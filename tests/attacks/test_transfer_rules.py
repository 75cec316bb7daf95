"""The promises of every published rule, alone and joined with others."""

import itertools
import re

import pytest
import torch
from recording import THREATS, Recorder, sloped
from torch import Tensor, nn

from saat.attacks.threat import ThreatModel
from saat.attacks.transfer import TRANSFER_RULES, TransferPGD, joined_name, joined_rules
from saat.errors import ArgumentError

STEP_SIZES = {"linf": 2 / 255, "l2": 0.15}
DRAWING = {"vmi", "di"}
ALL_SWITCHES = {option: value for rule in TRANSFER_RULES.values() for option, value in rule.items()}
RULES = {**TRANSFER_RULES, "all": {**ALL_SWITCHES, "variance_samples": 3}}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)
    model = nn.Sequential(*layers, nn.Linear(200, 16)).train()
    model(torch.rand(16, 3, 12, 12))
    model[0].bias.requires_grad_(False)
    return model


def small_images() -> Tensor:
    pixels = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return ((pixels - 0.5) * 1.5 + 0.5).clamp(0, 1)  # some pixels lie on the edges of the box


def mean_logit(logits: Tensor) -> Tensor:
    return logits.tanh().mean(1)


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", THREATS)
def test_every_rule_keeps_the_promises_of_an_attack(norm, rule, keep_best):
    model, images, threat = small_model(), small_images(), THREATS[norm]
    state, random_state = [value.clone() for value in model.state_dict().values()], torch.get_rng_state()
    attack = TransferPGD(threat, steps=4, step_size=STEP_SIZES[norm], keep_best=keep_best, **RULES[rule])
    found, again, other = (attack(model, images, mean_logit, seed=seed) for seed in (3, 3, 4))
    assert not bool((threat.violation(found, images) > 0).any())
    assert float(threat.size(found, images).min()) > 0.0
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert torch.equal(found, again)
    assert torch.equal(found, other) == (rule not in DRAWING | {"all"})
    assert torch.equal(images, small_images())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(*pair) for pair in zip(model.state_dict().values(), state, strict=True))
    assert all(module.training for module in model.modules())
    assert [weight.requires_grad for weight in model.parameters()] == [True, False, True, True, True, True]
    with torch.no_grad():
        before, after = (mean_logit(model.eval()(pixels)) for pixels in (images, found))
    assert bool((after < before).all())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", THREATS)
def test_no_result_is_worse_than_the_clean_image(norm, rule):
    """The clean image is the best there is: it must come back, whatever the search does."""
    images = torch.full((2, 3, 12, 12), 0.5)
    attack = TransferPGD(THREATS[norm], steps=3, step_size=STEP_SIZES[norm], **RULES[rule])
    assert attack(small_model(), small_images()[:0], mean_logit).shape == (0, 3, 12, 12)
    pulling = sloped(lambda pixel: torch.where(pixel == 0.5, -1e3, 1.0))
    assert torch.equal(attack(Recorder(432), images, pulling), images)
    nowhere = TransferPGD(ThreatModel(norm, 0.0), steps=2, step_size=0.1, keep_best=False, **RULES[rule])
    assert torch.equal(nowhere(small_model(), small_images(), mean_logit), small_images())


def test_rules_joined_by_plus_are_all_there_in_any_order():
    assert joined_rules("vmi") == TRANSFER_RULES["vmi"]
    assert joined_rules("ti+vmi+si-ni+di") == joined_rules("di+si-ni+vmi+ti") == ALL_SWITCHES
    for one, other in itertools.combinations(TRANSFER_RULES.values(), 2):
        assert all(other[option] == value for option, value in one.items() if option in other)  # so none is lost


def test_joined_rules_have_one_name_and_two_names_mean_two_searches():
    named = {}
    for count in range(1, len(TRANSFER_RULES) + 1):
        for parts in itertools.permutations(TRANSFER_RULES, count):
            options = tuple(sorted(joined_rules("+".join(parts)).items()))
            named.setdefault(options, set()).add(joined_name("+".join(parts)))
    names = [name for found in named.values() for name in found]
    assert len(names) == len(set(names)) == len(named)
    assert all(joined_name(name) == name for name in names)
    assert {*TRANSFER_RULES, "di+ti", "si-ni+di+ti"} < set(names)


@pytest.mark.parametrize("name", ["pgd+di", "di+di", "di+", "+", "di+tii"])
def test_what_cannot_be_joined_gets_an_answer(name):
    message = f"`search` joins only mi, ni, si-ni, vmi, di, ti by +, each once; got '{name}'"
    with pytest.raises(ArgumentError, match=re.escape(message)):
        joined_rules(name)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        joined_name(name)


@pytest.mark.parametrize("rule", sorted(set(TRANSFER_RULES) - DRAWING))
@pytest.mark.parametrize("norm", THREATS)
def test_images_do_not_depend_on_their_batch(norm, rule):
    model, images = small_model(), small_images()
    attack = TransferPGD(THREATS[norm], steps=5, step_size=STEP_SIZES[norm], **TRANSFER_RULES[rule])
    together = attack(model, images, mean_logit)
    for row in range(len(images)):
        alone = attack(model, images[row : row + 1], mean_logit)
        assert torch.allclose(alone, together[row : row + 1], atol=1e-5)
