import pytest
import torch

from saat.errors import ArgumentError
from saat.evaluation.corruptions import BLUR, CORRUPTIONS, NOISE, SEVERITIES, corrupt

GRAY = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
SCENE = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
SCENE = torch.nn.functional.interpolate(SCENE.float(), 32, mode="bilinear").round().to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_are_the_same_each_time(name):
    sizes = []
    for severity in SEVERITIES:
        found = corrupt(SCENE, name, severity=severity)
        assert (found.shape, found.dtype) == (SCENE.shape, torch.uint8)
        assert torch.equal(found, corrupt(SCENE, name, severity=severity))
        sizes.append((found.float() - SCENE.float()).abs().mean().item())
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_noise_has_the_deviation_it_says():
    for severity, deviation in NOISE.items():
        noise = (corrupt(GRAY, "noise", severity=severity).float() - 128.0) / 255.0
        assert noise.std().item() == pytest.approx(deviation, rel=0.03)
        assert abs(noise.mean().item()) < 0.003


def test_blur_spreads_a_line_by_its_variance():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[:, :, :, 16] = 255
    found = corrupt(image, "blur", severity=5).double()[0, 0, 16]
    places = torch.arange(32.0, dtype=torch.float64) - 16
    assert (found / found.sum() * places.square()).sum().item() == pytest.approx(BLUR[5] ** 2, rel=0.03)


def test_a_plain_image_comes_through_blur_and_jpeg():
    for name in ("blur", "jpeg"):
        assert torch.equal(corrupt(GRAY, name, severity=5), GRAY)
    assert len(corrupt(GRAY[:0], "jpeg", severity=1)) == 0


def test_unknown_corruptions_are_named():
    with pytest.raises(ArgumentError, match="did you mean 'noise'"):
        corrupt(GRAY, "noize", severity=1)
    with pytest.raises(ArgumentError, match="severity"):
        corrupt(GRAY, "noise", severity=2)
