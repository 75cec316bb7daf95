"""Risk of queries: a detector with its threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saat.defenses.detection import Detector
from saat.errors import ArgumentError
from saat.models.hash_model import HashModel
from saat.serving.hits import Risk

Assess = Callable[[NDArray[np.uint8]], list[Risk]]
"""Images, uint8 (B, 3, S, S) -> the risk of each."""


def load_assess(folder: Path, model: HashModel, *, false_alarm_rate: float) -> Assess:
    """Return what assesses images by the detector of `model` in `folder`.

    Args:
        folder: the folder `detector` that `saat detect` wrote.
        model: of queries.
        false_alarm_rate: share of clean images that may raise an alarm.

    Raises:
        CheckpointError: there is no detector, it is damaged, or it is that of another model.
        ArgumentError: the rate is not between 0 and 1, or so low that nothing would raise an alarm.
    """
    detector = Detector.load(folder, model)
    threshold, lowest = detector.threshold(false_alarm_rate), detector.lowest_rate()
    if false_alarm_rate < lowest:
        rule = f"at least {lowest:.4f} with a detector that was calibrated on {len(detector.calibration)} images"
        raise ArgumentError(f"`false_alarm_rate` is {rule}; got {false_alarm_rate}")

    def assess(images: NDArray[np.uint8]) -> list[Risk]:
        return [Risk.of(score, threshold) for score in detector.score(torch.from_numpy(images)).tolist()]

    return assess
