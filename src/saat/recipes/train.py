"""Train a hashing model: data set -> checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from saat.data.catalog import DataOptions, decode_splits, read_collection
from saat.data.splits import Splits
from saat.errors import ArgumentError, check_choice, check_code_length
from saat.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from saat.evaluation.sanity import find_flags
from saat.hamming import sign_codes
from saat.losses.catalog import LOSSES, build_loss
from saat.models.checkpoint import Card, save_checkpoint
from saat.models.hash_model import HashModel, build_model, check_image_size, encode_logits, import_model
from saat.recipes.tables import print_metrics
from saat.runtime import RunOptions, make_folder, versions, write_text
from saat.training import FitOptions, HashingStep, cost_of, fit
from saat.types import has_label

CODE_LENGTH = 32  # bits, if none are asked for

log = logging.getLogger(__name__)

PRESETS: Mapping[str, dict[str, Any]] = {
    "paper": {
        "loss": "dph",
        "fit": {
            "epochs": 100,
            "batch_size": 32,
            "learning_rate": 0.01,
            "weight_decay": 5e-4,
            "schedule": "thirds",
            "augment": False,
        },
    },
}
"""Published settings, those of SAAT's released code: start from these; options given beside them win."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunOptions):
    """Train a hashing model and write a checkpoint. Started again after a stop, it resumes.

    Args:
        out: folder of the checkpoint.
        data: which images.
        backbone: of the model, such as resnet20 (for 32 x 32), alexnet, vgg16_bn, resnet18, resnet50,
            efficientnet_lite0.
        weights: of the backbone: auto, random, imagenet or the path of a state file.
        model: instead of a backbone, your own: package.module:factory, a module from images in [0, 1] to K logits.
        code_length: bits of a code, a multiple of 8; if left out 32, or those of your own model, which fixes them.
        loss: the hashing loss, dph or csq.
        fit: how to train.
    """

    out: Path
    data: DataOptions = field(default_factory=DataOptions)
    backbone: str = "resnet20"
    weights: str = "auto"
    model: str | None = None
    code_length: int | None = None
    loss: str = "dph"
    fit: FitOptions = field(default_factory=FitOptions)

    def __post_init__(self) -> None:
        if self.code_length is None and self.model is None:
            object.__setattr__(self, "code_length", CODE_LENGTH)
        if self.code_length is not None:
            check_code_length(self.code_length)
        check_choice("loss", self.loss, LOSSES)


def train(config: TrainConfig) -> Card:
    """Train by `config`; write weights, card, splits and log to `config.out`, and return the card."""
    device = config.start()
    make_folder(config.out)
    collection = read_collection(config.data)
    model, weights = make_model(config, image_size=collection.image_size)
    model = model.to(device)
    splits = decode_splits(collection, config.data, quiet=config.quiet)  # takes long: after all that can be refused
    loss = build_loss(config.loss, labels=splits.train.labels, code_length=model.code_length).to(device)
    manifest = splits.manifest()
    # a folder may hold other images by now, and half a training on each would be of neither
    run = identity(config, device) | {"checksums": manifest["checksums"]}
    history = fit(
        model,
        HashingStep(loss, precision=config.precision),
        splits.train,
        config.fit,
        folder=config.out,
        run=run,
        seed=config.seed,
        quiet=config.quiet,
    )
    write_text(config.out / "splits.json", json.dumps(manifest, indent=2) + "\n")
    metrics = measure(model, splits, quiet=config.quiet)
    card = Card(
        backbone=config.model or config.backbone,
        weights=weights,
        code_length=model.code_length,
        image_size=collection.image_size,
        loss=config.loss,
        data=data_values(config.data),
        manifest=manifest,
        training={"seed": config.seed, "fit": run["fit"]} | cost_of(history),
        metrics=metrics_of_card(metrics),
        versions=versions(),
    )
    save_checkpoint(config.out, model, card)
    if metrics is not None and not config.quiet:
        print_metrics({str(config.out): metrics})
    return card


def make_model(config: TrainConfig, *, image_size: int) -> tuple[HashModel, str]:
    """Return the model that `config` asks for, and where its weights came from.

    Raises:
        ArgumentError: it cannot be built, has codes of another length, or does not take images of this size.
        CheckpointError: the weights cannot be had or do not fit.
    """
    if config.model is None:
        assert config.code_length is not None  # __post_init__ has filled it in
        model, weights = build_model(config.backbone, code_length=config.code_length, weights=config.weights)
        check_image_size(model, image_size)
        return model, weights
    own = import_model(config.model, image_size=image_size)
    if config.code_length not in (None, own.code_length):
        rule = f"`code_length` is that of `model` {config.model}, {own.code_length} bits, or left out"
        raise ArgumentError(f"{rule}; got {config.code_length}")
    return own, "own"


def identity(config: RunOptions, device: torch.device) -> dict[str, Any]:
    """Return the options that make a run what it is, JSON-able: all but where and how loudly it runs.

    Where its images lie is not among them: they have checksums. Its precision is what the option means on `device`.
    """
    options = {key: value for key, value in asdict(config).items() if key not in ("out", "threads", "quiet", "device")}
    if options["data"] is not None:
        options["data"]["root"] = None
    if options["model"] is not None:  # which brings its network and code length along
        options = {key: value for key, value in options.items() if key not in ("backbone", "weights", "code_length")}
    options["precision"] = config.precision_on(device)
    return dict(json.loads(json.dumps(options, default=str)))


def data_values(data: DataOptions) -> dict[str, Any]:
    """Return the data options as a card holds them, JSON-able."""
    return dict(json.loads(json.dumps(asdict(data), default=str)))


def metrics_of_card(metrics: RetrievalMetrics | None) -> dict[str, float]:
    """Return what a card keeps of a measurement; nothing of none."""
    names = () if metrics is None else ("map", "map_paper", "chance_map", "chance_map_paper")
    return {name: getattr(metrics, name) for name in names}


def measure(
    model: HashModel, splits: Splits, *, database_model: HashModel | None = None, quiet: bool
) -> RetrievalMetrics | None:
    """Encode queries and database in float32, the database with a model of its own if there is one, and measure.

    The flags that need no attack are logged, and where no query has a label, that there is nothing to measure.
    """
    if not has_label(splits.query.labels).any():
        log.warning("no query has a label, so nothing is measured")
        return None
    query, database = (
        encode_logits(encoder, split.images, label=f"encode {split.name}", quiet=quiet)
        for encoder, split in ((model, splits.query), (database_model or model, splits.database))
    )
    labels = splits.query.labels, splits.database.labels
    metrics = evaluate_retrieval(sign_codes(query), labels[0], sign_codes(database), labels[1])
    for flag in find_flags(metrics, None, logits=query, overlap=splits.overlap()):
        log.warning(f"unreliable: {flag.name}: {flag.message} (docs/flags.md)")
    return metrics
