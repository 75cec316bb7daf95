"""Checkpoints: `model.safetensors` and `card.json`, all that is needed to rebuild a model and to know its origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from saat import __version__
from saat.errors import ArgumentError, CheckpointError, check_code_length
from saat.models.hash_model import HashModel, build_model, import_model
from saat.runtime import atomic_write, tensors_of, write_text

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
DATABASE_FOLDER = "database"


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    Args:
        backbone: name of the backbone, or `package.module:factory` for a model of the user's own.
        weights: where the backbone's first weights came from.
        code_length: K, in bits.
        image_size: height and width of the images, in pixels.
        loss: name of the hashing loss.
        data: options of the data set.
        manifest: sizes, checksums and statistics of the splits.
        training: options and cost of the training.
        metrics: what was measured at its end.
        defense: name of the defense, none for a plain model.
        parent: path of the checkpoint it was hardened from.
        database_model: checksum of the model whose codes the database keeps, for a checkpoint of a model for queries
            only; that model's checkpoint is in the folder `database` of this one.
        mirror: the model takes the mean over each image and its mirror image; see `HashModel`.
        versions: of saat, Python and torch.
    """

    backbone: str
    weights: str
    code_length: int
    image_size: int
    loss: str
    data: dict[str, Any]
    manifest: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    defense: str | None = None
    parent: str | None = None
    database_model: str | None = None
    mirror: bool = False
    versions: dict[str, str] = field(default_factory=lambda: {"saat": __version__})


def save_checkpoint(folder: Path, model: HashModel, card: Card) -> None:
    """Write weights and card to `folder`, each atomically; the card, last, makes the checkpoint valid."""
    with atomic_write(folder / WEIGHTS_FILE) as file:
        file.write(_serialized(tensors_of(model)))
    write_text(folder / CARD_FILE, json.dumps(asdict(card), indent=2) + "\n")


def weights_checksum(model: nn.Module) -> str:
    """Return a checksum of the model's weights and buffers, and of whether it mirrors, 32 hexadecimal digits.

    What else a user's model has in its state, and no checkpoint takes, does not count.
    """
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    mirror = b"mirror" if getattr(model, "mirror", False) else b""
    return hashlib.sha256(_serialized(state) + mirror).hexdigest()[:32]


def _serialized(state: Mapping[str, Tensor]) -> bytes:
    # Clones, since safetensors refuses weights that a user's model ties together.
    content: bytes = safetensors.torch.save({name: value.cpu().contiguous().clone() for name, value in state.items()})
    return content


def load_database_model(folder: Path, model: HashModel, card: Card, *, model_factory: str | None = None) -> HashModel:
    """Return the model whose codes the database has: that of the folder `database`, or `model` itself.

    Args:
        folder: of the checkpoint.
        model: of the checkpoint, which encodes queries.
        card: of the checkpoint.
        model_factory: as for `load_checkpoint`.

    Raises:
        CheckpointError: the folder `database` is missing, damaged or of another model.
    """
    if card.database_model is None:
        return model
    database_model, _ = load_checkpoint(folder / DATABASE_FOLDER, model_factory=model_factory)
    if weights_checksum(database_model) != card.database_model:
        raise CheckpointError(f"{folder / DATABASE_FOLDER} is of another model than the card of {folder} names")
    return database_model


def read_card(folder: Path) -> Card:
    """Read the card of the checkpoint in `folder`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        card = Card(**json.loads((folder / CARD_FILE).read_text(encoding="utf-8")))
        build_kind = (type(card.backbone), type(card.code_length), type(card.image_size))
        if build_kind != (str, int, int):
            raise TypeError("backbone is a string, code_length and image_size are integers")
        check_code_length(card.code_length)
        return card
    except FileNotFoundError:
        raise CheckpointError(
            f"`checkpoint` is a folder with {CARD_FILE} and {WEIGHTS_FILE}; found no {CARD_FILE} in {folder}"
        ) from None
    except (OSError, ValueError, TypeError) as error:  # a code length of 50 is a ValueError too
        raise CheckpointError(f"{folder / CARD_FILE} is damaged: {error}") from error


def load_checkpoint(folder: Path, *, model_factory: str | None = None) -> tuple[HashModel, Card]:
    """Rebuild the model of the checkpoint in `folder`, in eval mode on the CPU.

    Args:
        folder: holds `model.safetensors` and `card.json`.
        model_factory: `package.module:factory`, needed for a model of the user's own: a card alone never makes saat
            import code.

    Raises:
        ArgumentError: `model_factory` cannot be built, or the checkpoint is not of a model of one's own.
        CheckpointError: the checkpoint is missing, damaged or of another model.
    """
    card = read_card(folder)
    if model_factory is not None and ":" not in card.backbone:
        raise ArgumentError(f"`model` is for checkpoints of your own model; {folder} is of backbone {card.backbone}")
    if ":" in card.backbone:
        if model_factory is None:
            raise CheckpointError(f"{folder} was made with `model` {card.backbone}; give --model {card.backbone} again")
        model = import_model(model_factory, image_size=card.image_size)
        if model.code_length != card.code_length:
            found = f"{model.code_length} there, {card.code_length} in the card of {folder}"
            raise CheckpointError(f"`model` {model_factory} has as many bits as the checkpoint; found {found}")
    else:
        model, _ = build_model(card.backbone, code_length=card.code_length, weights="random")
    path = folder / WEIGHTS_FILE
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise CheckpointError(f"`checkpoint` is a folder with {WEIGHTS_FILE}; found none in {folder}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit backbone {card.backbone} of its card: {error}") from error
    model.mirror = card.mirror
    return model.eval(), card
