import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saat.attacks.goals import OwnCodeGoal
from saat.attacks.gradient import PGD
from saat.attacks.threat import PatchThreat, ThreatModel
from saat.errors import ArgumentError

QUARTER = PatchThreat(share=0.25)  # of 8 x 8: rows and columns 2 to 5


def pixels(seed: int, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def corners(threat: PatchThreat, height: int = 8, width: int = 8) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the patch, the last two past the end; it is a full rectangle."""
    region = threat.region(torch.zeros(1, 3, height, width))
    assert region.shape == (1, 1, height, width)
    places = region[0, 0].nonzero()
    (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    assert len(places) == (bottom - top) * (right - left)
    return top, left, bottom, right


def test_places_worked_by_hand():
    assert corners(QUARTER) == (2, 2, 6, 6)  # half of 8 is 4, and 4 are left over
    assert corners(PatchThreat(share=0.25, row=0.0, column=0.0)) == (0, 0, 4, 4)
    assert corners(PatchThreat(share=0.25, row=1.0, column=0.25)) == (4, 1, 8, 5)
    assert corners(PatchThreat(share=1.0)) == (0, 0, 8, 8)
    assert corners(PatchThreat(share=1e-6, row=0.0, column=1.0)) == (0, 7, 1, 8)  # at least one pixel
    assert corners(PatchThreat(share=0.05), 224, 224) == (87, 87, 137, 137)  # 224 * 0.2236 = 50.09
    assert corners(PatchThreat(share=0.5), 4, 8) == (0, 2, 4, 6)  # 16 of 32 places
    assert corners(PatchThreat(share=1.0), 4, 8) == (0, 2, 4, 6)  # at most the shorter side


def test_projection_sizes_and_violations_worked_by_hand():
    clean = torch.full((2, 3, 8, 8), 0.5)
    moved = clean.clone()
    moved[0, :, 2, 2] = 1.7  # inside the patch, over the box
    moved[0, 1, 0, 0] = 0.75  # outside the patch
    moved[1, 2, 5, 5] = -0.25
    assert QUARTER.size(moved, clean).tolist() == [2 / 64, 1 / 64]
    assert QUARTER.violation(moved, clean).tolist() == pytest.approx([0.7, 0.25])
    near = QUARTER.project(moved, clean)
    assert near[0, :, 2, 2].tolist() == [1.0] * 3
    assert near[0, 1, 0, 0].item() == 0.5
    assert near[1, 2, 5, 5].item() == 0.0
    assert QUARTER.violation(near, clean).tolist() == [0.0, 0.0]
    moved[0, 1, 0, 0] += 1.0
    assert QUARTER.violation(moved, clean).tolist() == pytest.approx([1.25, 0.25])


@settings(max_examples=40)
@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10_000), st.floats(0, 10))
def test_projection_ends_inside_and_moves_nothing_that_is_inside(share, row, column, seed, scale):
    threat, clean = PatchThreat(share=share, row=row, column=column), pixels(seed)
    near = threat.project(clean + scale * (pixels(seed + 1) - 0.5), clean)
    assert threat.violation(near, clean).tolist() == [0.0] * 3
    assert torch.equal(threat.project(near, clean), near)
    outside = ~threat.region(clean).expand_as(clean)
    assert torch.equal(near[outside], clean[outside])


def test_random_starts_fill_the_patch_and_follow_the_seed():
    clean = torch.zeros(500, 3, 8, 8)
    starts = [QUARTER.random_start(clean, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    content = starts[0][:, :, 2:6, 2:6]
    assert content.mean().item() == pytest.approx(0.5, abs=0.01)
    assert content.var().item() == pytest.approx(1 / 12, rel=0.02)
    assert not torch.equal(content[0], content[1])
    assert float(starts[0].sum()) == pytest.approx(float(content.sum()), rel=1e-4)  # nothing outside


def test_steps_changes_and_bounds():
    clean, gradient = pixels(0), pixels(1) - 0.5
    assert torch.allclose(QUARTER.descend(clean, gradient, 0.25), clean - 0.25 * gradient.sign())
    content = torch.full((1, 3, 8, 8), 0.25)
    assert torch.equal(QUARTER.bound(torch.tensor([-1.0, 0.5, 2.0])), torch.tensor([0.0, 0.5, 1.0]))
    applied = QUARTER.apply(content, clean)
    assert torch.equal(applied[:, :, 2:6, 2:6], torch.full((3, 3, 4, 4), 0.25))
    assert torch.equal(QUARTER.project(clean, applied)[:, :, 2:6, 2:6], clean[:, :, 2:6, 2:6])


@pytest.mark.parametrize("threat", [ThreatModel("linf", 0.1), ThreatModel("l2", 0.5)], ids=str)
def test_bounded_differences_are_those_of_the_projection(threat):
    gray, change = torch.full((3, 3, 8, 8), 0.5), 0.4 * (pixels(2) - 0.5)
    bounded = threat.bound(change)
    assert torch.allclose(threat.apply(bounded, gray), threat.project(gray + change, gray), atol=1e-6)
    assert torch.allclose(threat.bound(bounded), bounded, atol=1e-7)
    assert float(threat.apply(bounded, torch.ones_like(gray)).max()) == 1.0


@pytest.mark.parametrize("random_start", [True, False])
def test_descent_fills_a_patch_and_touches_nothing_else(random_start):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16)).eval()
    images = pixels(3)
    aim = OwnCodeGoal()(model, images, torch.empty(0))
    found = PGD(QUARTER, steps=20, step_size=0.1, random_start=random_start)(model, images, aim)
    outside = ~QUARTER.region(images).expand_as(images)
    assert torch.equal(found[outside], images[outside])
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float((found - images).abs().max()) > 0.5  # free inside
    assert bool((aim(model(found)) < aim(model(images)) - 0.2).all())


def test_errors_name_what_was_found():
    for share in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ArgumentError, match=f"`share` is a share .* got {share}"):
            PatchThreat(share=share)
    with pytest.raises(ArgumentError, match=r"`row` is a place from 0 to 1; got 2\.0"):
        PatchThreat(row=2.0)
    with pytest.raises(ArgumentError, match=r"`column` is a place from 0 to 1; got -1\.0"):
        PatchThreat(column=-1.0)
