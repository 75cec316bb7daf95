"""Every switch against a value worked by hand on a linear model."""

import pytest
import torch
from recording import THREATS, WIDE, Recorder, sloped

from saat.attacks.threat import ThreatModel
from saat.attacks.transfer import TransferPGD, blur_gradient, shrink, shrink_randomly
from saat.errors import ArgumentError
from saat.runtime import make_generator
from saat.types import CodeObjective


def first_pixel(objective: CodeObjective, *, threat: ThreatModel = WIDE, **options: object) -> float:
    """Where the last iterate has the first pixel, from 0.5, in steps of 0.03."""
    attack = TransferPGD(threat, step_size=0.03, keep_best=False, **options)  # type: ignore[arg-type]
    found = attack(Recorder(3), torch.full((1, 3, 1, 1), 0.5), objective)
    assert found[0, 1:].flatten().tolist() == pytest.approx([0.5, 0.5])
    return found[0, 0].item()


# One pixel of three has a gradient, so that a gradient divided by its mean absolute value is +3 or -3 there.
@pytest.mark.parametrize(("momentum", "expected"), [(0.0, 0.47), (0.5, 0.47), (0.9, 0.41), (1.0, 0.41)])
def test_momentum_by_hand(momentum, expected):
    """0.50 -> 0.47 -> 0.44, where the gradient turns: v = 3, 3 + 3m, and then -3 + 3m + 3m^2 decides.

    That is -3, -0.75, 2.13 and 3 for the four values: back to 0.47, or on to 0.41.
    """
    turning = sloped(lambda pixel: (pixel - 0.455).sign())
    assert first_pixel(turning, steps=3, momentum=momentum) == pytest.approx(expected)


def test_gradients_are_normalized_before_they_are_summed():
    """Slopes 10, -1, -1: v = 3, 0, -3, so 0.47, 0.47, 0.50. The sums 10, 9, 8 would end at 0.41."""
    steep = sloped(lambda pixel: torch.where(pixel > 0.48, 10.0, -1.0))
    assert first_pixel(steep, steps=3) == pytest.approx(0.50)


def test_gradients_are_normalized_in_each_image():
    weights = torch.tensor([1.0, 1000.0])
    steep = sloped(lambda pixel: weights * torch.where(pixel > 0.48, 10.0, -1.0))
    attack = TransferPGD(WIDE, step_size=0.03, steps=3, keep_best=False)
    found = attack(Recorder(3), torch.full((2, 3, 1, 1), 0.5), steep)
    assert found[:, 0].flatten().tolist() == pytest.approx([0.5, 0.5])


def test_a_tiny_gradient_moves_images_and_a_zero_one_does_not():
    assert first_pixel(sloped(lambda pixel: pixel.sign() * 1e-30), steps=1) == pytest.approx(0.47)
    assert first_pixel(sloped(torch.zeros_like), steps=1) == pytest.approx(0.50)


def test_lookahead_by_hand():
    """After 0.47, v = 3 leads to 0.47 - 0.03 * 3 = 0.38, where the gradient has turned: v = 0, and 0.47 it stays."""
    turning = sloped(lambda pixel: (pixel - 0.42).sign())
    assert first_pixel(turning, steps=2, lookahead=True) == pytest.approx(0.47)
    assert first_pixel(turning, steps=2, lookahead=False) == pytest.approx(0.44)
    # with half the momentum, 0.47 - 0.5 * 0.03 * 3 = 0.425, which has not turned
    assert first_pixel(turning, steps=2, lookahead=True, momentum=0.5) == pytest.approx(0.44)


def test_lookahead_in_l2_is_one_step_away():
    """0.47, looks at 0.44, goes there, looks at 0.41, which has turned: v = 6 - 3, on to 0.41, looks at 0.38: v = 0."""
    turning = sloped(lambda pixel: (pixel - 0.42).sign())
    for steps, expected in ((1, 0.47), (2, 0.44), (3, 0.41), (4, 0.41)):
        threat = ThreatModel("l2", 0.25)
        assert first_pixel(turning, steps=steps, lookahead=True, threat=threat) == pytest.approx(expected)


@pytest.mark.parametrize(("below", "expected"), [(-1.5, 0.47), (-2.5, 0.53)])
def test_scale_copies_by_hand(below, expected):
    """Slope 1 at 0.5 and `below` at 0.25, where the chain rule halves it: 1 - 0.75 > 0, but 1 - 1.25 < 0."""
    turning = sloped(lambda pixel: torch.where(pixel > 0.3, 1.0, below))
    assert first_pixel(turning, steps=1, scale_copies=2) == pytest.approx(expected)
    assert first_pixel(turning, steps=1, scale_copies=1) == pytest.approx(0.47)


def test_scale_copies_never_compound():
    model = Recorder(3)
    attack = TransferPGD(WIDE, step_size=0.03, steps=2, scale_copies=3)
    attack(model, torch.full((1, 3, 1, 1), 0.5), sloped(torch.ones_like))
    shown = [images[0, 0].item() for images in model.seen]
    assert shown == pytest.approx([0.5, 0.25, 0.125, 0.47, 0.235, 0.1175, 0.44])


def test_variance_by_hand():
    """Slope 1 at 0.50 and 0.47, -0.5 elsewhere, so at almost every neighbor.

    v = 3, then the gradient 1 gets the variance -0.5 - 1: -0.5 < 0, so v = 3 - 3, and 0.47 it stays. Without, v = 6.
    """
    needle = sloped(lambda pixel: torch.where(((pixel - 0.485).abs() - 0.015).abs() < 1e-4, 1.0, -0.5))
    assert first_pixel(needle, steps=2, variance_samples=20) == pytest.approx(0.47)
    assert first_pixel(needle, steps=2) == pytest.approx(0.44)
    whole = ThreatModel("linf", 1.0)  # a radius of 1.5 is then no threat model of its own
    assert first_pixel(needle, steps=2, variance_samples=20, threat=whole) == pytest.approx(0.47)
    # no neighbors after the last step: nothing would use them
    attack = TransferPGD(WIDE, steps=3, variance_samples=20)
    attack(Recorder(3), torch.full((2, 3, 1, 1), 0.5), needle)
    assert (attack.cost.gradients, attack.cost.model_evaluations) == (2 * (3 + 2 * 20), 2 * (3 + 2 * 20 + 1))


@pytest.mark.parametrize("norm", THREATS)
def test_neighbors_lie_within_the_radius_and_all_that_is_shown_within_the_threat_model(norm):
    images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    threat, model = THREATS[norm], Recorder(108)
    objective = sloped(torch.ones_like)
    TransferPGD(threat, steps=2, step_size=0.0, variance_samples=30, variance_radius=0.5)(model, images, objective)
    sizes = torch.stack([threat.size(shown, images) for shown in model.seen[1:31]])
    assert 0.45 * threat.epsilon < float(sizes.max()) <= 0.5 * threat.epsilon + 1e-6
    model.seen.clear()
    options = {"step_size": threat.epsilon, "lookahead": True, "variance_samples": 5}
    TransferPGD(threat, steps=4, **options)(model, images, objective)
    assert not any(bool((threat.violation(shown, images) > 0).any()) for shown in model.seen)


def test_shrinking_by_hand():
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(2, 3, 1, 1).requires_grad_()
    number = torch.tensor
    found = shrink(image, heights=number([2, 4]), widths=number([3, 4]), tops=number([1, 0]), lefts=number([1, 0]))
    # rows 0 and 2, columns 0, 1 and 2: the pixels at 0, 4/3 and 8/3, rounded down
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 2], [0, 8, 9, 10], [0, 0, 0, 0]])
    assert torch.equal(found[0], expected.expand(3, 4, 4))
    assert torch.equal(found[1], image[1])
    found[0].sum().backward()
    assert image.grad is not None
    assert torch.equal(image.grad[0, 0], torch.isin(torch.arange(16), number([0, 1, 2, 8, 9, 10])).view(4, 4).float())


@pytest.mark.parametrize("size", [(32, 32), (70, 50), (5, 1)])
def test_random_shrinking_keeps_nine_tenths_and_pads_with_black(size):
    images = torch.ones(300, 3, *size)
    found = shrink_randomly(images, probability=1.0, generator=torch.Generator().manual_seed(0))
    for length, along in zip(size, (3, 2), strict=True):
        shown = found[:, 0].amax(along - 1)  # (B, length): 1 where there is some of the image
        sizes, starts = shown.sum(1), shown.argmax(1)
        smallest = max(1, int(0.9 * length))
        assert set(sizes.tolist()) <= set(range(smallest, length + 1))
        assert int(sizes.min()) == smallest
        assert int(starts.min()) == 0
        assert int((length - sizes - starts).min()) == 0
        assert int(starts.max()) > 0 or length == smallest
    assert torch.equal(shrink_randomly(images, probability=0.0, generator=torch.Generator()), images)
    if size == (32, 32):
        half = shrink_randomly(images, probability=0.5, generator=torch.Generator().manual_seed(0))
        changed = (half != images).flatten(1).any(1).float().mean().item()
        assert changed == pytest.approx(0.5, abs=0.1)


def test_diversity_moves_only_the_pixels_that_were_shown():
    images = torch.full((6, 3, 32, 32), 0.5)
    options = {"step_size": 0.03, "steps": 1, "keep_best": False}
    found = TransferPGD(WIDE, diversity=1.0, **options)(Recorder(3072), images, lambda logits: logits.sum(1), seed=4)
    moved = found < 0.49
    counts = moved[:, 0].any(2).sum(1), moved[:, 0].any(1).sum(1)  # rows, columns
    assert torch.equal(moved[:, 0].flatten(1).sum(1), counts[0] * counts[1])
    assert all(28 <= int(count) <= 31 for count in torch.cat(counts))
    # by the same draws: the gradient of the sum is how often a pixel is shown
    drawn = make_generator(4, "TransferPGD")
    probed = images.clone().requires_grad_()
    shrink_randomly(probed, probability=1.0, generator=drawn).sum().backward()
    assert torch.equal(moved, probed.grad > 0)


def test_the_kernel_by_hand():
    """One pixel's gradient spreads: exp(-4.5) = 0.011109, so 0.010868 beside 0.978265 along each side."""
    pixel = torch.zeros(1, 3, 5, 5)
    pixel[0, 1, 2, 2] = 1.0
    blurred = blur_gradient(pixel, kernel_size=3)
    side, middle = 0.0108675, 0.978265
    row = torch.tensor([0.0, side, middle, side, 0.0])
    assert torch.allclose(blurred[0, 1], torch.outer(row, row), atol=1e-6)
    assert not bool(blurred[0, [0, 2]].any())
    assert blur_gradient(pixel, kernel_size=5)[0, 1].sum().item() == pytest.approx(1.0)
    assert torch.equal(blur_gradient(pixel, kernel_size=1), pixel)
    assert blur_gradient(torch.ones(2, 3, 7, 9), kernel_size=15).shape == (2, 3, 7, 9)


def test_a_kernel_spreads_the_step():
    images, centre = torch.full((1, 3, 5, 5), 0.5), 12  # of the first channel
    objective = lambda logits: logits[:, centre]  # noqa: E731
    options = {"steps": 1, "step_size": 0.03, "keep_best": False}
    for kernel_size, pixels in ((1, 1), (3, 9), (5, 25)):
        found = TransferPGD(WIDE, kernel_size=kernel_size, **options)(Recorder(75), images, objective)
        assert int((found < 0.49).sum()) == pixels
    found = TransferPGD(ThreatModel("l2", 1.0), kernel_size=3, **options)(Recorder(75), images, objective)
    change = (found - images)[0, 0]
    assert (change[2, 1] / change[2, 2]).item() == pytest.approx(0.011109, rel=1e-2)
    assert torch.linalg.vector_norm(change).item() == pytest.approx(0.03)


def test_bad_options_are_named():
    for option, value, rule in (
        ("steps", 0, "is at least 1; got 0"),
        ("step_size", -0.1, "is at least 0.0; got -0.1"),
        ("momentum", -1.0, "is at least 0.0; got -1.0"),
        ("scale_copies", 0, "is at least 1; got 0"),
        ("variance_samples", -1, "is at least 0; got -1"),
        ("variance_radius", -1.0, "is at least 0.0; got -1.0"),
        ("diversity", 1.5, r"is a probability in \[0, 1\]; got 1.5"),
        ("kernel_size", 4, "is odd and at least 1; got 4"),
        ("kernel_size", -1, "is odd and at least 1; got -1"),
    ):
        with pytest.raises(ArgumentError, match=f"`{option}` {rule}"):
            TransferPGD(WIDE, **{option: value})
