import json
import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from saat.errors import ArgumentError
from saat.evaluation import image_quality
from saat.evaluation.image_quality import l2, linf, psnr, ssim, summarize_change


def pictures(batch: int, height: int, width: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures, and the same with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 5, 5, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1), clean


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("sides", [(32, 32), (11, 40), (48, 23)])
def test_structural_similarity_agrees_with_torchmetrics(noise, sides):
    perturbed, clean = pictures(4, *sides, noise)
    # It pads by reflection; the places 5 pixels from the edge and more are those where a whole window fits.
    _, places = structural_similarity_index_measure(
        perturbed.double(), clean.double(), sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    theirs = places[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ssim(perturbed, clean).tolist() == pytest.approx(theirs.tolist(), abs=1e-6)
    assert ssim(perturbed, clean).dtype == torch.float32


def test_structural_similarity_of_one_window_by_the_formula():
    perturbed, clean = pictures(1, 11, 11, 0.2)
    steps = [math.exp(-((place - 5) ** 2) / 4.5) for place in range(11)]
    weights = torch.tensor([[a * b for b in steps] for a in steps], dtype=torch.float64) / sum(steps) ** 2
    total = 0.0
    for x, y in zip(perturbed[0].double(), clean[0].double(), strict=True):
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        variance_x, variance_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
        covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
        contrast = (2 * covariance + 0.0009) / (variance_x + variance_y + 0.0009)
        total += (contrast * (2 * mean_x * mean_y + 0.0001) / (mean_x**2 + mean_y**2 + 0.0001)).item()
    assert ssim(perturbed, clean).item() == pytest.approx(total / 3, abs=1e-6)


def test_equal_images_are_fully_similar_and_infinitely_clean():
    _, clean = pictures(3, 16, 16, 0.0)
    assert ssim(clean, clean).tolist() == [1.0] * 3
    assert psnr(clean, clean).tolist() == [math.inf] * 3
    assert linf(clean, clean).tolist() == l2(clean, clean).tolist() == [0.0] * 3


def test_lengths_and_ratios_worked_by_hand():
    clean = torch.full((2, 3, 4, 4), 0.5)
    perturbed = clean.clone()
    perturbed[0, 1, 2, 3] += 0.3
    perturbed[0, 0, 0, 0] -= 0.4
    perturbed[1] += 0.1
    assert linf(perturbed, clean).tolist() == pytest.approx([0.4, 0.1])
    assert l2(perturbed, clean).tolist() == pytest.approx([0.5, 0.1 * math.sqrt(48)])
    # Mean squares: 0.25 / 48 and 0.01.
    assert psnr(perturbed, clean).tolist() == pytest.approx([10 * math.log10(192), 20.0], rel=1e-5)


def test_similarity_is_symmetric_and_falls_with_noise():
    values = []
    for noise in (0.02, 0.1, 0.3):
        perturbed, clean = pictures(2, 24, 24, noise)
        values.append(ssim(perturbed, clean).mean().item())
        assert torch.allclose(ssim(perturbed, clean), ssim(clean, perturbed))
    assert 1 > values[0] > values[1] > values[2] > -1


def test_blocks_do_not_change_the_similarity(monkeypatch):
    perturbed, clean = pictures(7, 16, 16, 0.1)
    once = ssim(perturbed, clean)
    monkeypatch.setattr(image_quality, "_BLOCK_VALUES", 2 * 3 * 16 * 16)
    assert torch.equal(ssim(perturbed, clean), once)
    assert ssim(perturbed[:0], clean[:0]).shape == (0,)


def test_a_summary_is_of_means_and_leaves_unchanged_images_out_of_the_ratio():
    perturbed, clean = pictures(4, 16, 16, 0.1)
    perturbed[2] = clean[2]
    summary = summarize_change(perturbed, clean)
    changed = [0, 1, 3]
    assert summary["psnr"] == pytest.approx(psnr(perturbed[changed], clean[changed]).mean().item())
    assert summary["linf"] == pytest.approx(linf(perturbed, clean).mean().item())
    assert summary["linf_maximum"] == linf(perturbed, clean).max().item() > summary["linf"]
    assert summary["l2"] == pytest.approx(l2(perturbed, clean).mean().item())
    assert summary["ssim"] == pytest.approx(ssim(perturbed, clean).mean().item())
    assert len(json.dumps(summary, allow_nan=False)) < 200
    assert summarize_change(clean, clean)["psnr"] == math.inf
    small = summarize_change(perturbed[..., :10], clean[..., :10])
    assert math.isnan(small["ssim"])
    assert small["l2"] > 0


def test_images_that_do_not_fit_are_named():
    images = torch.zeros(2, 3, 16, 16)
    for measure in (linf, l2, psnr, ssim, summarize_change):
        with pytest.raises(ArgumentError, match=r"both of shape \(B, 3, H, W\); got \(2, 3, 16, 16\) and \(1, 3"):
            measure(images, images[:1])
    with pytest.raises(ArgumentError, match="at least 11 pixels; got 16 x 10"):
        ssim(images[..., :10], images[..., :10])
    with pytest.raises(ArgumentError, match="an image at least; got none"):
        summarize_change(images[:0], images[:0])
