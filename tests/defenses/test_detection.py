"""Detection: statistics by hand, calibration that holds on other images, and an attacker who knows the detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from saat.attacks.autopgd import APGD
from saat.attacks.goals import OwnCodeGoal, clean_logits_of
from saat.attacks.threat import ThreatModel
from saat.defenses.detection import NEAREST, TRANSFORMS, Detector, blur, fit_detector, shift, statistics
from saat.errors import ArgumentError, CheckpointError
from saat.hamming import relaxed_codes, sign_codes
from saat.models.hash_model import encode_logits
from saat.runtime import make_generator

CODES = torch.tensor([[1] * 8, [1] * 6 + [-1] * 2], dtype=torch.int8)


class Corner(nn.Module):
    """Eight logits: whether each of eight pixels of the first row is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * (images[:, 0, 4, 1:9] - 0.5)


class Smooth(nn.Module):
    """Sixteen logits from coarse shapes, with some weight on fine detail, which is what attacks use."""

    def __init__(self) -> None:
        super().__init__()
        generator = make_generator("smooth")
        coarse = torch.randn(16, 3, 4, 4, generator=generator)
        fine = torch.randn(16, 3, 16, 16, generator=generator)
        shapes = nn.functional.interpolate(coarse, 16, mode="bilinear")
        self.weight = nn.Parameter((0.1 * shapes + 0.1 * fine).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


def pictures(count: int, seed: int = 0) -> Tensor:
    """Coarse shapes, each image one of 12 with its own light and noise."""
    generator = make_generator(seed, "pictures")
    patterns = torch.rand(12, 3, 4, 4, generator=make_generator("patterns"))
    kinds = torch.randint(12, (count,), generator=generator)
    images = nn.functional.interpolate(patterns[kinds], 16, mode="bilinear")
    light = 0.2 * (torch.rand(count, 3, 4, 4, generator=generator) - 0.5)
    images = images + nn.functional.interpolate(light, 16, mode="bilinear")
    return (images + 0.02 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = Smooth()
    database = sign_codes(encode_logits(model, pictures(300, seed=1), quiet=True))
    return fit_detector(model, pictures(1000, seed=2), database, seed=0)


def test_transforms_by_hand() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    assert shift(image, down=-1, right=0)[0, 0].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [4, 5, 6, 7]]
    assert shift(image, down=1, right=-2)[0, 0, 1].tolist() == [2, 3, 2, 1]  # row 0 of the image, reflected at 3
    assert torch.equal(blur(torch.full((1, 3, 4, 4), 0.7)), torch.full((1, 3, 4, 4), 0.7))
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 16.0
    assert blur(dot)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    images = pictures(3)
    for transform in TRANSFORMS.values():
        changed = transform(images)
        assert changed.shape == images.shape
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
        assert not torch.equal(changed, images)


def test_statistics_by_hand() -> None:
    # All bright: every code is all +1 under every transform. Distances to the two codes: 0 and 2 of 8.
    bright = torch.ones(1, 3, 10, 10)
    assert torch.allclose(statistics(Corner(), bright, CODES), torch.tensor([[0.0, 1 / 8]]))
    # The left half bright, columns 0 to 4: bits 1 to 4 are +1. Flipped, columns 5 to 9: all eight differ. Moved left by
    # one, column 4 goes dark: 1. Moved right by two, columns 5 and 6 turn bright: 2. Blurred, column 4 is 0.75 and
    # column 5 is 0.25: 0. JPEG at 90: 0. Distances of (4 +1, 4 -1) to the codes: 4 and 2.
    half = torch.zeros(1, 3, 10, 10)
    half[..., :5] = 1.0
    expected = torch.tensor([[(8 + 1 + 2 + 0 + 0) / 5 / 8, 3 / 8]])
    assert torch.allclose(statistics(Corner(), half, CODES), expected)
    both = torch.cat([bright, half])
    assert torch.allclose(statistics(Corner(), (both * 255).to(torch.uint8), CODES)[1:], expected)
    assert statistics(Corner(), both[:0], CODES).shape == (0, 2)


def test_thresholds_by_hand() -> None:
    calibration = torch.stack([torch.arange(19.0), torch.zeros(19)], dim=1)
    detector = Detector(Corner(), CODES, calibration)
    assert torch.allclose(detector.clean_scores, torch.arange(19.0) / 19)
    # 1 / 19 over rank ceil(20 * 0.95) = 19 of 19; ceil(20 * 0.9) = 18; ceil(20 * 0.96) = 20, more than there are.
    assert detector.threshold(0.05) == 1.0
    assert detector.threshold(0.1) == pytest.approx(18 / 19)
    assert detector.threshold(0.04) == 1.0
    assert detector.lowest_rate() == pytest.approx(2 / 20)  # of 19 scores, 18 leave room below 1


def test_the_lowest_rate_is_no_rounding_error_above_what_it_is() -> None:
    columns = torch.arange(299, dtype=torch.float32)
    calibration = torch.stack([columns, columns.flip(0)], 1)  # two images have the highest score, one a statistic
    detector = Detector(nn.Identity(), torch.ones(1, 8, dtype=torch.int8), calibration)
    assert detector.lowest_rate() == 3 / 300 == 0.01


def test_a_small_calibration_does_not_raise_more_alarms_than_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(2000):  # two statistics, each with a chance of its own to be the largest so far
        values = torch.rand(21, 2, generator=generator)
        detector = Detector(Corner(), CODES, values[:20])
        alarms += int(detector.score_of(values[20:]) > detector.threshold(0.1))
    assert alarms / 2000 <= 0.1 + 4 * (0.1 * 0.9 / 2000) ** 0.5


def test_a_score_that_is_equal_to_the_threshold_is_no_alarm() -> None:
    for count in range(20, 200):  # in float64, (k / n) + 1 / n is below the float32 of (k + 1) / n in every eighth case
        calibration = torch.arange(float(count))[:, None].expand(count, 2)
        detector = Detector(Corner(), CODES, calibration)
        scores = detector.score_of(torch.arange(count + 1.0)[:, None].expand(count + 1, 2) - 0.5)
        for rate in (0.06, 0.1, 0.3):
            allowed = int((count + 1) * rate + 1e-9)  # of the n + 1 ranks that a new image may have
            for threshold in (detector.threshold(rate), torch.tensor(detector.threshold(rate))):
                assert int((scores > threshold).sum()) == allowed - 1, (count, rate)


def test_false_alarms_on_other_clean_images_are_as_rare_as_asked(detector: Detector) -> None:
    others = detector.score(pictures(2000, seed=3))
    assert (others.shape, others.dtype) == ((2000,), torch.float32)
    assert 0 <= float(others.min()) <= float(others.max()) <= 1
    for rate in (0.02, 0.05, 0.2):
        alarms = float((others > detector.threshold(rate)).float().mean())
        noise = 4 * (rate * (1 - rate) * (1 / 1000 + 1 / 2000)) ** 0.5
        assert alarms <= rate + noise
        assert alarms >= rate - noise - 0.05  # a few codes tie
    assert detector.threshold(0.2) < detector.threshold(0.05) <= detector.threshold(0.02)
    images = pictures(5)
    assert torch.equal(detector.score(images), detector.score(images))
    assert torch.equal(detector.score(images)[2:4], detector.score(images[2:4]))


def test_the_view_holds_every_transform_and_the_objective_counts_them(detector: Detector) -> None:
    images, model = pictures(6, seed=5), detector.model
    view, logits = detector.attack_view(), clean_logits_of(detector.model, images)
    wide = clean_logits_of(view, images)
    assert wide.shape == (6, 16 * (2 + len(TRANSFORMS)))
    assert torch.allclose(wide[:, :16], logits)
    assert torch.allclose(wide[:, 16:32], clean_logits_of(model, images.flip(3)))

    flips = OwnCodeGoal()(model, images, torch.zeros(6, 1))
    free, bound = (detector.attack_objective(flips, logits, weight=weight) for weight in (0.0, 2.0))
    assert torch.allclose(free(wide), flips(logits))
    # With logits far from zero the relaxed statistics are the statistics.
    firm = 1e3 * wide
    exact = statistics(model, images, detector.database_codes)
    assert torch.allclose(bound(firm) - free(firm), 2.0 * exact.sum(1), atol=1e-2)
    relaxed = relaxed_codes(wide / logits.abs().mean(1, keepdim=True), 4.0).view(6, -1, 16)
    products = relaxed[:, :1] @ detector.database_codes.float().T / 16
    nearest = products.sort(descending=True).values[:, 0, :NEAREST].mean(1)
    agreement = (relaxed[:, 1:] * relaxed[:, :1]).mean((1, 2))
    assert torch.allclose(bound(wide) - free(wide), (1 - agreement) + (1 - nearest), atol=1e-5)


def test_an_attacker_who_knows_the_detector_is_harder_to_detect(detector: Detector) -> None:
    images, model = pictures(40, seed=6), detector.model
    clean = sign_codes(clean_logits_of(model, images))
    attack = APGD(ThreatModel("linf", 8 / 255), steps=15)
    scores, flipped = {}, {}
    for weight in (0.0, 1.0):
        view = detector.attack_view()
        flips = OwnCodeGoal()(model, images, torch.zeros(40, 1))
        objective = detector.attack_objective(flips, clean_logits_of(model, images), weight=weight)
        found = attack(view, images, objective)
        scores[weight] = detector.score(found)
        flipped[weight] = float((sign_codes(clean_logits_of(model, found)) != clean).float().mean())
    assert float(scores[0.0].mean()) > float(detector.score(images).mean()) + 0.2
    assert float(scores[1.0].mean()) < float(scores[0.0].mean()) - 0.05
    assert flipped[1.0] > 0.2


def test_a_detector_is_saved_and_knows_its_model(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "detector")
    images = pictures(20, seed=7)
    loaded = Detector.load(tmp_path / "detector", detector.model)
    assert torch.equal(loaded.score(images), detector.score(images))
    assert loaded.threshold(0.05) == detector.threshold(0.05)
    other = Smooth()
    with torch.no_grad():
        other.weight.mul_(2.0)
    with pytest.raises(CheckpointError, match="is of another model"):
        Detector.load(tmp_path / "detector", other)
    with pytest.raises(CheckpointError, match="found none in"):
        Detector.load(tmp_path, detector.model)
    path = tmp_path / "detector" / "detector.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="is damaged"):
        Detector.load(tmp_path / "detector", detector.model)
    card = tmp_path / "detector" / "detector.json"
    assert json.loads(card.read_text())["nearest"] == NEAREST
    card.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        Detector.load(tmp_path / "detector", detector.model)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fit_detector(Corner(), torch.zeros(0, 3, 10, 10), CODES, seed=0), ArgumentError, "one clean image"),
        (lambda: fit_detector(Corner(), torch.zeros(1, 3, 10, 10), CODES.float(), seed=0), TypeError, "is int8"),
        (lambda: Detector(Corner(), CODES[:0], torch.zeros(1, 2)), ArgumentError, "at least one code; got none"),
        (lambda: Detector(Corner(), CODES, torch.zeros(2, 3)), ArgumentError, r"got \(2, 3\)"),
        (lambda: Detector(Corner(), CODES, torch.zeros(1, 2)).threshold(0.0), ArgumentError, "above 0 and below 1"),
        (
            lambda: Detector(Corner(), CODES, torch.zeros(1, 2)).attack_objective(sum, torch.ones(1, 8), weight=-1),
            ArgumentError,
            "`weight` is at least 0.0; got -1",
        ),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
