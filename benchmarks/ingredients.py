"""Ingredients that query-side training does not have, to be tried: each stands around its train step."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from saat.attacks.goals import SemanticGoal
from saat.attacks.gradient import PGD
from saat.attacks.objectives import margin_objective
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.data.loading import count_batches
from saat.data.splits import ImageSplit
from saat.defenses.catalog import DEFENSES, DefenseOptions
from saat.defenses.inner import InnerAttack
from saat.evaluation.metrics import evaluate_retrieval
from saat.hamming import sign_codes
from saat.models.checkpoint import DATABASE_FOLDER, Card, load_checkpoint, save_checkpoint
from saat.models.hash_model import encode_logits
from saat.recipes.harden import HardenConfig, harden
from saat.recipes.subject import splits_of
from saat.runtime import atomic_write
from saat.training import STATE_FILE
from saat.types import Batch, CodeObjective, StepOutput

AWP_SIZE = 0.005  # of a layer's weights, as in the paper
STRONG = 3  # epochs at the end
HELD_OUT = 0.1  # of the train split
FIRST_LOOK, LOOKS = 0.5, 6  # from this share of the epochs on, so many of them
BEST_FILE = "best.pt"
WrapStep = Callable[[nn.Module, DefenseOptions], nn.Module]


class Remembered(InnerAttack):
    """An inner attack that gives its last images again until it is told to forget them."""

    def __init__(self, inner: InnerAttack) -> None:
        super().__init__(inner.attack, mode=inner.mode, seed=inner.seed)
        self.kept: Tensor | None = None

    def forward(self, model: nn.Module, batch: Batch, objective: CodeObjective) -> Tensor:
        if self.kept is None:
            self.kept = super().forward(model, batch, objective)
        return self.kept


class WeightPerturbation(nn.Module):
    """Take the gradient where the weights are moved, each layer by a share of its length, to where the loss is higher.

    Wu, Xia, Wang, *Adversarial Weight Perturbation Helps Robust Generalization*, NeurIPS 2020. Batch statistics see
    each batch twice here.
    """

    def __init__(self, step: nn.Module, size: float) -> None:
        super().__init__()
        self.step, self.size = step, size
        self.inner = Remembered(cast(InnerAttack, step.inner))
        step.inner = self.inner

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return a loss whose gradient at the weights as they are is that at the moved ones."""
        self.inner.kept = None
        layers = [weight for weight in model.parameters() if weight.ndim > 1]
        first = self.step(model, batch)
        gradients = torch.autograd.grad(first.loss, layers)
        moves = [
            self.size * weight.detach().norm() / gradient.norm().clamp(min=1e-12) * gradient
            for weight, gradient in zip(layers, gradients, strict=True)
        ]
        weights = list(model.parameters())
        with _moved(layers, moves):
            second = self.step(model, batch)
            gradients = torch.autograd.grad(second.loss, weights)
        linear = torch.stack([(weight * gradient).sum() for weight, gradient in zip(weights, gradients, strict=True)])
        return StepOutput(linear.sum() - linear.sum().detach() + second.loss.detach(), second.parts)


@contextmanager
def _moved(weights: list[nn.Parameter], moves: list[Tensor]) -> Iterator[None]:
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move)
    yield
    with torch.no_grad():
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)


class StrongFinish(nn.Module):
    """Search with more steps in the last epochs."""

    def __init__(self, step: nn.Module, *, after: int) -> None:
        super().__init__()
        self.step, self.after = step, after

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        inner = cast(InnerAttack, self.step.inner)
        if int(inner.calls) >= self.after:  # which a training that was stopped has kept
            inner.attack = PGD(
                cast(PGD, inner.attack).threat, steps=7, step_size=2.5 / 255, precision="auto", keep_best=False
            )
        output: StepOutput = self.step(model, batch)
        return output


class EarlyStopping(nn.Module):
    """Train without a part of the train split, and keep the averaged weights that do best on it under attack.

    Rice, Wong, Kolter, *Overfitting in Adversarially Robust Deep Learning*, ICML 2020.
    """

    def __init__(
        self, step: nn.Module, model: nn.Module, held: ImageSplit, bank: CodeBank, *, out: Path, steps: int, epochs: int
    ) -> None:
        super().__init__()
        self.step, self.held, self.out, self.steps = step, held, out, steps
        self.copy = deepcopy(model)
        self.first_held = len(bank) - len(held)
        self.bank = CodeBank(bank.codes[: self.first_held], bank.labels[: self.first_held])
        first = int(FIRST_LOOK * epochs)
        self.epochs = {first + (epochs - first) * look // LOOKS for look in range(LOOKS)} - {0}
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"step": self.step.state_dict(), "calls": self.calls}

    def load_state_dict(self, state_dict: Any, *_: Any, **__: Any) -> Any:
        self.step.load_state_dict(state_dict["step"])
        self.calls.copy_(state_dict["calls"])

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        epoch, inside = divmod(int(self.calls), self.steps)
        if not inside and epoch in self.epochs:
            state = torch.load(self.out / STATE_FILE, map_location="cpu", weights_only=True)["average"]["state"]
            self.look(state, epoch)
        self.calls += 1
        return self.step(model, batch.select(batch.indices < self.first_held))

    def look(self, state: dict[str, Tensor], epoch: int) -> dict[str, Any]:
        """Measure weights on what was held out, and write them down if they are the best; return the best."""
        self.copy.load_state_dict(state)
        images, labels = self.held.images.float() / 255.0, self.held.labels
        attack = PGD(ThreatModel("linf", 8 / 255), steps=10, step_size=2 / 255, precision="auto")
        goal = SemanticGoal(self.bank, make_objective=margin_objective)
        adversarial = attack(self.copy, images, goal(self.copy, images, labels))
        codes = sign_codes(encode_logits(self.copy, adversarial, quiet=True))
        found = evaluate_retrieval(codes, labels, self.bank.codes, self.bank.labels).map
        path = self.out / BEST_FILE
        best = torch.load(path, weights_only=True) if path.exists() else {"map": -1.0}
        if found > best["map"]:
            best = {"map": found, "epoch": epoch, "state": {name: value.clone() for name, value in state.items()}}
            content = io.BytesIO()
            torch.save(best, content)
            with atomic_write(path) as file:
                file.write(content.getvalue())
        print(f"epoch {epoch}: MAP under attack on what was held out {found:.4f}, best {best['map']:.4f}", flush=True)
        return best


@contextmanager
def _registered(wrap: WrapStep) -> Iterator[None]:
    """Let `wrap` change the train step of query-side training inside the block."""
    catalog = cast(dict[str, Any], DEFENSES)
    plain = catalog["query-side"]
    catalog["query-side"] = lambda options: wrap(plain(options), options)
    try:
        yield
    finally:
        catalog["query-side"] = plain


def with_weight_perturbation(config: HardenConfig) -> Card:
    """Harden with adversarial weight perturbation."""
    with _registered(lambda step, _: WeightPerturbation(step, AWP_SIZE)):
        return harden(config)


def with_strong_finish(config: HardenConfig) -> Card:
    """Harden with more steps of the inner attack in the last epochs."""
    epochs = config.fit.epochs - STRONG

    def wrap(step: nn.Module, options: DefenseOptions) -> nn.Module:
        return StrongFinish(step, after=epochs * count_batches(len(options.bank), config.fit.batch_size))

    with _registered(wrap):
        return harden(config)


def with_early_stopping(config: HardenConfig) -> Card:
    """Harden without a tenth of the train split, and keep the weights that do best on it under attack."""
    parent, card = load_checkpoint(config.checkpoint)
    train = splits_of(card, config.checkpoint, quiet=True).train
    first = len(train) - int(HELD_OUT * len(train))
    held = replace(
        train,
        name="held out",
        images=train.images[first:],
        labels=train.labels[first:],
        item_names=train.item_names[first:],
        digests=train.digests[first:],
    )
    last = replace(config, out=config.out.with_name(f"{config.out.name}-last"))  # whose card says when that is done
    steps = count_batches(len(train), config.fit.batch_size)
    watched: list[EarlyStopping] = []

    def wrap(step: nn.Module, options: DefenseOptions) -> nn.Module:
        bank = options.bank
        watched.append(EarlyStopping(step, parent, held, bank, out=last.out, steps=steps, epochs=config.fit.epochs))
        return watched[0]

    with _registered(wrap):
        card = harden(last)
    model, _ = load_checkpoint(last.out)
    best = watched[0].look(model.state_dict(), config.fit.epochs)
    model.load_state_dict(best["state"])
    card = replace(card, training=card.training | {"kept_epoch": best["epoch"]})
    save_checkpoint(config.out / DATABASE_FOLDER, *load_checkpoint(last.out / DATABASE_FOLDER))
    save_checkpoint(config.out, model, card)
    return card
