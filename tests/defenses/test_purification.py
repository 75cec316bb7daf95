"""Purifiers: what each does by hand, what all promise, and an attacker who gets through them."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from saat.attacks.autopgd import APGD
from saat.attacks.base import Probe
from saat.attacks.goals import OwnCodeGoal
from saat.attacks.threat import ThreatModel
from saat.attacks.views import BpdaView, EotView
from saat.defenses.comdefend import CHANNELS, ComDefend, fit_comdefend
from saat.defenses.purification import PURIFIERS, PurifiedModel, PurifierOptions
from saat.defenses.purifiers import BitDepth, Jpeg, Purifier, ResizePad, TotalVariation, resize_and_place
from saat.errors import ArgumentError
from saat.hamming import sign_codes
from saat.models.hash_model import HashModel, encode_logits
from saat.runtime import make_generator

BITS = 16
BUILT: dict[str, Callable[[], Purifier]] = {
    "bit-depth": lambda: BitDepth(3),
    "jpeg": Jpeg,
    "resize-pad": lambda: ResizePad(seed=4),
    "total-variation": TotalVariation,
    "comdefend": lambda: ComDefend(width=1).requires_grad_(False),
}
WITH_GRADIENT = ("resize-pad", "total-variation")


def pictures(count: int = 6, side: int = 16) -> Tensor:
    """Smooth images with some noise, in whole gray levels."""
    generator = make_generator("pictures")
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, side, mode="bilinear")
    noise = 0.04 * torch.randn(smooth.shape, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).round() / 255


def linear_model(side: int = 16) -> HashModel:
    weight = torch.randn(BITS, 3 * side * side, generator=make_generator("weights")) / side
    layer = nn.Linear(3 * side * side, BITS)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(-0.5 * weight.sum(1))
    return HashModel(nn.Flatten(), layer, code_length=BITS, mean=(0.0,) * 3, std=(1.0,) * 3).eval()


@pytest.mark.parametrize("name", BUILT)
def test_every_purifier_keeps_its_promises(name: str) -> None:
    torch.manual_seed(0)
    purifier, images = BUILT[name](), pictures()
    kept, state = images.clone(), torch.get_rng_state()
    purified = purifier(images)
    assert (purified.shape, purified.dtype) == (images.shape, torch.float32)
    assert 0 <= float(purified.min()) <= float(purified.max()) <= 1
    assert not torch.equal(purified, images)
    assert torch.equal(images, kept)
    assert torch.equal(purifier(images), purified)
    assert torch.allclose(purifier(images[2:4]), purified[2:4], atol=1e-6)  # whatever the batch
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(purifier(channels_last), purified, atol=1e-6)
    assert purifier(images[:0]).shape == (0, 3, 16, 16)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", BUILT)
def test_a_gradient_only_where_there_is_one_but_always_through_the_view(name: str) -> None:
    torch.manual_seed(0)
    purifier, model, images = BUILT[name](), linear_model(), pictures()
    own = images.clone().requires_grad_()
    purified = purifier(own).sum()
    if purified.requires_grad:
        (gradient,) = torch.autograd.grad(purified, own)
        assert bool((gradient.flatten(1) != 0).any(1).all()) == (name in WITH_GRADIENT)
    else:
        assert name not in WITH_GRADIENT
    behind = PurifiedModel(model, purifier)
    view = behind.attack_view()
    (gradient,) = torch.autograd.grad(view(own).square().sum(), own)
    assert bool((gradient.flatten(1) != 0).any(1).all())
    assert bool(torch.isfinite(gradient).all())
    if name != "resize-pad":
        assert torch.equal(view(images), behind(images))


def test_bits_and_levels_by_hand() -> None:
    pixels = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.9]).expand(1, 3, 1, 5)  # times 3: 0, 0.3, 0.6, 1.5, 2.7
    expected = torch.tensor([0.0, 0.0, 1 / 3, 2 / 3, 1.0]).expand(1, 3, 1, 5)
    assert torch.allclose(BitDepth(2)(pixels), expected)
    whole = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    assert torch.allclose(BitDepth(8)(whole), whole)
    assert len(BitDepth(4)(whole).unique()) == 16


def test_jpeg_is_that_of_pillow_and_coarser_at_lower_quality() -> None:
    images = pictures(2)
    file = io.BytesIO()
    pixels = (images[1] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    decoded = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(Jpeg(75)(images)[1], decoded)
    gray = torch.full((1, 3, 16, 16), 128 / 255)
    assert torch.allclose(Jpeg(75)(gray), gray, atol=1.5 / 255)
    errors = [float((Jpeg(quality)(images) - images).abs().mean()) for quality in (90, 50, 10)]
    assert errors == sorted(errors)


def test_a_place_by_hand() -> None:
    # m = max(1, 10 // 10) = 1: a first draw of 0.6 loses one row and column; then 0.9 begins at row 1, 0.1 at column 0.
    ones = torch.ones(2, 3, 10, 10)
    placed = resize_and_place(ones, torch.tensor([[0.6, 0.9, 0.1], [0.4, 0.9, 0.9]]))
    # Row 0 is half an output pixel outside the shrunk image, 10/9 / 2 - 1/2 = 0.0556 of a source pixel plus the half:
    # the source row is (0 - 1 + 0.5) 10/9 - 0.5 = -1.0556, beyond the first by more than one: black.
    assert torch.allclose(placed[0, :, 1:, :9], torch.ones(3, 9, 9), atol=1e-5)
    assert torch.allclose(placed[0, :, 0], torch.zeros(3, 10), atol=1e-5)
    assert torch.allclose(placed[0, :, :, 9], torch.zeros(3, 10), atol=1e-5)
    assert torch.allclose(placed[1], ones[1], atol=1e-5)  # nothing lost, nowhere to go
    ramp = torch.arange(10.0).view(1, 1, 1, 10).expand(1, 3, 10, 10) / 10
    moved = resize_and_place(ramp, torch.tensor([[0.6, 0.0, 0.0]]))
    # Column j looks at (j + 0.5) 10/9 - 0.5 of the ramp: 0.05556, 1.16667, ...
    expected = ((torch.arange(9.0) + 0.5) * 10 / 9 - 0.5) / 10
    assert torch.allclose(moved[0, 0, 4, :9], expected, atol=1e-5)


def test_places_are_as_exact_where_a_search_computes_in_bfloat16() -> None:
    images, draws = torch.rand(4, 3, 64, 64), torch.rand(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_and_place(images, draws), resize_and_place(images, draws).float())
        inside = resize_and_place(images, draws)
    assert torch.equal(inside, resize_and_place(images, draws))


def test_a_purified_model_lies_where_its_model_does() -> None:
    model = HashModel(nn.Flatten(), nn.Linear(12, 8), code_length=8).to("meta")
    assert {buffer.device.type for buffer in PurifiedModel(model, Jpeg()).buffers()} == {"meta"}


def test_draws_follow_from_seed_and_image_and_are_not_those_of_the_attacker() -> None:
    images = pictures(8, side=32)
    once, again, other = ResizePad(seed=1)(images), ResizePad(seed=1)(images), ResizePad(seed=2)(images)
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)
    same = images[:1].expand(4, -1, -1, -1)
    assert torch.equal(ResizePad()(same)[0], ResizePad()(same)[3])
    drawn = ResizePad().draw(same, make_generator(0))
    assert len({tuple(image.flatten().tolist()) for image in drawn}) > 1  # each its own
    view = PurifiedModel(linear_model(32), ResizePad(samples=3)).attack_view()
    assert isinstance(view, EotView)
    assert view.samples == 3
    assert not torch.equal(view(images), view(images))


def test_one_step_of_total_variation_by_hand() -> None:
    image = torch.tensor([0.2, 0.5]).expand(1, 3, 1, 2)
    # dx = 0.3, length = sqrt(0.09 + 0.16) = 0.5, dx / length = 0.6; step 1 / (1 + 8 * 0.1 / 0.4) = 1/3:
    # the pixels approach each other by 0.1 * 0.6 / 3 = 0.02.
    purifier = TotalVariation(weight=0.1, steps=1, smoothing=0.4)
    assert torch.allclose(purifier(image), torch.tensor([0.22, 0.48]).expand(1, 3, 1, 2))
    down = purifier(image.transpose(2, 3))
    assert torch.allclose(down, torch.tensor([0.22, 0.48]).view(2, 1).expand(1, 3, 2, 1))


def test_total_variation_descends_and_keeps_flat_images() -> None:
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(TotalVariation()(flat), flat)
    images = pictures().double()

    def energy(smooth: Tensor) -> float:
        across, down = smooth.diff(dim=3, append=smooth[..., -1:]), smooth.diff(dim=2, append=smooth[..., -1:, :])
        variation = torch.sqrt(across.square() + down.square() + 0.05**2).sum()
        return float((smooth - images).square().sum() / 2 + 0.05 * variation)

    energies = [energy(images)] + [energy(TotalVariation(steps=steps)(images)) for steps in (1, 2, 5, 10)]
    assert energies == sorted(energies, reverse=True)
    assert torch.autograd.gradcheck(TotalVariation(steps=2), (images[:1, :, :4, :4].clone().requires_grad_(),))


def test_comdefend_has_the_layers_of_the_paper() -> None:
    net = ComDefend()
    encoder, decoder = (
        [(layer.in_channels, layer.out_channels) for layer in part if isinstance(layer, nn.Conv2d)]
        for part in (net.encoder, net.decoder)
    )
    assert encoder == [(3, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 128), (128, 64), (64, 32), (32, 12)]
    assert decoder == [(12, 32), (32, 64), (64, 128), (128, 256), (256, 128), (128, 64), (64, 32), (32, 16), (16, 3)]


def test_comdefend_learns_and_passes_on_nothing_but_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saat.defenses.comdefend.NOISE", 2.0)  # learns in fewer steps
    images = pictures(48)
    state = torch.get_rng_state()
    fit = partial(fit_comdefend, batch_size=16, width=2, learning_rate=3e-3, quiet=True)
    short, longer = (fit(images, epochs=epochs) for epochs in (1, 40))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not weight.requires_grad for weight in longer.parameters())
    errors = [float((net(images) - images).square().mean()) for net in (short, longer)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[1] < 0.8 * float((images - images.mean()).square().mean())  # than one gray for all
    code = longer.binary_code(images)
    assert (code.dtype, code.shape) == (torch.bool, (48, CHANNELS, 16, 16))
    assert 0.02 < float(code.float().mean()) < 0.98
    again = fit((images * 255).round().to(torch.uint8), epochs=1)
    assert torch.allclose(again(images), short(images), atol=1e-4)


@pytest.mark.parametrize("purifier", [Jpeg(75), BitDepth(3)], ids=["jpeg", "bit-depth"])
def test_bpda_gets_through_where_plain_gradients_vanish(purifier: Purifier) -> None:
    images = pictures(8)
    behind = PurifiedModel(linear_model(), purifier)
    assert isinstance(behind.attack_view(), BpdaView)
    clean = sign_codes(behind(images).detach())
    flips = {}
    for name, seen in (("plain", behind), ("view", behind.attack_view())):
        objective = OwnCodeGoal()(seen, images, torch.zeros(8, 1))
        probe = Probe(seen, images, objective, precision="float32", keep_best=True)
        probe.gradient(images)
        assert probe.cost.vanished_gradients == (8 if name == "plain" else 0)
        found = APGD(ThreatModel("linf", 8 / 255), steps=12)(seen, images, objective)
        flips[name] = float((sign_codes(encode_logits(behind, found, quiet=True)) != clean).float().mean())
    assert flips["view"] > flips["plain"] + 0.15, flips


def test_the_purified_model_is_a_hash_model_of_purified_images() -> None:
    model, images = linear_model(), pictures()
    behind = PurifiedModel(model, BitDepth(2))
    assert behind.code_length == BITS
    assert torch.equal(behind(images), model(BitDepth(2)(images)))
    assert torch.equal(behind.encode(images), model.encode(BitDepth(2)(images)))


def test_purifiers_by_name() -> None:
    options = PurifierOptions(
        images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8), seed=3, device=torch.device("cpu"), quiet=True
    )
    assert PURIFIERS["jpeg"](options).quality == 75
    assert PURIFIERS["bit-depth"](options).levels == 15
    assert PURIFIERS["resize-pad"](options).seed == 3
    assert isinstance(PURIFIERS["total-variation"](options), TotalVariation)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BitDepth(0), "`bits` is 1 to 8, as images have 8; got 0"),
        (lambda: Jpeg(100), "`quality` is 1 to 95, as in libjpeg; got 100"),
        (lambda: TotalVariation(steps=0), "`steps` is at least 1; got 0"),
        (lambda: TotalVariation(weight=0.0), "`weight` is above 0; got 0.0"),
        (lambda: ComDefend(width=0), "`width` is at least 1; got 0"),
        (lambda: fit_comdefend(torch.zeros(0, 3, 8, 8)), "`images` holds at least one image to learn from; got none"),
        (lambda: fit_comdefend(torch.zeros(1, 3, 8, 8), epochs=0), "`epochs` is at least 1; got 0"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message.replace("(", r"\(")):
        make()
