"""The outcome of an attack: measured before and after, with flags and pictures, in one report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from saat import __version__
from saat.codes.bank import CodeBank
from saat.evaluation.code_statistics import chance_bit_flip_rate
from saat.evaluation.examples import choose_queries, write_examples
from saat.evaluation.image_quality import summarize_change
from saat.evaluation.intervals import bootstrap_intervals
from saat.evaluation.metrics import RetrievalMetrics, bit_flip_rate, evaluate_retrieval, toward_target
from saat.evaluation.sanity import Flag, entries_of
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.subject import Subject
from saat.runtime import atomic_write, write_text
from saat.types import has_label

EXAMPLES = 8


@dataclass(frozen=True)
class SubjectCodes:
    """What the clean images of a subject are mapped to.

    Args:
        query_logits: float32 (Q, K).
        train: int8 (N, K) in {-1, +1}, of the database's model: what an attacker knows of the codes that are there.
        database: int8 (N, K) in {-1, +1}.
    """

    query_logits: Tensor
    train: Tensor
    database: Tensor

    def bank(self, subject: Subject, device: torch.device) -> CodeBank:
        """Return what an attacker knows: codes and labels of the train split."""
        return CodeBank(self.train.to(device), subject.splits.train.labels.to(device))


def encode_subject(subject: Subject, *, quiet: bool) -> SubjectCodes:
    """Encode all splits of a subject, in float32, each with the model that it is deployed with."""
    splits = subject.splits
    pairs = (
        (subject.model, splits.query),
        (subject.database_model, splits.train),
        (subject.database_model, splits.database),
    )
    query, train, database = (
        encode_logits(model, split.images, label=f"encode {split.name}", quiet=quiet) for model, split in pairs
    )
    return SubjectCodes(query, sign_codes(train), sign_codes(database))


def measure(
    subject: Subject, codes: SubjectCodes, query_codes: Tensor, labels: Tensor | None = None
) -> RetrievalMetrics:
    """Rank the clean database for query codes, int8 (Q, K), by the queries' own labels or by others, (Q, C)."""
    splits = subject.splits
    labels = splits.query.labels if labels is None else labels
    return evaluate_retrieval(query_codes, labels, codes.database, splits.database.labels)


@dataclass(frozen=True)
class Outcome:
    """Attacked queries and what they are measured against.

    Args:
        subject: model and data.
        codes: of the clean images.
        adversarial: float32 (Q, 3, S, S), clean where a query could not be attacked.
        attacked: int8 (Q, K), the codes of these.
        targets: (Q, C) labels of the targets of a targeted attack.
    """

    subject: Subject
    codes: SubjectCodes
    adversarial: Tensor
    attacked: Tensor
    targets: Tensor | None = None

    def write(
        self,
        out: Path,
        *,
        name: str,
        attack: dict[str, Any],
        flags: list[Flag],
        seed: int,
        clean: RetrievalMetrics,
        attacked: RetrievalMetrics,
    ) -> dict[str, Any]:
        """Write images, codes, pictures and `report.json` to `out`; return the report.

        Args:
            out: a folder.
            name: what reports call the model.
            attack: what was done, and what it cost.
            flags: reasons to distrust the report.
            seed: of the choice of example queries.
            clean: of the clean queries.
            attacked: of the attacked ones.
        """
        splits, clean_codes = self.subject.splits, sign_codes(self.codes.query_logits)
        clean_images = splits.query.images
        rows = has_label(splits.query.labels if self.targets is None else self.targets)  # those that were attacked
        flipped = bit_flip_rate(clean_codes[rows], self.attacked[rows])
        [flipped_interval] = bootstrap_intervals(flipped[:, None])
        self._save_images(out / "adversarial.safetensors")
        report: dict[str, Any] = {
            **entries_of(flags),
            "saat": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "name": name,
            "data": self.subject.data_entry(),
            "model": self.subject.about | {"checksum": self.subject.checksum},
            "clean_map": clean.map,
            "attacked_map": attacked.map,
            "clean_map_paper": clean.map_paper,
            "attacked_map_paper": attacked.map_paper,
            "chance_map": clean.chance_map,
            "chance_map_paper": clean.chance_map_paper,
            "clean": clean.to_json(),
            "attacked": attacked.to_json(),
            "bit_flip_rate": flipped.mean().item(),
            "bit_flip_rate_interval": list(flipped_interval),
            "bit_flip_rate_chance": chance_bit_flip_rate(clean_codes[rows]),
            "change": _finite(summarize_change(self.adversarial[rows], clean_images[rows])),
            "attack": attack,
            "examples": write_examples(
                out,
                queries=choose_queries(splits.query.labels, EXAMPLES, seed=seed),
                clean=clean_images,
                adversarial=self.adversarial,
                database=splits.database.images,
                clean_codes=clean_codes,
                adversarial_codes=self.attacked,
                database_codes=self.codes.database,
                query_labels=splits.query.labels,
                database_labels=splits.database.labels,
                class_names=splits.class_names,
            ),
        }
        if self.targets is not None:
            start, aimed = (
                measure(self.subject, self.codes, each, self.targets) for each in (clean_codes, self.attacked)
            )
            for state, toward in (("clean", start), ("attacked", aimed)):
                report[f"t_map_{state}"] = toward.map
                report[f"t_map_{state}_interval"] = list(toward.map_interval)
            report["t_map_chance"] = aimed.chance_map
            report["toward_target"] = toward_target(aimed).to_json()
        write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
        return report

    def _save_images(self, path: Path) -> None:
        content = {"images": self.adversarial.contiguous(), "codes": self.attacked}
        if self.targets is not None:
            content["target_labels"] = self.targets.contiguous()
        with atomic_write(path) as file:
            file.write(safetensors.torch.save(content))


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity, the PSNR of unchanged images, and no "not a number", the SSIM of tiny ones."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
