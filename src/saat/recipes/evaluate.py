"""Measure the retrieval of a model on clean queries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from saat.data.catalog import DataOptions
from saat.evaluation.metrics import RetrievalMetrics
from saat.recipes.subject import load_subject
from saat.recipes.tables import print_metrics
from saat.recipes.train import measure
from saat.runtime import RunOptions, write_text


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunOptions):
    """Measure the retrieval of a model: MAP (tie-aware, and by the papers' convention), precision, curves, codes.

    Args:
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint.
        out: JSON file for all metrics and curves.
    """

    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    out: Path | None = None


def evaluate(config: EvaluateConfig) -> RetrievalMetrics:
    """Measure by `config`; print a table, write JSON if asked, and return the metrics."""
    device = config.start()
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    metrics = measure(subject.model, subject.splits, quiet=config.quiet)
    if config.out is not None:
        write_text(config.out, json.dumps(metrics.to_json(), indent=2) + "\n")
    if not config.quiet:
        print_metrics({str(config.checkpoint or config.model): metrics})
    return metrics
