"""Harden a model by adversarial training: checkpoint -> hardened checkpoint."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saat.attacks.gradient import PGD
from saat.attacks.objectives import OBJECTIVES
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.data.catalog import DataOptions
from saat.data.loading import count_batches
from saat.data.splits import ImageSplit, Splits
from saat.defenses.catalog import DEFENSES, LABEL_FREE, QUERY_SIDE, UNREAD, DefenseOptions
from saat.defenses.inner import ATTACK_MODES, CarriedInnerAttack, GaussianNoise, InnerAttack
from saat.defenses.unlabeled import join_splits, pseudo_labels, unlabeled_images
from saat.errors import ArgumentError, check_at_least, check_choice
from saat.hamming import sign_codes
from saat.losses.catalog import build_loss
from saat.models.checkpoint import (
    DATABASE_FOLDER,
    Card,
    load_checkpoint,
    load_database_model,
    read_card,
    save_checkpoint,
    weights_checksum,
)
from saat.models.hash_model import HashModel, encode_logits
from saat.recipes.subject import check_given, load_own, other_splits, splits_of
from saat.recipes.tables import print_metrics
from saat.recipes.train import TrainConfig, data_values, identity, measure, metrics_of_card
from saat.runtime import RunOptions, device_of, make_folder, versions
from saat.training import FitOptions, cost_of, fit
from saat.types import has_label

log = logging.getLogger(__name__)

OF_THE_INNER_ATTACK = ("epsilon", "steps", "step_size", "epsilon_warmup", "attack_mode", "carry", "objective")


@dataclass(frozen=True, kw_only=True)
class HardenConfig(RunOptions):
    """Harden a model and write a new checkpoint. Started again after a stop, it resumes.

    Args:
        checkpoint: the model to harden; one of your own that is trained already needs none, but `model` and `data`.
        out: folder of the hardened checkpoint.
        data: other data than that of the checkpoint; without `data.name`, the options given change a part of that.
        model: package.module:factory of your own model; alone, or with the checkpoint of such a model.
        defense: saat, cgat, cgat-mean, atrdh, pgd-at, trades, distill or query-side; a preset has each one's
            settings.
        unlabeled: train on the database images too, with labels from the model before hardening, not their own.
        epsilon: linf radius of the inner attack, as a fraction of the pixel range, such as 8/255.
        steps: gradient steps of the inner attack.
        step_size: of the inner attack, as a fraction of the pixel range.
        epsilon_warmup: share of the training in which epsilon and step_size grow in a line from nothing; 0 has them
            whole from the start.
        attack_mode: of the model in the inner attack: eval, or train as in the papers' codes, where batch statistics
            and dropout take part and the running statistics move along.
        noise: in the place of the inner attack, gaussian noise of this standard deviation, in units of the pixel
            range [0, 1]: what a model needs before `saat certify`. 0 attacks.
        carry: the inner attack starts from the perturbation of the image's last epoch instead of a random one.
        robustness: one number from clean to robust, times epsilon, step_size and noise: 0 trains on clean images, 2
            against changes twice as large.
        objective: of the inner attack: flips, margin, agreement (the papers'), weighted, weighted-targeted or hag.
        adversarial_weight: weight of the term on adversarial images in saat, cgat, atrdh and trades.
        quantization_weight: weight of the quantization of adversarial codes in saat.
        mirror: in use, average over each image and its mirror image; encoding costs twice as much.
        fit: how to train.
    """

    checkpoint: Path | None = None
    out: Path
    data: DataOptions | None = None
    model: str | None = None
    defense: str = "saat"
    unlabeled: bool = False
    epsilon: float = 8 / 255
    steps: int = 7
    step_size: float = 2 / 255
    epsilon_warmup: float = 0.0
    attack_mode: str = "eval"
    noise: float = 0.0
    carry: bool = False
    robustness: float = 1.0
    objective: str = "agreement"
    adversarial_weight: float = 1.0
    quantization_weight: float = 1e-4
    mirror: bool = False
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=20))

    def __post_init__(self) -> None:
        ThreatModel("linf", self.epsilon)  # the range of epsilon is its rule
        check_choice("defense", self.defense, DEFENSES)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("attack_mode", self.attack_mode, ATTACK_MODES)
        check_at_least("steps", self.steps, 1)
        if not 0.0 <= self.epsilon_warmup <= 1.0:
            rule = "a share of the training, from 0 to 1"
            raise ArgumentError(f"`epsilon_warmup` is {rule}; got {self.epsilon_warmup:g}")
        check_at_least("robustness", self.robustness, 0.0)
        moved = "noise" if self.noise else "epsilon"
        if getattr(self, moved) * self.robustness > 1.0:
            most = f"{1.0 / getattr(self, moved):g}, where `{moved}` times it is 1"
            raise ArgumentError(f"`robustness` is at most {most}; got {self.robustness:g}")
        for name in ("step_size", "noise", "adversarial_weight", "quantization_weight"):
            check_at_least(name, getattr(self, name), 0.0)
        unread = dict.fromkeys(UNREAD.get(self.defense, ()), self.defense)
        if self.noise:
            unread |= dict.fromkeys(OF_THE_INNER_ATTACK, "`noise`, which takes the place of the inner attack")
        for name, reader in unread.items():
            value, default = getattr(self, name), getattr(HardenConfig, name)
            if value != default:
                raise ArgumentError(f"`{name}` has no effect on {reader}, and stays {default}; got {value}")
        check_given(self.checkpoint, self.model)
        if self.checkpoint is not None and self.out.resolve() == self.checkpoint.resolve():
            raise ArgumentError(
                f"`out` is another folder than `checkpoint`, which stays as it is; got {self.out} twice"
            )


def harden(config: HardenConfig) -> Card:
    """Harden by `config`; write weights, card and log to `config.out`, and return the card."""
    device = config.start()
    make_folder(config.out)
    model, splits, parent = load_parent(config)
    model = model.to(device)
    kept = kept_model(config, model, parent)
    database_model = kept[0] if kept else None
    train, bank = training_items(config, database_model or model, splits, device)
    step = make_step(config, model, parent, bank)
    # the same folder may hold another parent by now, and half a hardening of each would be of neither
    run = identity(config, device) | {
        "parent_weights": weights_checksum(model),
        "checksums": parent.manifest["checksums"],
    }
    del run["checkpoint"]  # known by its weights, wherever it lies
    model.mirror = False  # training sees each image once; crop and flip are its views
    history = fit(
        model,
        step,
        train,
        config.fit,
        folder=config.out,
        run=run,
        seed=config.seed,
        label="harden",
        quiet=config.quiet,
    )
    model.mirror = config.mirror
    metrics = measure(model, splits, database_model=database_model, quiet=config.quiet)
    training = run | cost_of(history)
    card = replace(
        parent,
        training=training,
        metrics=metrics_of_card(metrics),
        defense=config.defense,
        parent=None if config.checkpoint is None else str(config.checkpoint),
        database_model=None if database_model is None else weights_checksum(database_model),
        mirror=config.mirror,
        versions=versions(),
    )
    if kept:
        save_checkpoint(config.out / DATABASE_FOLDER, *kept)
    save_checkpoint(config.out, model, card)
    if metrics is not None and not config.quiet:
        print_metrics({str(config.out): metrics})
    return card


def load_parent(config: HardenConfig) -> tuple[HashModel, Splits, Card]:
    """Return the model to harden, what it is hardened on, and its card with what it says of that."""
    if config.checkpoint is None:
        model, splits, data = load_own(config.model or "", config.data, quiet=config.quiet)
        card = Card(
            backbone=config.model or "",
            weights="own",
            code_length=model.code_length,
            image_size=splits.train.images.shape[-1],
            loss=TrainConfig.loss,
            data=data_values(data),
            manifest=splits.manifest(),
            training=cost_of([]) | {"fit": {"epochs": 0}},  # none by saat
        )
        return model, splits, card
    model, parent = load_checkpoint(config.checkpoint, model_factory=config.model)
    if config.data is None:
        return model, splits_of(parent, config.checkpoint, quiet=config.quiet), parent
    splits = other_splits(config.data, model, quiet=config.quiet)
    size = splits.train.images.shape[-1]
    card = replace(parent, data=data_values(config.data), manifest=splits.manifest(), image_size=size)
    return model, splits, card


def kept_model(config: HardenConfig, model: HashModel, parent: Card) -> tuple[HashModel, Card] | None:
    """Return a copy of the model whose codes the database keeps, with its card, for a defense of queries only."""
    if config.defense not in QUERY_SIDE:
        if parent.database_model:
            log.warning("%s keeps no model of the database: encode that anew with the hardened one", config.defense)
        return None
    database_model, card = model, parent
    if config.checkpoint is not None and parent.database_model:
        database_model = load_database_model(config.checkpoint, model, parent, model_factory=config.model)
        card = read_card(config.checkpoint / DATABASE_FOLDER)
    return deepcopy(database_model).to(device_of(model)), card


def training_items(
    config: HardenConfig, model: HashModel, splits: Splits, device: torch.device
) -> tuple[ImageSplit, CodeBank]:
    """Return what is trained on, with its bank under `model`: the train split, joined by pseudo-labeled images."""

    def logits_of(split: ImageSplit) -> Tensor:
        return encode_logits(model, split.images, label=f"encode {split.name}", quiet=config.quiet)

    train = splits.train
    if config.defense not in LABEL_FREE and not has_label(train.labels).any():
        rule = f"{config.defense} learns from labels, and {' and '.join(LABEL_FREE)} do without"
        raise ArgumentError(f"`defense` {rule}; no train image has one")
    codes = sign_codes(logits_of(train))
    if config.unlabeled:
        others = unlabeled_images(splits.database, train)
        logits = logits_of(others)
        others = replace(others, labels=pseudo_labels(CodeBank(codes, train.labels), logits))
        train, codes = join_splits(train, others), torch.cat([codes, sign_codes(logits)])
    return train, CodeBank(codes.to(device), train.labels.to(device))


def make_step(config: HardenConfig, model: HashModel, parent: Card, bank: CodeBank) -> nn.Module:
    """Return the train step of the defense: with the parent's loss, the bank of what is trained on, and PGD inside."""
    device = bank.codes.device
    attack = PGD(
        ThreatModel("linf", config.epsilon * config.robustness),
        steps=config.steps,
        step_size=config.step_size * config.robustness,
        precision=config.precision,
        keep_best=False,
    )
    noise = GaussianNoise(config.noise * config.robustness) if config.noise else None
    batches = config.fit.epochs * count_batches(len(bank), config.fit.batch_size)
    settings: dict[str, Any] = {
        "mode": config.attack_mode,
        "seed": config.seed,
        "warmup": round(config.epsilon_warmup * batches),
    }
    inner = InnerAttack(noise or attack, **settings)
    if config.carry:
        inner = CarriedInnerAttack(attack, items=len(bank), image_size=parent.image_size, **settings)
    options = DefenseOptions(
        model=model,
        loss=build_loss(
            parent.loss, labels=bank.labels.cpu(), code_length=model.code_length, codes=bank.codes.cpu()
        ).to(device),
        bank=bank,
        inner=inner,
        make_objective=OBJECTIVES[config.objective],
        adversarial_weight=config.adversarial_weight,
        quantization_weight=config.quantization_weight,
        precision=config.precision,
        seed=config.seed,
        quiet=config.quiet,
    )
    return DEFENSES[config.defense](options).to(device)
