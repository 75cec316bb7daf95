"""What bench_attack.py attacks: a ResNet-20 at 32 pixels and an AlexNet at 224, with queries and database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from saat.codes.bank import CodeBank
from saat.data.catalog import DataOptions, load_splits
from saat.data.splits import Splits
from saat.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from saat.hamming import sign_codes
from saat.losses.catalog import build_loss
from saat.models.checkpoint import CARD_FILE
from saat.models.hash_model import HashModel, build_model, encode_logits
from saat.recipes.subject import load_subject
from saat.recipes.train import TrainConfig, train
from saat.training import FitOptions

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """A model, its queries and its database."""

    name: str
    model: HashModel
    bank: CodeBank
    images: Tensor
    labels: Tensor
    database_codes: Tensor
    database_labels: Tensor
    epsilon: float
    effort: Effort
    note: str

    def measure(self, images: Tensor) -> RetrievalMetrics:
        """Return the retrieval metrics of these images as queries."""
        codes = sign_codes(encode_logits(self.model, images, quiet=True))
        return evaluate_retrieval(codes, self.labels, self.database_codes, self.database_labels)


@dataclass(frozen=True)
class Effort:
    """How much is measured in one setting."""

    queries: int
    train_size: int
    database_size: int
    epochs: int
    throughput_steps: int
    repeats: int
    map_repeats: int


def resnet20_setting(checkpoint: Path | None, work: Path, effort: Effort, *, epsilon: float) -> Setting:
    """Load a checkpoint; without one, train a CSQ model on the embedded garments, once."""
    note = f"checkpoint {checkpoint}"
    if checkpoint is None:
        checkpoint = work / f"resnet20-{effort.train_size}"
        note = f"CSQ on {effort.train_size} embedded garments from random weights, {effort.epochs} epochs"
        if not (checkpoint / CARD_FILE).exists():
            fit = FitOptions(epochs=effort.epochs, batch_size=64, learning_rate=0.1)
            data = DataOptions(train_size=effort.train_size, database_size=effort.database_size)
            threads = torch.get_num_threads()
            train(TrainConfig(out=checkpoint, data=data, loss="csq", fit=fit, threads=threads, quiet=True))
    subject = load_subject(checkpoint, None, None, device=CPU, quiet=True)
    return make_setting("resnet20", subject.model, subject.splits, effort, epsilon=epsilon, note=note)


def alexnet_setting(effort: Effort, *, epsilon: float) -> Setting:
    """Train the hash layer alone, on a few garments at 224 pixels and the features of a random AlexNet."""
    sizes = {"train_size": effort.train_size, "query_size": effort.queries, "database_size": effort.database_size}
    splits = load_splits(DataOptions(image_size=224, **sizes), quiet=True)
    torch.manual_seed(0)
    model, _ = build_model("alexnet", code_length=32, weights="random")
    train_hash_layer(model.eval(), splits, epochs=effort.epochs)
    note = f"ImageNet weights cannot be had offline: random AlexNet, hash layer trained on {effort.train_size} garments"
    return make_setting("alexnet", model, splits, effort, epsilon=epsilon, note=note)


def train_hash_layer(model: HashModel, splits: Splits, *, epochs: int) -> None:
    """Fit the hash layer by CSQ on standardized features; the standardization then becomes part of the layer."""
    layer = model.hash_layer
    model.hash_layer = nn.Identity()
    features = encode_logits(model, splits.train.images, quiet=True)
    deviation, mean = torch.std_mean(features, dim=0)
    scale = deviation + deviation.mean()  # a feature that hardly moves here must not explode on other images
    features = (features - mean) / scale
    loss = build_loss("csq", labels=splits.train.labels, code_length=model.code_length)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    labels, indices = splits.train.labels.float(), torch.arange(len(features))
    for _ in range(epochs):
        optimizer.zero_grad()
        torch.autograd.backward(loss(layer(features), labels, indices))
        optimizer.step()
    with torch.no_grad():
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ mean)
    model.hash_layer = layer


def make_setting(name: str, model: HashModel, splits: Splits, effort: Effort, *, epsilon: float, note: str) -> Setting:
    """Encode train split and database, and take the first queries."""
    encoded = (encode_logits(model, split.images, quiet=True) for split in (splits.train, splits.database))
    train_codes, database_codes = (sign_codes(logits) for logits in encoded)
    return Setting(
        name=name,
        model=model.eval(),
        bank=CodeBank(train_codes, splits.train.labels),
        images=splits.query.images[: effort.queries].float() / 255.0,
        labels=splits.query.labels[: effort.queries],
        database_codes=database_codes,
        database_labels=splits.database.labels,
        epsilon=epsilon,
        effort=effort,
        note=note,
    )
