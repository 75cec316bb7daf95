"""Perturbations that are carried from epoch to epoch, on linear models: every step is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saat.attacks.gradient import PGD
from saat.attacks.threat import ThreatModel
from saat.data.loading import draw_crop_flip
from saat.defenses.inner import CarriedInnerAttack, InnerAttack
from saat.runtime import make_generator
from saat.types import Batch, CropFlip

EPSILON = 0.127  # a level of a stored perturbation is 0.001
STEP = 0.02
SIZE = 4


class Weighted(nn.Module):
    """One logit: the sum of the pixels times a weight each, (3, S, S)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).flatten(1).sum(1, keepdim=True)


def carried(items: int, *, steps: int = 1, epsilon: float = EPSILON, random_start: bool = False) -> CarriedInnerAttack:
    threat = ThreatModel("linf", epsilon)
    attack = PGD(threat, steps=steps, step_size=STEP, random_start=random_start, keep_best=False)
    return CarriedInnerAttack(attack, items=items, image_size=SIZE)


def upward(logits: Tensor) -> Tensor:
    """The attacker raises the logit."""
    return -logits[:, 0]


def drawn(*moves: tuple[int, int, bool]) -> CropFlip:
    return CropFlip(torch.tensor([move[:2] for move in moves]), torch.tensor([move[2] for move in moves]))


def batch(images: Tensor, rows: list[int], augmentation: CropFlip | None = None) -> Batch:
    shown = images[rows] if augmentation is None else augmentation.apply(images[rows])
    return Batch(shown, torch.ones(len(rows), 1), torch.tensor(rows), augmentation)


def gray(items: int) -> Tensor:
    return torch.full((items, 3, SIZE, SIZE), 0.5)


def steps_of(change: Tensor) -> list[list[int]]:
    """Return one channel of a perturbation in steps, which must be whole ones."""
    counts = change[0] / STEP
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    return counts.round().int().tolist()


def test_a_second_epoch_begins_where_the_first_ended():
    inner, images, model = carried(3), gray(3), Weighted(torch.ones(3, SIZE, SIZE))
    for epoch, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0]), start=1):
        for rows in (order[:2], order[2:]):
            found = inner(model, batch(images, rows), upward)
            assert torch.allclose(found, images[rows] + epoch * STEP)
    for _ in range(7):
        found = inner(model, batch(images, [0, 1, 2]), upward)
    assert torch.allclose(found, images + EPSILON)  # 10 steps of 0.02 would leave the ball
    assert inner.perturbations.unique().tolist() == [127]


def test_the_first_epoch_is_as_without_carrying():
    images, model = gray(2), Weighted(torch.randn(3, SIZE, SIZE, generator=make_generator(0)))
    carrying = carried(2, random_start=True)
    plain = InnerAttack(PGD(ThreatModel("linf", EPSILON), steps=1, step_size=STEP, keep_best=False))
    first = [inner(model, batch(images, [0, 1]), upward) for inner in (carrying, plain)]
    assert torch.equal(*first)
    second = [inner(model, batch(images, [0, 1]), upward) for inner in (carrying, plain)]
    moved = first[0] + STEP * model.weight.sign()
    assert torch.allclose(second[0], carrying.attack.threat.project(moved, images), atol=0.0005)
    assert not torch.allclose(second[1], second[0], atol=0.05)


def test_a_flipped_image_gets_the_flipped_perturbation():
    """Up on the left half, down on the right half; flipped, the same pixels of the image go the other way."""
    weight = torch.ones(3, SIZE, SIZE)
    weight[:, :, 2:] = -1.0
    inner, images, model = carried(1), gray(1), Weighted(weight)
    flip = drawn((0, 0, True))
    found = inner(model, batch(images, [0]), upward)
    assert steps_of((found - images)[0]) == [[1, 1, -1, -1]] * 4
    found = inner(model, batch(images, [0], flip), upward)
    assert steps_of((found - images)[0]) == [[0, 0, 0, 0]] * 4  # begins at -1, -1, 1, 1
    found = inner(model, batch(images, [0], flip), upward)
    assert steps_of((found - images)[0]) == [[1, 1, -1, -1]] * 4
    assert inner.perturbations[0, 0, 0].tolist() == [-20, -20, 20, 20]  # of the stored image


def test_a_crop_moves_the_perturbation_along():
    """Every pixel that is shown goes up by a step, so each stored perturbation counts how often it was shown."""
    inner, images, model = carried(2), gray(2), Weighted(torch.ones(3, SIZE, SIZE))
    first = drawn((1, 0, False), (0, 0, False))  # image 0: its rows 1 to 3, and a row of padding
    found = inner(model, batch(images, [0, 1], first), upward) - images
    assert steps_of(found[0]) == steps_of(found[1]) == [[1] * 4] * 4
    assert inner.perturbations[0, 0].tolist() == [[0] * 4] + [[20] * 4] * 3
    second = drawn((0, 0, False), (0, 2, True))  # of image 0 (its place in the batch is 1) columns 3, 2 and padding
    found = inner(model, batch(images, [1, 0], second), upward) - images
    assert steps_of(found[0]) == [[2] * 4] * 4
    assert steps_of(found[1]) == [[1, 1, 1, 1]] + [[1, 1, 2, 2]] * 3  # flipped: the padding is on the left
    assert inner.perturbations[1, 0].tolist() == [[40] * 4] * 4
    assert inner.perturbations[0, 0].tolist() == [[0, 0, 20, 20]] + [[20, 20, 40, 40]] * 3


@given(
    seed=st.integers(0, 2**31),
    epsilon=st.sampled_from([0.0, 1e-7, 2 / 255, 8 / 255, 0.3, 1.0]),
    steps=st.integers(1, 3),
    extreme=st.booleans(),
)
@settings(max_examples=40)
def test_no_epoch_leaves_the_ball_or_the_range(seed, epsilon, steps, extreme):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 3, SIZE, SIZE, generator=generator)
    images = images.round() if extreme else images
    inner = carried(3, steps=steps, epsilon=epsilon, random_start=True)
    for _ in range(4):
        model = Weighted(torch.randn(3, SIZE, SIZE, generator=generator))
        augmentation = CropFlip(
            torch.randint(-2, 3, (3, 2), generator=generator), torch.rand(3, generator=generator) < 0.5
        )
        shown = batch(images, torch.randperm(3, generator=generator).tolist(), augmentation)
        found = inner(model, shown, upward)
        assert 0.0 <= found.min() <= found.max() <= 1.0
        assert (found - shown.images).abs().max() <= epsilon + 1e-6
        kept = augmentation.follow(inner.perturbations[shown.indices]) * max(epsilon, 1e-12) / 127
        ours = augmentation.follow(torch.ones_like(found)) > 0
        assert ((kept - (found - shown.images))[ours].abs() <= 0.5 * epsilon / 127 + 2e-6).all()


def test_a_black_image_that_cannot_move_keeps_its_place():
    """Its perturbation is zero in the second epoch too: not a sign that it has none, which would be a random start."""
    inner, model = carried(2, random_start=True), Weighted(torch.ones(3, SIZE, SIZE))
    images = torch.stack([torch.zeros(3, SIZE, SIZE), torch.full((3, SIZE, SIZE), 0.5)])
    down = lambda logits: logits[:, 0]  # noqa: E731
    for _ in range(13):  # 13 steps of 20 levels cross the ball
        inner(model, batch(images, [0, 1]), down)
    assert not bool(inner.perturbations[0].any())
    assert inner.perturbations[1].unique().tolist() == [-127]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_saved_state_goes_on_to_the_same_bits(stop, tmp_path):
    images = torch.rand(6, 3, SIZE, SIZE, generator=make_generator(1))
    model = Weighted(torch.randn(3, SIZE, SIZE, generator=make_generator(2)))

    def epoch(inner: CarriedInnerAttack, number: int) -> list[Tensor]:
        generator = make_generator("order", number)
        order = torch.randperm(6, generator=generator).tolist()
        parts = [(order[:4], draw_crop_flip(4, 8, generator=generator)), (order[4:], None)]
        return [inner(model, batch(images, rows, augmentation), upward) for rows, augmentation in parts]

    whole, stopped = carried(6, random_start=True), carried(6, random_start=True)
    everything = [epoch(whole, number) for number in range(4)]
    for number in range(stop):
        epoch(stopped, number)
    torch.save(stopped.state_dict(), tmp_path / "inner.pt")
    resumed = carried(6, random_start=True)
    resumed.load_state_dict(torch.load(tmp_path / "inner.pt", weights_only=True))
    for number in range(stop, 4):
        for ours, theirs in zip(epoch(resumed, number), everything[number], strict=True):
            assert torch.equal(ours, theirs)


def test_the_state_is_as_large_as_documented():
    state = CarriedInnerAttack(PGD(ThreatModel("linf", EPSILON)), items=5, image_size=32).state_dict()
    size = sum(value.nbytes for name, value in state.items() if name != "calls")
    assert size == 5 * 3073
