"""The subject of a measurement: a model with its data, from a checkpoint or from the user's own factory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saat.data.catalog import DataOptions, decode_splits, load_splits, read_collection
from saat.data.splits import Splits
from saat.defenses.purification import PURIFIERS, PurifiedModel, PurifierOptions
from saat.errors import ArgumentError, DataError
from saat.models.checkpoint import Card, load_checkpoint, load_database_model, weights_checksum
from saat.models.folding import folded
from saat.models.hash_model import HashModel, check_image_size, import_model
from saat.runtime import device_of
from saat.types import has_label


def name_of(name: str, checkpoint: Path | None) -> str:
    """Return what reports call a model: its given name, or that of its checkpoint's folder.

    >>> name_of("", Path("runs/plain")), name_of("mine", None), name_of("", None)
    ('plain', 'mine', 'own')
    """
    return name or (checkpoint.resolve().name if checkpoint is not None else "own")


@dataclass(frozen=True)
class Subject:
    """A model and the data it is measured on.

    Args:
        model: in eval mode, on its device; it encodes queries.
        splits: decoded.
        data: the options the splits came from.
        about: what reports say of the model.
        database_model: encodes the database; `model` itself but for a checkpoint of a model for queries only.
        data_given: whether `data` was asked for, and is not what a card says.
    """

    model: HashModel
    splits: Splits
    data: DataOptions
    about: dict[str, Any]
    database_model: HashModel
    data_given: bool = False

    @property
    def frame(self) -> dict[str, int]:
        """How the images were cut, which checksums of their files do not tell."""
        return {"image_size": self.splits.query.images.shape[-1], "crop_border": self.data.crop_border}

    @cached_property
    def checksum(self) -> str:
        """The checksum of the weights of the queries' model."""
        return weights_checksum(self.model)

    def data_entry(self) -> dict[str, Any]:
        """Return what reports say of the data, for JSON.

        Its `options` are what was asked for in place of the data of the model's card, as on the command line.
        """
        plain, options = DataOptions(), {}
        if self.data_given:
            chosen = {name: value for name, value in vars(self.data).items() if value != getattr(plain, name)}
            options = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
            options = {"name": self.data.name} | options
        return {"name": self.data.name, "options": options, **self.frame, **self.splits.manifest()}

    @cached_property
    def view(self) -> nn.Module:
        """What attacks search: the model, folded, or, behind a purifier, what an adaptive attacker sees of it."""
        return self.model.attack_view() if isinstance(self.model, PurifiedModel) else folded(self.model)


def load_subject(
    checkpoint: Path | None, model: str | None, data: DataOptions | None, *, device: torch.device, quiet: bool
) -> Subject:
    """Load a checkpoint with the data of its card, or a model of the user's own with the data given.

    Args:
        checkpoint: folder of a checkpoint.
        model: `package.module:factory`; alone, or with the checkpoint of such a model.
        data: other data than that of the card; needed without a checkpoint.
        device: where the model goes.
        quiet: show no bars.

    Raises:
        ArgumentError: neither checkpoint nor model is given.
        DataError: the data of the card has changed since.
    """
    check_given(checkpoint, model)
    if checkpoint is None:
        own, splits, options = load_own(model or "", data, quiet=quiet)
        about = {"checkpoint": None, "backbone": model, "code_length": own.code_length, "defense": None}
        own = own.to(device)
        return Subject(own, splits, options, about, own, data_given=data is not None)
    hash_model, card = load_checkpoint(checkpoint, model_factory=model)
    database_model = load_database_model(checkpoint, hash_model, card, model_factory=model)
    options = data or data_options(card.data)
    splits = other_splits(data, hash_model, quiet=quiet) if data else splits_of(card, checkpoint, quiet=quiet)
    about = {
        "checkpoint": str(checkpoint),
        "backbone": card.backbone,
        "weights": card.weights,
        "code_length": card.code_length,
        "loss": card.loss,
        "defense": card.defense,
        "parent": card.parent,
        "mirror": card.mirror,
        "database_model": card.database_model,
        "train_seconds": card.training["seconds"],
        "epochs": card.training["fit"]["epochs"],
    }
    hash_model = hash_model.to(device)
    return Subject(hash_model, splits, options, about, database_model.to(device), data_given=data is not None)


def check_given(checkpoint: Path | None, model: str | None) -> None:
    """Raise where there is nothing to load.

    Raises:
        ArgumentError: neither checkpoint nor model is given.
    """
    if checkpoint is None and model is None:
        raise ArgumentError("give `checkpoint`, a folder that train or harden wrote, or `model`, your own factory")


def load_own(model: str, data: DataOptions | None, *, quiet: bool) -> tuple[HashModel, Splits, DataOptions]:
    """Return a model of the user's own, `package.module:factory`, in eval mode, with its splits and their options.

    Raises:
        ArgumentError: the model cannot be built, or does not take images of this size; or a split is larger than what
            there is.
        DataError: the set cannot be read.
    """
    options = data or DataOptions()
    collection = read_collection(options)
    own = import_model(model, image_size=collection.image_size).eval()
    return own, decode_splits(collection, options, quiet=quiet), options


def check_train_labels(subject: Subject, *, needed_by: str) -> None:
    """Raise unless some train image has a label.

    Raises:
        ArgumentError: none has.
    """
    if not has_label(subject.splits.train.labels).any():
        raise ArgumentError(f"{needed_by} is made of labels of train images; got none with one")


def purified(subject: Subject, purifier: str | None, *, seed: int, quiet: bool) -> Subject:
    """Return the subject behind the purifier of this name, which is fitted here if it must be; as it is for none."""
    if purifier is None:
        return subject
    device = device_of(subject.model)
    options = PurifierOptions(images=subject.splits.train.images, seed=seed, device=device, quiet=quiet)
    purify = PURIFIERS[purifier](options)
    model = PurifiedModel(subject.model, purify).eval()
    same = subject.database_model is subject.model
    database_model = model if same else PurifiedModel(subject.database_model, purify).eval()
    defense = " + ".join(filter(None, (subject.about["defense"], purifier)))  # so that a leaderboard tells them apart
    about = subject.about | {"defense": defense, "purifier": purifier}
    return replace(subject, model=model, database_model=database_model, about=about)


def load_surrogates(
    checkpoints: Sequence[Path], subject: Subject, data: DataOptions | None, *, quiet: bool
) -> list[Subject]:
    """Load other models, on which attacks are made that are then tried on `subject`.

    Args:
        checkpoints: their folders.
        subject: the attacked model with its data.
        data: other data than that of their cards.
        quiet: show no bars.

    Raises:
        ArgumentError: a surrogate takes images of another size, or knows other labels.
    """
    device = device_of(subject.model)
    others = []
    for path in checkpoints:
        other = load_subject(path, None, data, device=device, quiet=quiet)
        ours, theirs = (each.splits.query.images.shape[-1] for each in (subject, other))
        if ours != theirs:
            raise ArgumentError(f"`surrogate` takes images of {ours} px, as the attacked model; {path} has {theirs} px")
        known, found = (tuple(each.splits.class_names) for each in (subject, other))
        if known != found:
            raise ArgumentError(
                f"`surrogate` knows the attacked model's {len(known)} labels ({', '.join(known[:3])}, ...); {path} has "
                f"{len(found)} ({', '.join(found[:3])}, ...)"
            )
        others.append(other)
    return others


def other_splits(data: DataOptions, model: HashModel, *, quiet: bool) -> Splits:
    """Load splits that are not those of the model's card.

    Raises:
        ArgumentError: a split is larger than what there is, or the model does not take images of this size.
        DataError: the set cannot be read.
    """
    collection = read_collection(data)
    check_image_size(model, collection.image_size)
    return decode_splits(collection, data, quiet=quiet)


def splits_of(card: Card, checkpoint: Path, *, quiet: bool) -> Splits:
    """Load the splits that a card describes.

    Raises:
        DataError: they cannot be read, or have changed since.
    """
    other = "give --data.root if they lie elsewhere now, or --data.name and its options for other images"
    try:
        splits = load_splits(data_options(card.data), quiet=quiet)
    except DataError as error:
        raise DataError(f"the images of {checkpoint}'s card cannot be read: {error}; {other}") from error
    if splits.checksums() != card.manifest["checksums"]:
        raise DataError(
            f"the images of {checkpoint}'s card are not those it was trained on: their checksums differ; {other}"
        )
    return splits


def data_options(values: dict[str, Any]) -> DataOptions:
    """Return the data options that a card holds."""
    root = values.get("root")
    return DataOptions(**(values | {"root": Path(root) if root else None}))
