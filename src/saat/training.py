"""The one training loop. It serves clean and adversarial training, and resumes to the same bits after any stop."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saat.data.loading import batches, count_batches
from saat.data.splits import ImageSplit
from saat.errors import ArgumentError, CheckpointError, SaatError, check_at_least, check_choice
from saat.models.hash_model import check_trainable
from saat.runtime import (
    as_channels_last,
    atomic_write,
    autocast,
    counted_images,
    derive_seed,
    device_of,
    make_generator,
    pixels_of,
    progress,
    tensors_of,
    write_text,
)
from saat.types import Batch, StepOutput, TrainStep

STATE_FILE = "resume.pt"
LOG_FILE = "train.jsonl"
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "multistep": lambda done: 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01,
    "thirds": lambda done: 0.1 ** int(3.0 * done),
    "one-cycle": lambda done: done / 0.3 if done < 0.3 else (1.0 - done) / 0.7,
}
"""Share of the training that is done, in [0, 1) -> factor of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to train.

    Args:
        epochs: passes over the train split.
        batch_size: images a step.
        learning_rate: of SGD, at its highest.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: of the learning rate: linear (to zero), multistep (x0.1 at 1/2 and again at 3/4), thirds (x0.1 at
            1/3 and again at 2/3), or one-cycle (up from zero for 0.3 of the steps, and down to zero).
        augment: random crop and horizontal flip of train images.
        average: end with a running average of the weights that keeps this share of itself at each step; 0 for the last
            weights.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-5
    schedule: str = "linear"
    augment: bool = True
    average: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_at_least(f"fit.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "momentum", "weight_decay"):
            check_at_least(f"fit.{name}", getattr(self, name), 0.0)
        check_choice("fit.schedule", self.schedule, SCHEDULES)
        if not 0.0 <= self.average < 1.0:
            raise ArgumentError(f"`fit.average` is a share, at least 0 and below 1; got {self.average}")


def cost_of(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what a training took: seconds, and images that went through the model.

    >>> cost_of([{"seconds": 2.0, "model_evaluations": 100}, {"seconds": 1.5, "model_evaluations": 100}])
    {'seconds': 3.5, 'model_evaluations': 200}
    """
    return {name: sum(row[name] for row in history) for name in ("seconds", "model_evaluations")}


class WeightAverage:
    """A running average of a model's weights and buffers.

    Polyak and Juditsky, *Acceleration of Stochastic Approximation by Averaging*, SIAM J. Control and Optimization 1992;
    in adversarial training, Rebuffi et al., *Data Augmentation Can Improve Robustness*, NeurIPS 2021.

    Args:
        model: its state is where the average begins.
        keep: the share of itself that the average keeps at each step; less in the first steps, (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, keep: float) -> None:
        self.keep, self.steps = keep, 0
        self.state = {name: value.detach().clone() for name, value in tensors_of(model).items()}

    def update(self, model: nn.Module) -> None:
        """Take in the model as it is after a step."""
        keep = min(self.keep, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in model.state_dict().items():
            own = self.state[name]
            if value.is_floating_point():  # between equal infinities, as in the mask of an attention, lies no number
                own.copy_(torch.where(own == value, value, own.lerp(value, 1.0 - keep)))
            else:
                own.copy_(value)


class HashingStep(nn.Module):
    """The clean train step: a hashing loss on the logits.

    Args:
        loss: a hashing loss (`types.HashingLoss`); its buffers are part of the resume state.
        precision: of the forward pass; see `runtime.autocast`.
    """

    def __init__(self, loss: nn.Module, *, precision: str = "float32") -> None:
        super().__init__()
        self.loss = loss
        self.precision = precision

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        with autocast(self.precision, batch.images.device):
            logits = model(batch.images)
        loss = self.loss(logits.float(), batch.labels, batch.indices)
        return StepOutput(loss, {"hashing": loss.item()})


def fit(
    model: nn.Module,
    step: TrainStep,
    split: ImageSplit,
    options: FitOptions,
    *,
    folder: Path,
    run: Mapping[str, Any],
    seed: int = 0,
    label: str = "train",
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Train `model` in place on its device by SGD, and leave it in eval mode.

    After each epoch all state goes to `folder/resume.pt`, atomically. All randomness is derived from the seed, the
    epoch and the step, so a run that was killed at any moment and is started again ends with the same bits (on CPU).

    Args:
        model: images -> logits.
        step: the train step.
        split: the train split.
        options: how to train.
        folder: where the resume state and the log `train.jsonl` (a line an epoch) are kept.
        run: JSON-able identity of this run; a resume state of another run is refused.
        seed: of order, augmentation and dropout.
        label: what the progress bar says.
        quiet: show no bar.

    Returns:
        One row an epoch: epoch, seconds, images_per_second, learning_rate, model_evaluations (images that went through
        the model, those of attacks included, and through the step's `teachers`) and the mean of each part of the loss.

    Raises:
        ArgumentError: `model` cannot be trained, see `check_trainable`, or `folder` holds another run.
        CheckpointError: the resume state is damaged.
        SaatError: the loss, a weight or a running statistic is no longer finite.
    """
    device = device_of(model)
    check_trainable(model, pixels_of(split.images[:2], device))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    average = WeightAverage(model, options.average) if options.average else None
    # a user's model may hold infinities of its own, such as the mask of an attention
    finite = [name for name, value in tensors_of(model).items() if bool(torch.isfinite(value).all())]
    history = _resume(folder / STATE_FILE, run, model, optimizer, step, average)
    steps = count_batches(len(split), options.batch_size)
    bar = progress(range(options.epochs * steps), label, unit="batch", quiet=quiet)
    with closing(bar), counted_images([model, *getattr(step, "teachers", ())]) as evaluations:
        bar.update(len(history) * steps)
        for epoch in range(len(history), options.epochs):
            torch.manual_seed(derive_seed(seed, "epoch", epoch))  # dropout draws from the global generator
            model.train()
            began, before, totals = time.perf_counter(), evaluations(), dict[str, float]()
            generator = make_generator(seed, "order", epoch)
            train = batches(split, options.batch_size, device=device, generator=generator, augment=options.augment)
            for number, batch in enumerate(train):
                rate = options.learning_rate * SCHEDULES[options.schedule]((epoch + number / steps) / options.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                parts = _update(model, step, optimizer, batch, first=not history and number == 0)
                if average is not None:
                    average.update(model)
                for name, value in parts.items():
                    totals[name] = totals.get(name, 0.0) + value * len(batch.images) / len(split)
                bar.update()
            seconds = time.perf_counter() - began
            row = {"epoch": epoch + 1, "seconds": seconds, "images_per_second": len(split) / seconds}
            row |= {"learning_rate": rate, "model_evaluations": evaluations() - before} | totals
            history.append(row)
            bar.set_postfix({name: f"{value:.3g}" for name, value in totals.items()})
            _save(folder, run, model, optimizer, step, average, history)
    if average is not None:
        model.load_state_dict(average.state)
    broken = [name for name in finite if not bool(torch.isfinite(model.state_dict()[name]).all())]
    if broken:  # running statistics can overflow while the loss, of the batch's own, stays finite
        raise SaatError(
            f"the training broke: {broken[0]} is no longer finite; try a lower `fit.learning_rate`, in another folder"
        )
    model.eval()
    return history


def _update(
    model: nn.Module, step: TrainStep, optimizer: torch.optim.Optimizer, batch: Batch, *, first: bool
) -> Mapping[str, float]:
    output = step(model, replace(batch, images=as_channels_last(batch.images)))
    if not bool(torch.isfinite(output.loss)):
        broken, found = int((~torch.isfinite(model(batch.images)).all(1)).sum()), dict(output.parts)
        if first and broken:
            rule = "`model` gives finite logits before it is trained"
            raise ArgumentError(f"{rule}; got others for {broken} of {len(batch.images)} train images")
        raise SaatError(f"the loss is no longer finite ({found}); try a lower `fit.learning_rate`, in another folder")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(output.loss)
    optimizer.step()
    return output.parts


def _save(
    folder: Path,
    run: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: TrainStep,
    average: WeightAverage | None,
    history: list[dict[str, float]],
) -> None:
    state = {
        "run": json.dumps(run, sort_keys=True),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step.state_dict(),
        "history": history,
        "average": None if average is None else {"state": average.state, "steps": average.steps},
    }
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(folder / STATE_FILE) as file:
        file.write(content.getvalue())
    write_text(folder / LOG_FILE, "".join(json.dumps(row) + "\n" for row in history))


def _resume(
    path: Path,
    run: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: TrainStep,
    average: WeightAverage | None,
) -> list[dict[str, float]]:
    """Take back the state at `path`, if there is one; return the rows of the epochs that are done."""
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        ours, theirs = json.loads(json.dumps(run)), json.loads(state["run"])
    except Exception as error:  # a damaged archive raises anything from RuntimeError to EOFError
        raise CheckpointError(f"{path} is damaged ({error}); delete it to train from the start") from error
    changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if changed:
        found = ", ".join(f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} now" for key in changed)
        raise ArgumentError(f"`out` is a new folder or that of the same run; {path.parent} holds another ({found})")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ArgumentError(f"`out` is a new folder; {path.parent} has a run of a model with other weights") from error
    optimizer.load_state_dict(state["optimizer"])
    step.load_state_dict(state["step"])
    if average is not None:
        average.steps = state["average"]["steps"]
        for name, value in state["average"]["state"].items():
            average.state[name].copy_(value)
    history: list[dict[str, float]] = state["history"]
    return history
