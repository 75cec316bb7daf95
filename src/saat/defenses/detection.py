"""Detection: a calibrated score that a query is adversarial."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saat.attacks.objectives import FLIP_SHARPNESS
from saat.attacks.views import BpdaView, EnsembleView
from saat.defenses.purifiers import Jpeg
from saat.errors import ArgumentError, CheckpointError, check_at_least
from saat.hamming import check_codes, hamming_distances, logit_scale, relaxed_codes, sign_codes
from saat.models.checkpoint import weights_checksum
from saat.models.hash_model import encode_logits
from saat.runtime import atomic_write, make_generator, pixels_of, write_text
from saat.types import CodeObjective

NEAREST = 10  # database codes that a query is held against
CALIBRATION = 2000  # clean images that suffice
JPEG_QUALITY = 90
TENSORS_FILE, CARD_FILE = "detector.safetensors", "detector.json"
_BLOCK_IMAGES = 128


def shift(images: Tensor, *, down: int, right: int) -> Tensor:
    """Return images (B, 3, H, W) moved by whole pixels, with what comes in reflected.

    >>> shift(torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), down=0, right=1).tolist()
    [[[[2.0, 1.0, 2.0], [5.0, 4.0, 5.0]]]]
    """
    height, width = images.shape[2:]
    margins = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    top, left = max(-down, 0), max(-right, 0)
    return F.pad(images, margins, mode="reflect")[..., top : top + height, left : left + width]


def blur(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) lightly blurred: each pixel a half, the two beside it a quarter, both ways.

    >>> blur(torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]])).tolist()
    [[[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    """
    around = F.pad(images, (1, 1, 1, 1), mode="reflect")
    across = (around[..., :-2] + 2.0 * around[..., 1:-1] + around[..., 2:]) / 4.0
    return (across[..., :-2, :] + 2.0 * across[..., 1:-1, :] + across[..., 2:, :]) / 4.0


TRANSFORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda images: images.flip(3),
    "shift by 1": lambda images: shift(images, down=1, right=-1),
    "shift by 2": lambda images: shift(images, down=-2, right=2),
    "blur": blur,
}
"""Benign changes with a gradient; JPEG, which has none, is the last one."""


class Transformed(nn.Module):
    """A model that sees its images transformed.

    Args:
        model: images -> logits.
        transform: images -> images of the same shape.
    """

    def __init__(self, model: nn.Module, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.transform = model, transform

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, K)."""
        logits: Tensor = self.model(self.transform(images))
        return logits


class Detector:
    """How unusual an image is for a model and its database, from two statistics; made by `fit_detector`.

    - disagreement: the mean distance of the codes of the transformed image to the code of the image, over K (after Xu,
      Evans, Qi, *Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks*, NDSS 2018);
    - distance: the mean distance of its code to the nearest database codes, over K.

    The score is the larger of the two quantiles: the share of the clean calibration images whose statistic is lower.

    Args:
        model: images -> logits (B, K).
        database_codes: int8 (N, K) in {-1, +1}.
        calibration: float32 (n, 2), the two statistics of clean images.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: there is no code or no statistic, or a shape is wrong.
    """

    def __init__(self, model: nn.Module, database_codes: Tensor, calibration: Tensor) -> None:
        check_codes("database_codes", database_codes)
        if not len(database_codes):
            raise ArgumentError("`database_codes` holds at least one code; got none")
        if calibration.ndim != 2 or calibration.shape[1] != 2 or not len(calibration):
            raise ArgumentError(f"`calibration` is (n, 2), with one image at least; got {tuple(calibration.shape)}")
        self.model = model
        self.database_codes = database_codes.cpu()
        self.calibration = calibration.cpu()
        self.columns = self.calibration.T.contiguous().sort(dim=1).values
        self.clean_scores = self.score_of(self.calibration).sort().values

    def score(self, images: Tensor) -> Tensor:
        """Return the score of images (B, 3, H, W), uint8 or float in [0, 1]: float32 (B,) in [0, 1] on the CPU."""
        return self.score_of(statistics(self.model, images, self.database_codes))

    def score_of(self, values: Tensor) -> Tensor:
        """Return the score of statistics (B, 2), float32 (B,) in [0, 1].

        >>> calibration = torch.tensor([[0.0, 0.1], [0.1, 0.2], [0.2, 0.3], [0.3, 0.4]])
        >>> detector = Detector(nn.Identity(), torch.ones(1, 8, dtype=torch.int8), calibration)
        >>> detector.score_of(torch.tensor([[0.15, 0.0], [0.0, 0.35], [0.9, 0.0]])).tolist()  # 2, 3 and 4 of 4
        [0.5, 0.75, 1.0]
        """
        lower = torch.searchsorted(self.columns, values.T.contiguous())  # strictly lower: ties raise no alarm
        return (lower.float() / len(self.calibration)).amax(0)

    def threshold(self, false_alarm_rate: float) -> float:
        """Return the threshold above which a score is an alarm.

        It is the calibration score of rank ceil((n + 1) (1 - rate)) plus 1 / n, or 1 where there are too few images for
        that rate; so clean images like those of the calibration raise at most that share of alarms in expectation. The
        1 / n is what a new image can add to the score of an image of the calibration, which saw only the n - 1 others.

        Raises:
            ArgumentError: the rate is not between 0 and 1.
        """
        if not 0.0 < false_alarm_rate < 1.0:
            raise ArgumentError(f"`false_alarm_rate` is above 0 and below 1; got {false_alarm_rate}")
        count = len(self.clean_scores)
        rank = math.ceil((count + 1) * (1.0 - false_alarm_rate) - 1e-9)  # 0.05 is no exact binary number
        if rank > count:
            return 1.0
        lower = round(float(self.clean_scores[rank - 1]) * count) + 1
        return float(torch.tensor(float(lower)) / count)  # as a score is rounded: one that is equal is no alarm

    def lowest_rate(self) -> float:
        """Return the lowest false-alarm rate at which some score would raise an alarm; few images allow no low one."""
        count = len(self.clean_scores)
        below = int((self.clean_scores + 1.0 / count < 1.0 - 1e-6).sum())
        return (count + 1 - below) / (count + 1)  # exact where the rate is: 3 / 300 is 0.01

    def attack_view(self) -> nn.Module:
        """Return what an attacker who knows the detector searches: (B, 3, H, W) -> (B, (1 + T) K).

        These are the logits of the image and of its T transforms, side by side; JPEG has the gradient of the identity.
        """
        seen = [Transformed(self.model, transform) for transform in TRANSFORMS.values()]
        return EnsembleView([self.model, *seen, BpdaView(self.model, Jpeg(JPEG_QUALITY))])

    def attack_objective(self, objective: CodeObjective, clean_logits: Tensor, *, weight: float) -> CodeObjective:
        """Return the objective for `attack_view`: that of an attack, plus `weight` times both statistics, relaxed.

        With r = tanh(4 logits / mean |clean logits|), as in `flips_objective`, the distance of two codes over K becomes
        (1 - mean(r r')) / 2.

        Args:
            objective: logits (B, K) -> (B,).
            clean_logits: (B, K), of the clean images.
            weight: at least 0.

        Raises:
            ArgumentError: `weight` is below 0.
        """
        check_at_least("weight", weight, 0.0)
        code_length = clean_logits.shape[1]
        scale = logit_scale(clean_logits)
        database = self.database_codes.to(clean_logits.device).float()

        def knowing(logits: Tensor) -> Tensor:
            own, *others = torch.split(logits, code_length, dim=1)
            relaxed = relaxed_codes(own / scale, FLIP_SHARPNESS)
            agreements = [(relaxed_codes(other / scale, FLIP_SHARPNESS) * relaxed).mean(1) for other in others]
            disagreement = (1.0 - torch.stack(agreements).mean(0)) / 2.0
            products = relaxed @ database.T / code_length
            distance = (1.0 - products.topk(min(NEAREST, len(database)), dim=1).values.mean(1)) / 2.0
            return objective(own) + weight * (disagreement + distance)

        return knowing

    def save(self, folder: Path) -> None:
        """Write the detector to `folder`, atomically; without the model, of which it keeps a checksum."""
        content = {"database_codes": self.database_codes.contiguous(), "calibration": self.calibration.contiguous()}
        with atomic_write(folder / TENSORS_FILE) as file:
            file.write(safetensors.torch.save(content))
        write_text(folder / CARD_FILE, json.dumps(_card(self.model), indent=2) + "\n")

    @staticmethod
    def load(folder: Path, model: nn.Module) -> Detector:
        """Read the detector of `model` from `folder`.

        Raises:
            CheckpointError: there is none, it is damaged, or it is that of another model.
        """
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            content = safetensors.torch.load_file(folder / TENSORS_FILE)
            detector = Detector(model, content["database_codes"], content["calibration"])
        except FileNotFoundError:
            needed = f"{CARD_FILE} and {TENSORS_FILE}"
            raise CheckpointError(f"a detector is a folder with {needed}; found none in {folder}") from None
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"the detector in {folder} is damaged: {error}") from error
        if card != _card(model):
            raise CheckpointError(f"the detector in {folder} is of another model; found {card}, not {_card(model)}")
        return detector


def fit_detector(model: nn.Module, images: Tensor, database_codes: Tensor, *, seed: int) -> Detector:
    """Calibrate a detector on clean images.

    They should be like queries: an image that is in the database is at distance 0 from it.

    Args:
        model: images -> logits (B, K).
        images: (n, 3, H, W), uint8 or float in [0, 1]; 2,000 are drawn if there are more.
        database_codes: int8 (N, K) in {-1, +1}.
        seed: of the draw.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: there is no image or no code.
    """
    if not len(images):
        raise ArgumentError("`images` holds at least one clean image to calibrate on; got none")
    check_codes("database_codes", database_codes)
    drawn = torch.randperm(len(images), generator=make_generator(seed, "fit_detector"))[:CALIBRATION]
    return Detector(model, database_codes, statistics(model, images[drawn], database_codes))


def statistics(model: nn.Module, images: Tensor, database_codes: Tensor) -> Tensor:
    """Return disagreement and distance of images (B, 3, H, W), float32 (B, 2) in [0, 1], on the CPU; see `Detector`."""
    views: list[Callable[[Tensor], Tensor]] = [*TRANSFORMS.values(), Jpeg(JPEG_QUALITY)]
    found = [torch.empty(0, 2)]
    for part in torch.split(images, _BLOCK_IMAGES):
        block = pixels_of(part, part.device)
        own, *others = (_codes(model, seen) for seen in (block, *(view(block) for view in views)))
        disagreement = torch.stack([(other != own).float().mean(1) for other in others]).mean(0)
        distances = hamming_distances(own, database_codes.cpu()).float()
        nearest = distances.topk(min(NEAREST, len(database_codes)), dim=1, largest=False).values
        found.append(torch.stack([disagreement, nearest.mean(1) / own.shape[1]], dim=1))
    return torch.cat(found)


def _codes(model: nn.Module, images: Tensor) -> Tensor:
    return sign_codes(encode_logits(model, images, quiet=True))


def _card(model: nn.Module) -> dict[str, object]:
    return {
        "weights": weights_checksum(model),
        "transforms": [*TRANSFORMS, f"JPEG {JPEG_QUALITY}"],
        "nearest": NEAREST,
    }
