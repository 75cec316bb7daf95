"""The attacks of `saat detect` on a detector, batch by batch, so that a run that was stopped goes on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from saat.attacks.autopgd import APGD
from saat.attacks.goals import SemanticGoal, clean_logits_of
from saat.attacks.objectives import flips_objective
from saat.codes.bank import CodeBank
from saat.defenses.detection import Detector
from saat.evaluation.suite import round_to_8_bits
from saat.recipes.claims import claim_measurement
from saat.recipes.kept import batch_file, kept_tensors
from saat.recipes.outcome import SubjectCodes
from saat.recipes.subject import Subject
from saat.runtime import derive_seed, device_of, images_at_once, progress

if TYPE_CHECKING:
    from saat.recipes.detect import DetectConfig


def claim_detection(config: DetectConfig, subject: Subject, codes: SubjectCodes, device: torch.device) -> None:
    """Write down what the folder holds, so that no other run mixes its images with these.

    Raises:
        ArgumentError: the folder holds another run.
    """
    told = {name: getattr(config, name) for name in ("norm", "epsilon", "steps", "seed")}
    told["batch_size"] = _batch_size(config, subject)
    told["precision"] = config.precision_on(device)  # of `auto`, another one elsewhere
    claim_measurement(config.out, "detect", told, subject, codes)


def attack_knowing(
    config: DetectConfig, subject: Subject, codes: SubjectCodes, detector: Detector, rows: Tensor, weight: float
) -> Tensor:
    """Return queries attacked by APGD away from their mainstay codes, uint8 (Q, 3, S, S).

    Args:
        config: the options.
        subject: the attacked model with its data.
        codes: of its clean images.
        detector: what the attacker knows of.
        rows: (Q,) of the queries.
        weight: of the detector in the objective; at 0 the attacker does not know it.
    """
    bank, parts = codes.bank(subject, device_of(subject.model)), torch.split(rows, _batch_size(config, subject))
    found = []
    for number, part in enumerate(progress(parts, f"attack, weight {weight:g}", unit="batch", quiet=config.quiet)):
        make = partial(_attack_batch, config, subject, bank, detector, part, weight)
        found.append(kept_tensors(batch_file(config.out, number, of=f"weight-{weight:g}-"), make)["images"])
    return torch.cat(found)


def _attack_batch(
    config: DetectConfig, subject: Subject, bank: CodeBank, detector: Detector, rows: Tensor, weight: float
) -> dict[str, Tensor]:
    """Attack one batch of queries; see `attack_knowing`."""
    query, device = subject.splits.query, device_of(subject.model)
    goal = SemanticGoal(bank, make_objective=flips_objective)
    attack = APGD(config.threat(), steps=config.steps, precision=config.precision)
    view: nn.Module = detector.attack_view() if weight else subject.model
    images = (query.images[rows].float() / 255.0).to(device)
    objective = goal(subject.model, images, query.labels[rows].to(device))
    if weight:
        objective = detector.attack_objective(objective, clean_logits_of(subject.model, images), weight=weight)
    changed = attack(view, images, objective, seed=derive_seed(config.seed, "detect", int(rows[0])))
    return {"images": round_to_8_bits(changed.cpu(), query.images[rows], config.threat())}


def _batch_size(config: DetectConfig, subject: Subject) -> int:
    image_size, device = subject.splits.query.images.shape[-1], device_of(subject.model)
    return config.batch_size or images_at_once(image_size, device, most=125)
