"""The published attacks on a model that one can follow by hand.

Three pixels, two logits, the third pixel takes no part. At the clean image (0.5, 0.5, 0.5) the relaxed codes are 0.5
and -0.2, so the code is +-. The bank: for label 0 the codes ++, ++, +-; for label 1 the codes --, --, -+. So the
mainstay, center and anchor code of label 0 is ++, that of label 1 is --. Labels that overlap tell these codes apart.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from saat.attacks.catalog import GOALS, GoalOptions, SearchOptions, make_search
from saat.attacks.generative import discriminator_loss, generator_loss
from saat.attacks.objectives import OBJECTIVES, RELAXED, flips_objective, hag_objective
from saat.attacks.papers import PRESETS
from saat.attacks.prototype import fit_prototypes, prototype_loss
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.recipes.attack import AttackConfig
from saat.types import CodeObjective

CLEAN = torch.full((1, 3, 1, 1), 0.5)
RELAXED_CODES = torch.tensor([[0.5, -0.2]])
STEP = 1 / 255


def two_bits() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    model[1].weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    model[1].bias.data = torch.atanh(RELAXED_CODES[0]) - 0.5
    return model


def bank() -> CodeBank:
    codes = torch.tensor([[1, 1], [1, 1], [1, -1], [-1, -1], [-1, -1], [-1, 1]], dtype=torch.int8)
    return CodeBank(codes, torch.eye(2)[[0, 0, 0, 1, 1, 1]])


def preset(
    name: str, known: CodeBank | None = None, labels: list[int] | None = None, *, seed: int = 0
) -> tuple[CodeObjective, dict]:
    """The objective of a preset on the clean image, of label 0 or toward label 1, and all its settings."""
    settings = {"targeted": False, "objective": "flips"} | PRESETS[name]
    make_objective, targeted = OBJECTIVES[settings["objective"]], settings["targeted"]
    options = GoalOptions(known or bank(), make_objective, targeted, seed=seed, quiet=True)
    goal = GOALS[settings["goal"]].make(options)
    return goal(two_bits(), CLEAN, torch.tensor([labels or [1 - targeted, targeted]])), settings


def aim_of(objective: CodeObjective) -> list[list[float]]:
    """The code that an objective leads to, from logits of 0."""
    logits = torch.zeros(1, 2, requires_grad=True)
    return (-torch.autograd.grad(objective(logits).sum(), logits)[0].sign()).tolist()


# The mean of relaxed * code over the two bits, away from ++: (0.5 - 0.2) / 2; toward --: minus (-0.5 + 0.2) / 2.
AGREEMENT = (0.5 - 0.2) / 2
# SAAT: s = relaxed * mainstay, 0.5 and -0.2, both above -0.5: the mean of (s + 2) s.
SAAT = ((0.5 + 2) * 0.5 + (-0.2 + 2) * -0.2) / 2
# Toward --: s = -0.5 and 0.2, both below 0.5: minus the mean of (s + 2) s.
SAAT_TARGETED = -((-0.5 + 2) * -0.5 + (0.2 + 2) * 0.2) / 2
# HAG: relaxed * relaxed clean code, 0.25 and 0.04, over M = 2 bits: (0.145 + 1)^2 = 1.311025; (0.3 / 2)^2 = 0.0225.
HAG = 1.311025 + 0.0225
# SDHA, worked in test_sdha.py: codes ++ twice at distance 1, +- at distance 0 with weight 1e4.
SDHA = -(2 * (0.306894 + 0.892423) + 1e4 * (0.306894 + 0.561365)) / 3
# Steps of the first two pixels. Away from ++ and toward --: both down. HAG drives each bit from its own code: down, up
# (the gradient of a relaxed code is 1.145 * own + 0.15: 0.72 and -0.08). SDHA flees +-: down, up.
BOTH_DOWN, FROM_OWN = (-1, -1), (-1, 1)


@pytest.mark.parametrize(
    ("name", "value", "signs", "step"),
    [
        ("paper", SAAT, BOTH_DOWN, STEP),
        ("paper-targeted", SAAT_TARGETED, BOTH_DOWN, STEP),
        ("hag", HAG, FROM_OWN, STEP),
        ("sdha", SDHA, FROM_OWN, 0.01),  # Adam's first step is its learning rate
        ("cgat", AGREEMENT, BOTH_DOWN, STEP),
        ("pga", AGREEMENT, BOTH_DOWN, STEP),
        ("dhta", AGREEMENT, BOTH_DOWN, STEP),
        ("tha", AGREEMENT, BOTH_DOWN, STEP),
    ],
)
def test_the_objective_and_the_first_step_of_each_published_attack(name, value, signs, step, monkeypatch):
    monkeypatch.setattr("saat.attacks.catalog.fit_prototypes", partial(fit_prototypes, widths=(64, 16), quiet=True))
    objective, settings = preset(name)
    assert objective(torch.atanh(RELAXED_CODES)).item() == pytest.approx(value, rel=1e-5)
    search = {"pgd": "bim"}.get(settings["search"], settings["search"])  # without the random start
    for schedule in (False, True):  # at sharpness 1, and at 0.1, the first of the papers' schedule
        options = SearchOptions(
            threat=ThreatModel("linf", 8 / 255),
            steps=1,
            step_size=settings["step_size"],
            restarts=1,
            schedule=schedule,
            keep_best=not settings["last"],
            precision="float32",
        )
        moved = (make_search(search, options)(two_bits(), CLEAN, objective) - CLEAN).flatten().tolist()
        assert moved == pytest.approx([signs[0] * step, signs[1] * step, 0.0], abs=1e-6)


def test_the_first_step_of_hag_and_dhta_as_published():
    """Along the gradient itself, half as far so as to stay in the pixel range, and at sharpness 1.

    The slope of tanh is 1 - 0.5^2 = 0.75 and 1 - 0.2^2 = 0.96. HAG, at a rate of 100 / 128: 0.7225 * 0.75 = 0.541875
    and -0.079 * 0.96 = -0.07584. DHTA, toward --: 0.5 * 0.75 and 0.5 * 0.96, over the length of both, 0.609118.
    """
    steps = {"hag-published": (-0.423340, 0.059250), "dhta-published": (-0.615644, -0.788024)}
    for name, step in steps.items():
        objective, settings = preset(name)
        options = SearchOptions(
            threat=ThreatModel("linf", 0.5),
            steps=1,
            step_size=settings["step_size"] / 2,
            restarts=1,
            schedule=False,
            keep_best=False,
            precision="float32",
        )
        moved = (make_search(settings["search"], options)(two_bits(), CLEAN, objective) - CLEAN).flatten().tolist()
        assert moved == pytest.approx([step[0] / 2, step[1] / 2, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "code"),
    [("paper", "-+"), ("paper-targeted", "-+"), ("pga", "-+"), ("cgat", "++"), ("dhta", "+-"), ("p2p", "+-")],
)
def test_labels_that_overlap_tell_the_codes_of_the_papers_apart(name, code):
    """Of labels 0 and 1, beside codes of just these, of label 0 alone and of three labels.

    Mainstay, by the cosines 1, 0.7071 and 0.8165: 2 - 3 * 0.7071 + 0 = -0.12 and -2 + 2.12 + 1.63 = 1.75. Center, by
    Jaccard 1, 1/2 and 2/3: 2 - 1.5 + 0 = 0.5 and -2 + 1.5 + 1.33 = 0.83. Anchor and point: the first two codes alone.
    """
    codes = torch.tensor([[1, -1]] * 2 + [[-1, 1]] * 3 + [[1, 1], [-1, 1]], dtype=torch.int8)
    labels = torch.tensor([[1, 1, 0]] * 2 + [[1, 0, 0]] * 3 + [[1, 1, 1]] * 2)
    objective, settings = preset(name, CodeBank(codes, labels), [1, 1, 0])
    sign = 1 if settings["targeted"] else -1
    assert aim_of(objective) == [[sign * {"+": 1, "-": -1}[bit] for bit in code]]


def test_p2p_goes_to_one_code_of_the_target_by_the_seed_and_dhta_to_the_vote_of_all():
    """From 0.5 and -0.2, toward -- as above; toward -+, -(-0.5 - 0.2) / 2."""
    found = {}
    for name in ("p2p", "dhta"):
        objectives = [preset(name, seed=seed)[0] for seed in range(8)]
        found[name] = {round(objective(torch.atanh(RELAXED_CODES)).item(), 6) for objective in objectives}
    assert found == {"p2p": {AGREEMENT, 0.35}, "dhta": {AGREEMENT}}


def test_the_prototypes_of_tha_and_pros_gan_by_hand():
    """Relaxed prototypes 0.5 and -0.2 of label 0, against the six codes of the bank.

    Similarities: 0.15 with ++ twice and 0.35 with +-, all relevant; -0.15 with -- twice and -0.35 with -+. Both sums
    are 2 exp(-1.85 * 0.15) + exp(-1.65 * 0.35) = 2 * 0.757675 + 0.561300. Quantization: 0.5^2 + 0.8^2.
    """
    known = bank()
    items = known.codes.float(), known.labels.float()
    loss = prototype_loss(RELAXED_CODES, torch.eye(2)[:1], *items, torch.ones(len(known)))
    assert loss.item() == pytest.approx(2 * math.log(2 * 0.757675 + 0.561300) + 1e-4 * (0.25 + 0.64), rel=1e-6)


def test_the_losses_and_the_direction_of_pros_gan_by_hand(monkeypatch):
    """Toward --, the prototype code of label 1, with an image whose first pixel is lower by 0.1.

    Its relaxed codes are tanh(0.549306 - 0.1) = 0.421328 and -0.2. Hamming: 5 (1 - (-0.421328 + 0.2) / 2) = 5.553321;
    reconstruction: 50 (0.2^2 + 0 + 0) / 3 = 0.666667; adversarial: scores (0, 1, 1) where (0, 1, 0) is wanted, 1 / 3.
    """
    monkeypatch.setattr("saat.attacks.catalog.fit_prototypes", partial(fit_prototypes, widths=(64, 16)))
    objective, _ = preset("pros-gan")
    assert objective(torch.atanh(RELAXED_CODES)).item() == pytest.approx(AGREEMENT)
    codes = torch.tensor(aim_of(objective))
    assert codes.tolist() == [[-1, -1]]
    generated = (CLEAN - torch.tensor([0.1, 0, 0]).view(1, 3, 1, 1)).requires_grad_()
    labels, target_labels = torch.eye(2)[:1], torch.eye(2)[1:]

    class Scores(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0, 0.5] if torch.equal(images, CLEAN) else [0.0, 1.0, 1.0]])

    loss = generator_loss(two_bits()(generated), codes, Scores(), CLEAN, generated, target_labels)
    assert loss.item() == pytest.approx(5.553321 + 0.666667 + 1 / 3, rel=1e-6)
    # By pixel: 5 / 2 (1 - 0.421328^2) = 2.056206 less 50 * 4 * 2 * 0.1 / 3; 5 / 2 * 0.96; nothing.
    gradient = torch.autograd.grad(loss, generated)[0].flatten().tolist()
    assert gradient == pytest.approx([2.056206 - 13.333333, 2.4, 0.0], rel=1e-5)
    # The discriminator, on clean images: (0 + 0 + 0.5^2) / 3; on generated ones, known as such: 0; the mean of both.
    loss = discriminator_loss(Scores(), CLEAN, labels, generated, target_labels)
    assert loss.item() == pytest.approx(0.25 / 3 / 2)


def test_the_equal_and_the_published_settings():
    """100 steps of 1/255 within 8/255 with slopes of tanh, or what a paper has instead; every preset is an attack."""
    published = {
        "hag-published": ("sgd", 2000, 0.78125, 8 / 255, True),
        "sdha-published": ("adam", 1500, None, 8 / 255, True),  # of a length of its own, 0.01
        "cgat-published": ("pgd", 7, 2 / 255, 8 / 255, False),
        "p2p-published": ("ngd", 2000, 1.0, 0.032, True),
        "dhta-published": ("ngd", 2000, 1.0, 0.032, True),
        "tha-published": ("bim", 100, 1 / 255, 8 / 255, False),
        "pros-gan-published": ("published-generator", 100, None, 1.0, True),  # a rate of its own, 1e-4
    }
    own = {"sdha": ("adam", None), "pros-gan": ("generator", None)}
    for name, settings in PRESETS.items():
        config = AttackConfig(out=Path("out"), checkpoint=Path("x"), **settings)
        found = config.search, config.steps, config.step_size, config.epsilon, config.schedule
        search, step = own.get(name, ("pgd", 1 / 255))
        assert found == published.pop(name, (search, 100, step, 8 / 255, True))
        assert config.last
        assert config.objective in RELAXED or config.goal == "relevant-codes"  # so that the schedule of tanh applies
        equal = PRESETS[name.removesuffix("-published")]
        assert all(settings[key] == equal[key] for key in {"goal", "objective", "targeted"} & equal.keys())
    assert not published


def test_hag_by_hand():
    # Away from the own code ++ with relaxed clean codes 0.6 and 0.8. At 0.5 and -0.4 both bits count: agreement
    # (0.3 - 0.32) / 2 = -0.01, (0.99)^2; balance 0.1 / 2, squared.
    aim, clean = -torch.ones(1, 2), torch.atanh(torch.tensor([[0.6, 0.8]]))
    objective = hag_objective(aim, clean)
    assert objective(torch.atanh(torch.tensor([[0.5, -0.4]]))).item() == pytest.approx(0.99**2 + 0.05**2)
    # At 0.5 and -0.6 the second has flipped firmly: 0.3 / 1, 1.3^2; balance 0.5 / 2, squared.
    assert objective(torch.atanh(torch.tensor([[0.5, -0.6]]))).item() == pytest.approx(1.3**2 + 0.25**2)
    # All flipped firmly: nothing is left but (0 + 1)^2.
    assert objective(torch.tensor([[-9.0, -9.0]])).item() == pytest.approx(1.0)


def test_flips_by_hand():
    # Over the mean clean |logit|, 2, away from ++-: margins 1 / 2, -0.5 / 2 and 4 / 2.
    aim, clean = torch.tensor([[-1.0, -1.0, 1.0]]), torch.tensor([[3.0, 1.0, -2.0]])
    margins = [0.5, -0.25, 2.0]
    expected = sum(math.tanh(4 * m) + max(m, -0.5) / 10 for m in margins) / 3
    found = torch.tensor([[1.0, -0.5, -4.0]])
    assert flips_objective(aim, clean)(found).item() == pytest.approx(expected)
    # 0.964028 + 0.05, -0.761594 - 0.025, 1.0 + 0.2
    assert expected == pytest.approx((1.014028 - 0.786594 + 1.2) / 3, abs=1e-5)


def test_flips_are_free_of_scale_and_never_without_a_gradient_while_a_bit_is_to_flip():
    generator = torch.Generator().manual_seed(0)
    aim, clean = torch.randn(4, 16, generator=generator).sign(), torch.randn(4, 16, generator=generator)
    logits = torch.randn(4, 16, generator=generator)
    values = flips_objective(aim, clean)(logits)
    assert torch.equal(flips_objective(aim, 1024 * clean)(1024 * logits), values)
    far = (-50.0 * aim).requires_grad_()
    (gradient,) = torch.autograd.grad(flips_objective(aim, clean)(far).sum(), far)
    assert bool(((gradient * aim) < 0).all())
    done = (50.0 * aim).requires_grad_()
    (gradient,) = torch.autograd.grad(flips_objective(aim, clean)(done).sum(), done)
    assert not bool(gradient.any())
