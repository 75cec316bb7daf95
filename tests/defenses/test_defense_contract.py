"""What every defense promises. A new one is in the table as soon as it is in DEFENSES."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from saat.attacks.base import Probe
from saat.attacks.gradient import PGD
from saat.attacks.objectives import flips_objective
from saat.attacks.prototype import fit_prototypes
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.defenses.catalog import DEFENSES, DefenseOptions
from saat.defenses.inner import CarriedInnerAttack, InnerAttack
from saat.losses.catalog import build_loss
from saat.models.hash_model import HashModel
from saat.types import Batch

ITEMS, CODE_LENGTH = 12, 16
LABELS = torch.eye(3).repeat(4, 1)
SOME = LABELS * (torch.arange(ITEMS) % 2).view(-1, 1)  # even rows have no label
IMAGES = torch.rand(ITEMS, 3, 10, 10, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([3, 0, 7, 10])
EVEN = torch.tensor([2, 0, 8, 10])
LABEL_FREE = ("trades", "distill")
"""Defenses that learn from images without a label."""


@pytest.fixture
def model() -> HashModel:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
    network = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
    return HashModel(network, nn.Linear(32, CODE_LENGTH), code_length=CODE_LENGTH)


@pytest.fixture(autouse=True)
def small_prototype_net(monkeypatch):
    monkeypatch.setattr("saat.defenses.catalog.fit_prototypes", partial(fit_prototypes, widths=(8, 8), steps=3))


@pytest.fixture(params=DEFENSES)
def make(request) -> Callable[..., nn.Module]:
    def build(model: HashModel, *, labels: torch.Tensor = LABELS, seed: int = 0, carry: bool = False) -> nn.Module:
        attack = PGD(ThreatModel("linf", 8 / 255), steps=2, step_size=4 / 255, keep_best=False)
        inner = InnerAttack(attack, seed=seed)
        if carry:
            inner = CarriedInnerAttack(attack, items=ITEMS, image_size=10, seed=seed)
        options = DefenseOptions(
            model=model,
            loss=build_loss("dph", labels=labels, code_length=CODE_LENGTH),
            bank=CodeBank(model.encode(IMAGES), labels),
            inner=inner,
            make_objective=flips_objective,
            adversarial_weight=1.0,
            quantization_weight=1e-4,
            precision="float32",
            seed=seed,
            quiet=True,
        )
        return DEFENSES[request.param](options)

    build.name = request.param
    return build


def batch(labels: torch.Tensor = LABELS, rows: torch.Tensor = ROWS) -> Batch:
    return Batch(IMAGES[rows], labels[rows], rows)


def loss_of(step: nn.Module, model: nn.Module) -> float:
    torch.manual_seed(0)  # of dropout
    return step(model, batch()).loss.item()


def test_the_loss_is_finite_and_its_gradient_reaches_every_weight(make, model):
    output = make(model)(model.train(), batch())
    assert output.loss.shape == ()
    assert all(isinstance(value, float) for value in output.parts.values())
    output.loss.backward()
    weights = dict(model.named_parameters())
    del weights["backbone.0.bias"]  # batch normalization takes it off again
    assert all(bool(weight.grad.any()) and bool(torch.isfinite(weight.grad).all()) for weight in weights.values())


@pytest.mark.parametrize("rows", [ROWS, EVEN], ids=["some labeled", "none labeled"])
def test_rows_without_a_label_never_hurt(rows, make, model):
    output = make(model, labels=SOME)(model.train(), batch(SOME, rows))
    output.loss.backward()
    assert bool(torch.isfinite(output.loss))
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in model.parameters())
    learned = bool(model.hash_layer.weight.grad.any())
    assert learned == (rows is ROWS or make.name in LABEL_FREE)


def test_only_the_training_passes_move_the_batch_statistics(make, model):
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    step = make(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    step(model, batch())
    passes = 1 if make.name in ("pgd-at", "distill", "query-side") else 2  # the others see the clean images too
    assert int(model.backbone[1].num_batches_tracked) == passes
    assert modes == [module.training for module in model.modules()]
    assert all(weight.requires_grad for weight in model.parameters())
    weights = dict(model.named_parameters())
    assert all(torch.equal(weight, state[name]) for name, weight in weights.items())


def test_the_same_seed_has_the_same_loss_and_another_seed_another(make, model):
    losses = [loss_of(make(model, seed=seed), deepcopy(model).train()) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("carry", [False, True])
def test_a_saved_step_goes_on_as_if_nothing_had_happened(carry, make, model, tmp_path):
    step, later = make(model, carry=carry), deepcopy(model)
    with torch.no_grad():
        later.hash_layer.weight.add_(0.1)  # after some training; the model before it is that of the checkpoint
    first = loss_of(step, deepcopy(later))
    torch.save(step.state_dict(), tmp_path / "step.pt")
    again = make(model, carry=carry)
    again.load_state_dict(torch.load(tmp_path / "step.pt", weights_only=True))
    after = [loss_of(each, deepcopy(later)) for each in (step, again)]
    assert after[0] == after[1] != first


def test_a_carried_perturbation_is_that_of_its_image(make, model, monkeypatch):
    """In the second epoch every search begins where that of the first ended, in whatever order the images come."""
    seen: list[tuple[Tensor, Tensor]] = []
    search = PGD.perturb

    def spy(self: PGD, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        found = search(self, probe, images, generator=generator)
        seen.append((images if self.start is None else self.start, found))
        return found

    monkeypatch.setattr(PGD, "perturb", spy)
    step = make(model, labels=SOME, carry=True)
    for rows in (ROWS, ROWS.flip(0)):
        step(model.train(), batch(SOME, rows))
    (_, first), (start, second) = seen
    assert (start - first.flip(0)).abs().max() <= 0.5 * 8 / 255 / 127 + 1e-6
    assert not torch.equal(start, second)
    learned = range(4) if make.name in LABEL_FREE or make.name == "pgd-at" else (0, 2)  # rows 3 and 7 have a label
    assert step.inner.visited.nonzero().flatten().tolist() == sorted(ROWS[list(learned)].tolist())


def test_the_resume_state_holds_no_model(make, model):
    kept = sum(value.numel() for value in make(model).state_dict().values() if isinstance(value, torch.Tensor))
    assert kept < 1000  # memories of 12 items, 3 centers, 3 prototypes: the teacher's weights would be more
    assert kept < sum(weight.numel() for weight in model.parameters())
