from functools import partial

import pytest
import torch
from torch import nn

from saat.attacks.adam import AdamSearch
from saat.attacks.annealed import AnnealedPGD
from saat.attacks.autopgd import APGD
from saat.attacks.base import slopes_by_step
from saat.attacks.blackbox import NesAttack, SquareAttack
from saat.attacks.catalog import GOALS, SEARCHES, GoalOptions, SearchOptions, find_search, make_search
from saat.attacks.descent import GradientDescent
from saat.attacks.goals import OwnCodeGoal, SemanticGoal
from saat.attacks.gradient import PAPER_SHARPNESS, PGD
from saat.attacks.objectives import OBJECTIVES, RELAXED, flips_objective, hag_objective
from saat.attacks.prototype import PrototypeGoal, fit_prototypes
from saat.attacks.sdha import SdhaGoal
from saat.attacks.threat import PatchThreat, Threat, ThreatModel
from saat.attacks.transfer import TRANSFER_RULES, TransferPGD
from saat.attacks.views import ReturnedIdsGoal
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError

KINDS = {"pgd": PGD, "fgsm": PGD, "bim": PGD, "apgd": APGD, "annealed": AnnealedPGD, "adam": AdamSearch}
KINDS |= {"sgd": GradientDescent, "ngd": GradientDescent, "square": SquareAttack, "nes": NesAttack}
KINDS |= dict.fromkeys(TRANSFER_RULES, TransferPGD)
THREATS: dict[str, Threat] = {"linf": ThreatModel(), "l2": ThreatModel("l2", 0.5), "patch": PatchThreat(0.25)}
PAPER_SLOPES = slopes_by_step(PAPER_SHARPNESS, 3)


def options(threat: Threat = THREATS["linf"], **changes) -> SearchOptions:
    defaults = {"steps": 3, "step_size": 2 / 255, "restarts": 1, "schedule": False, "keep_best": True}
    return SearchOptions(threat=threat, precision="float32", **(defaults | changes))


def bank() -> CodeBank:
    codes = torch.tensor([[1] * 8, [1, -1] * 4], dtype=torch.int8)
    return CodeBank(codes, torch.eye(2))


def test_every_name_makes_its_search():
    assert KINDS.keys() == SEARCHES.keys()
    for name, kind in KINDS.items():
        assert type(make_search(name, options())) is kind


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_keeps_every_threat_or_says_why_not(name, threat):
    if threat == "patch" and SEARCHES[name].traits.everywhere:
        with pytest.raises(ArgumentError, match=f"`patch` needs a search that can stay in one place; got {name}"):
            make_search(name, options(THREATS[threat]))
        return
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    objective = OwnCodeGoal(flips_objective)(model, images, torch.eye(2))
    found = make_search(name, options(THREATS[threat]))(model, images, objective)
    assert not bool((THREATS[threat].violation(found, images) > 0).any())
    assert bool((objective(model(found)) <= objective(model(images)) + 1e-6).all())


def test_joined_rules_are_one_search_with_all_their_switches():
    both = make_search("di+ti", options())
    assert isinstance(both, TransferPGD)
    assert (both.diversity, both.kernel_size, both.lookahead, both.steps) == (0.5, 15, False, 3)
    assert isinstance(make_search("pgd", options()), PGD)
    with pytest.raises(ArgumentError, match=r"got di\+ti, which moves every pixel"):
        make_search("di+ti", options(THREATS["patch"]))


def test_options_reach_the_search():
    pgd = make_search("pgd", options(restarts=2, schedule=True))
    assert isinstance(pgd, PGD)
    assert (pgd.steps, pgd.step_size, pgd.restarts, pgd.random_start) == (3, 2 / 255, 2, True)
    assert pgd.slopes == PAPER_SLOPES
    fgsm = make_search("fgsm", options())
    assert isinstance(fgsm, PGD)
    assert (fgsm.steps, fgsm.step_size, fgsm.random_start, fgsm.slopes) == (1, 8 / 255, False, (1.0,))
    bim = make_search("bim", options(keep_best=False))
    assert isinstance(bim, PGD)
    assert (bim.steps, bim.random_start, bim.keep_best) == (3, False, False)
    adam = make_search("adam", options(schedule=True, keep_best=False))
    assert isinstance(adam, AdamSearch)
    assert (adam.steps, adam.slopes, adam.keep_best) == (3, PAPER_SLOPES, False)
    for name, momentum, unit in (("sgd", 0.9, False), ("ngd", 0.0, True)):
        descent = make_search(name, options(schedule=True, keep_best=False))
        assert isinstance(descent, GradientDescent)
        assert (descent.steps, descent.step_size, descent.keep_best) == (3, 2 / 255, False)
        assert (descent.momentum, descent.unit, descent.slopes) == (momentum, unit, PAPER_SLOPES)
    square = make_search("square", options(steps=50))
    assert isinstance(square, SquareAttack)
    assert square.queries == 50
    for samples, directions, neighbors in ((None, 25, 20), (2, 2, 2)):
        nes, vmi = make_search("nes", options(samples=samples)), make_search("vmi+ti", options(samples=samples))
        assert isinstance(nes, NesAttack)
        assert isinstance(vmi, TransferPGD)
        assert (nes.samples, vmi.variance_samples, vmi.kernel_size) == (directions, neighbors, 15)
    plain = make_search("mi", options(samples=2))
    assert isinstance(plain, TransferPGD)
    assert plain.variance_samples == 0  # a search that does not look around stays the search that was asked for


@pytest.mark.parametrize("name", [*SEARCHES, "di+ti", "vmi+ti"])
def test_traits_are_what_a_search_does(name):
    """Whether gradients are taken, and which options make another search."""
    traits, plain = find_search(name).traits, make_search(name, options())
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain(model, images, OwnCodeGoal(flips_objective)(model, images, torch.eye(2)))
    assert traits.gradient is (plain.cost.gradients > 0)

    def heeds(**told) -> bool:
        made = (vars(make_search(name, options(**changes))) for changes in (told, {}))
        one, other = ({key: value for key, value in found.items() if key != "cost"} for found in made)
        return one != other

    assert traits.samples is heeds(samples=2)
    assert (traits.step != "chosen") is (name == "fgsm" or heeds(step_size=0.5))
    assert heeds(restarts=2) or not traits.restarts
    assert find_search(name).chooses is not heeds(keep_best=False)


def test_every_name_makes_its_goal(monkeypatch):
    monkeypatch.setattr("saat.attacks.catalog.fit_prototypes", partial(fit_prototypes, widths=(64, 16)))
    kinds = {"own-code": OwnCodeGoal, "relevant-codes": SdhaGoal, "prototype": PrototypeGoal}
    kinds |= {"returned-ids": ReturnedIdsGoal}
    for name, named in GOALS.items():
        targeted = named.aim == "toward"
        goal = named.make(GoalOptions(bank(), hag_objective, targeted, quiet=True))
        assert type(goal) is kinds.get(name, SemanticGoal)
        assert goal.targeted is targeted
        if not isinstance(goal, SdhaGoal | ReturnedIdsGoal):
            assert goal.make_objective is hag_objective
        assert named.own_objective is isinstance(goal, SdhaGoal | ReturnedIdsGoal)
        if named.aim != "away":
            assert named.make(GoalOptions(bank(), flips_objective, True, quiet=True)).targeted
    assert set(RELAXED) <= OBJECTIVES.keys()
