"""What every attack promises, over a table of attacks, objectives and goals. A new attack is one more row."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from saat.attacks.adam import AdamSearch
from saat.attacks.annealed import AnnealedPGD
from saat.attacks.autopgd import APGD
from saat.attacks.base import Attack, Probe
from saat.attacks.blackbox import NesAttack, SquareAttack
from saat.attacks.descent import GradientDescent
from saat.attacks.generative import Generator, GeneratorAttack
from saat.attacks.goals import OwnCodeGoal, SemanticGoal
from saat.attacks.gradient import PAPER_SHARPNESS, PGD
from saat.attacks.objectives import OBJECTIVES
from saat.attacks.sdha import SdhaGoal
from saat.attacks.threat import PatchThreat, Threat, ThreatModel
from saat.attacks.transfer import TransferPGD
from saat.attacks.universal import UniversalPerturbation
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError, SaatError
from saat.models.hash_model import HashModel
from saat.types import Goal

BATCH = 5
THREATS: dict[str, Threat] = {
    "linf": ThreatModel("linf", 8 / 255),
    "l2": ThreatModel("l2", 1.0),
    "patch": PatchThreat(0.25),
}
LIMITS = {"linf": 8 / 255, "l2": 1.0, "patch": 0.0}  # of what `size` measures
STEP_SIZES = {"linf": 2 / 255, "l2": 0.25, "patch": 0.25}
LABELS = torch.eye(3)[[0, 1, 2, 0, 1]]
CHANGE = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(3))
# name -> (attack within a threat, passes through the model for each image)
ATTACKS: dict[str, tuple[Callable[[Threat], Attack], int]] = {
    "one step": (lambda threat: pgd(threat, steps=1, random_start=False), 2),
    "ten steps": (lambda threat: pgd(threat, steps=10), 12),
    "from the clean image": (lambda threat: pgd(threat, steps=10, random_start=False), 11),
    "restarts": (lambda threat: pgd(threat, steps=3, restarts=2), 9),
    "schedule": (lambda threat: pgd(threat, steps=10, sharpness=PAPER_SHARPNESS), 12),
    "apgd": (lambda threat: APGD(threat, steps=10), 12),
    "apgd restarts": (lambda threat: APGD(threat, steps=4, restarts=2), 11),
    "annealed": (lambda threat: AnnealedPGD(threat, steps=10), 11),
    "adam": (lambda threat: AdamSearch(threat, steps=4), 5),
    "gradient, momentum": (lambda threat: GradientDescent(threat, steps=4, step_size=1.0, momentum=0.9), 5),
    "gradient of one length": (lambda threat: GradientDescent(threat, steps=4, step_size=0.25, unit=True), 5),
    "mi": (lambda threat: TransferPGD(threat, steps=4, step_size=step_size(threat)), 5),
    "ni, si, vmi, di, ti": (lambda threat: every_rule(threat), 10),
    "square": (lambda threat: SquareAttack(threat, queries=12), 12),
    "nes": (lambda threat: NesAttack(threat, steps=2, step_size=step_size(threat), samples=3), 15),
    "last iterate": (lambda threat: pgd(threat, steps=3, keep_best=False), 3),
    "universal": (lambda threat: UniversalPerturbation(threat, CHANGE), 1),
    "generator": (lambda threat: generator(threat), 1),
}
EVERYWHERE = ("mi", "ni, si, vmi, di, ti", "square")  # these move every pixel
NOT_FOR = {"linf": (), "l2": ("generator",), "patch": (*EVERYWHERE, "generator")}
PAIRS = [(norm, name) for norm in THREATS for name in ATTACKS if name not in NOT_FOR[norm]]
GOALS: dict[str, Callable[..., Goal]] = {
    "own": lambda bank, make: OwnCodeGoal(make),
    "mainstay": lambda bank, make: SemanticGoal(bank, make_objective=make),
    "targeted mainstay": lambda bank, make: SemanticGoal(bank, make_objective=make, targeted=True),
    "targeted relevant codes": lambda bank, _: SdhaGoal(bank, targeted=True),
}


def tiny_model() -> HashModel:
    """A net with batch statistics and dropout, in mixed modes, with one frozen weight: all must stay as it is."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
    model = HashModel(nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5)), nn.Linear(32, 16), code_length=16).train()
    model(torch.rand(16, 3, 12, 12))  # batch statistics that are not those of a new layer
    model.hash_layer.eval()
    model.backbone[0].bias.requires_grad_(False)
    return model


def every_rule(threat: Threat) -> TransferPGD:
    return TransferPGD(
        threat,
        steps=2,
        step_size=step_size(threat),
        lookahead=True,
        scale_copies=2,
        variance_samples=2,
        diversity=0.5,
        kernel_size=3,
    )


def generator(threat: Threat) -> GeneratorAttack:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return GeneratorAttack(Generator(classes=3, width=4).eval(), threat, labels=LABELS)


@pytest.fixture(scope="module")
def model() -> HashModel:
    return tiny_model()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    pixels = torch.rand(BATCH, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return ((pixels - 0.5) * 1.5 + 0.5).clamp(0, 1)  # some pixels lie on the edges of the box


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return LABELS


@pytest.fixture(scope="module")
def bank(model) -> CodeBank:
    pixels = torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    return CodeBank(model.encode(pixels), torch.eye(3).repeat(8, 1))


def step_size(threat: Threat) -> float:
    return STEP_SIZES["patch" if isinstance(threat, PatchThreat) else threat.norm]


def size(norm: str, change: torch.Tensor) -> torch.Tensor:
    """How long each change is; of a patch, what lies outside its square: the middle 6 of 12 rows and columns."""
    if norm == "patch":
        change = change.clone()
        change[:, :, 3:9, 3:9] = 0.0
    return change.square().flatten(1).sum(1).sqrt() if norm == "l2" else change.abs().flatten(1).amax(1)


def pgd(threat: Threat = THREATS["linf"], **options) -> PGD:
    return PGD(threat, **{"step_size": step_size(threat), "steps": 2, **options})


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("norm", "name"), PAIRS)
def test_every_attack_keeps_its_promises(norm, name, objective, goal, model, images, labels, bank):
    make, passes = ATTACKS[name]
    attack = make(THREATS[norm])
    aim = GOALS[goal](bank, OBJECTIVES[objective])(model, images, labels)
    kept = images.clone()
    found = attack(model, images, aim, seed=3)

    assert float(size(norm, found - images).max()) <= LIMITS[norm] + 1e-6
    assert float((found - images).abs().max()) > 0
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert (found.shape, found.dtype, found.requires_grad) == (images.shape, torch.float32, False)
    assert torch.equal(images, kept)
    assert attack.cost.model_evaluations == passes * BATCH
    assert torch.equal(attack(model, images, aim, seed=3), found)
    assert attack.cost.model_evaluations == 2 * passes * BATCH  # over all calls
    if attack.keep_best:  # the clean image is one of the iterates
        model_modes = [module.training for module in model.modules()]
        before, after = (aim(_eval_logits(model, x)) for x in (images, found))
        assert model_modes == [module.training for module in model.modules()]
        assert bool((after <= before + 1e-5).all())


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("norm", THREATS)
def test_ten_steps_bring_every_image_nearer_to_the_aim(norm, goal, model, images, labels, bank):
    aim = GOALS[goal](bank, OBJECTIVES["margin"])(model, images, labels)
    found = pgd(THREATS[norm], steps=10)(model, images, aim)
    assert bool((aim(_eval_logits(model, found)) < aim(_eval_logits(model, images))).all())


def _eval_logits(model: HashModel, images: torch.Tensor) -> torch.Tensor:
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        logits = model.eval()(images)
    for module, training in modes:
        module.training = training
    return logits


@pytest.mark.parametrize(("norm", "name"), PAIRS)
def test_the_model_is_left_as_it_was(norm, name, images, labels, bank):
    model = tiny_model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wanted = [weight.requires_grad for weight in model.parameters()]
    random_state = torch.get_rng_state()
    ATTACKS[name][0](THREATS[norm])(model, images, SemanticGoal(bank)(model, images, labels))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    assert wanted == [weight.requires_grad for weight in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)  # the generator is private


@pytest.mark.parametrize(("norm", "name"), [(norm, name) for norm, name in PAIRS if norm != "patch"])
def test_epsilon_zero_is_the_clean_image(norm, name, model, images, labels):
    attack = ATTACKS[name][0](ThreatModel(norm, 0.0))
    assert torch.equal(attack(model, images, OwnCodeGoal()(model, images, labels)), images)


@pytest.mark.parametrize("norm", THREATS)
def test_another_seed_starts_elsewhere(norm, model, images, labels):
    aim = OwnCodeGoal()(model, images, labels)
    attack = pgd(THREATS[norm], steps=1, step_size=0.0, keep_best=False)
    starts = [attack(model, images, aim, seed=seed) for seed in (0, 1)]
    assert not torch.allclose(*starts, atol=1e-3)


def test_an_empty_batch_stays_empty(model, images, labels, bank):
    none = images[:0]
    assert pgd()(model, none, SemanticGoal(bank)(model, none, labels[:0])).shape == none.shape


def test_grown_logits_hide_an_image_from_relaxed_objectives_but_not_from_margins(images, labels):
    model = tiny_model()
    with torch.no_grad():
        model.hash_layer.weight.mul_(1e4)
        model.hash_layer.bias.mul_(1e4)
    moved = {}
    for name, make in OBJECTIVES.items():
        aim = OwnCodeGoal(make)(model, images, labels)
        found = pgd(steps=1, random_start=False, keep_best=False)(model, images, aim)
        moved[name] = (found - images).flatten(1).abs().amax(1)
    assert bool((moved["margin"] > 0).all())
    assert float(moved["agreement"].median()) == 0.0


class Careless(Attack):
    """A search that minds no budget."""

    def __init__(self, shift: float, keep_best: bool) -> None:
        super().__init__(THREATS["linf"], keep_best=keep_best)
        self.shift = shift

    def perturb(self, probe: Probe, images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        probe.values(images + self.shift)
        return images + self.shift


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_careless_attack_cannot_leave_its_threat_model(keep_best, model, images, labels):
    aim = OwnCodeGoal()(model, images, labels)
    found = Careless(0.5, keep_best)(model, images, aim)
    assert float((found - images).abs().max()) <= 8 / 255 + 1e-6
    assert float(found.max()) <= 1
    with pytest.raises(SaatError, match="Careless left its threat model"):
        Careless(float("nan"), keep_best=False)(model, images, aim)


def test_bad_images_are_named(model, images, labels):
    aim, attack = OwnCodeGoal()(model, images, labels), pgd()
    with pytest.raises(ArgumentError, match=r"float32 \(B, 3, H, W\); got torch\.uint8 \(5, 3, 12, 12\)"):
        attack(model, (images * 255).to(torch.uint8), aim)
    with pytest.raises(ArgumentError, match=r"got torch\.float32 \(5, 1, 12, 12\)"):
        attack(model, images[:, :1], aim)
    with pytest.raises(ArgumentError, match=r"got torch\.float32 \(3, 12, 12\)"):
        attack(model, images[0], aim)
    with pytest.raises(ArgumentError, match=r"lie in \[0, 1\], before normalization; got .* to 255"):
        attack(model, images * 255, aim)
    with pytest.raises(ArgumentError, match="got nan to nan"):
        attack(model, images * float("nan"), aim)
    assert attack.cost.model_evaluations == 0


def test_bad_options_are_named():
    for name in ("steps", "restarts"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 1; got 0"):
            pgd(**{name: 0})
    with pytest.raises(ArgumentError, match="`step_size` is at least 0"):
        pgd(step_size=-0.1)
    with pytest.raises(ArgumentError, match="need `keep_best`; got 2 restarts without it"):
        pgd(restarts=2, keep_best=False)


def test_gradients_that_vanish_or_are_not_finite_are_counted(images):
    def objective(logits: torch.Tensor) -> torch.Tensor:
        root = logits[:, :1].sqrt()  # an infinite slope at 0; the second pixel has a finite one there
        return (root + logits[:, 1:2]).sum(1)

    view = nn.Flatten()
    pixels = images.clone()
    pixels[0, 0, 0, 0] = 0.0
    pixels[1:, 0, 0, 0] = 0.5
    probe = Probe(view, pixels, objective, precision="float32", keep_best=False)
    _, gradient = probe.gradient(pixels)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient[0].abs().max()) > 0
    assert (probe.cost.gradients, probe.cost.vanished_gradients) == (BATCH, 1)
