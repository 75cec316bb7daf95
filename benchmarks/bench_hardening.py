"""What hardening costs: the published loop, our SAAT and query-side training on the CIFAR-10 protocol, in one run.

python benchmarks/bench_hardening.py [--quick] [--checkpoint DIR] [--threads N]

A few batches of each are timed in turns, and multiplied by the batches of the whole training: 8 epochs of SAAT in
batches of 32 with 7 gradient steps, the epochs of the preset `query-side`, and those with the database's images beside.

* published: SAAT as released (written anew from the formulas): float32, channels first, the inner attack in training
  mode with a backward pass that reaches the weights too;
* saat, query-side and with images unlabeled: our loop, in the fastest precision here.

The whole trainings are in results/defenses, with wall times of a machine that had other work.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_defenses import DEFENSES, EPOCHS
from bench_protocol import RESULTS, paper_fit
from provenance import heading

from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.data.loading import batches
from saat.data.splits import ImageSplit
from saat.defenses.papers import PRESETS
from saat.hamming import sign_codes
from saat.losses.catalog import build_loss
from saat.models.checkpoint import Card, load_checkpoint
from saat.models.hash_model import HashModel
from saat.recipes.harden import HardenConfig, make_step, training_items
from saat.recipes.subject import splits_of
from saat.runtime import as_channels_last, make_generator, set_threads, write_text
from saat.types import Batch

RESULT = RESULTS / "hardening.json"
TRAININGS: dict[str, dict[str, Any]] = {
    "saat": PRESETS["saat"] | {"fit": paper_fit(EPOCHS)},
    **{name: DEFENSES[name] for name in ("query-side", "query-side, unlabeled")},
}


Parent = tuple[HashModel, Card, ImageSplit, CodeBank]


def load_parent(config: HardenConfig) -> Parent:
    """Return the model to harden, its card, what it is trained on, and the bank of that."""
    model, parent = load_checkpoint(config.checkpoint)
    splits = splits_of(parent, config.checkpoint, quiet=True)
    return model, parent, *training_items(config, model, splits, torch.device("cpu"))


def endless_batches(config: HardenConfig, train: ImageSplit, order: torch.Generator) -> Iterator[Batch]:
    """Yield batches as the training has them, epoch after epoch."""
    fit, device = config.fit, torch.device("cpu")
    while True:
        yield from batches(train, fit.batch_size, device=device, generator=order, augment=fit.augment)


def timed_steps(config: HardenConfig, loaded: Parent, steps: int) -> Iterator[float]:
    """Yield the seconds a batch takes, each time the mean over `steps` batches more."""
    model, parent, train, bank = loaded
    step = make_step(config, deepcopy(model), parent, bank)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=config.fit.momentum)
    order = make_generator(0, "order")
    source = endless_batches(config, train, order)
    while True:
        began = time.perf_counter()
        for _ in range(steps):
            batch = next(source)
            output = step(model, replace(batch, images=as_channels_last(batch.images)))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(output.loss)
            optimizer.step()
        yield (time.perf_counter() - began) / steps


def published_steps(config: HardenConfig, loaded: Parent, steps: int) -> Iterator[float]:
    """Yield the seconds a batch takes in the published loop, each time the mean over `steps` batches more."""
    model, parent, train, bank = loaded
    hashing = build_loss(parent.loss, labels=bank.labels, code_length=model.code_length)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    order = make_generator(0, "order")
    source = endless_batches(config, train, order)
    while True:
        began = time.perf_counter()
        for _ in range(steps):
            batch = next(source)
            images, mainstay = batch.images.contiguous(), mainstay_codes(bank, batch.labels).float()
            change = (torch.rand(images.shape, generator=order) * 2.0 - 1.0) * config.epsilon
            for _ in range(config.steps):
                change.requires_grad_()
                torch.autograd.backward((torch.tanh(model(images + change)) * mainstay).mean())
                assert change.grad is not None
                moved = (change.detach() - config.step_size * change.grad.sign()).clamp(-config.epsilon, config.epsilon)
                change = (images + moved).clamp(0.0, 1.0) - images
            optimizer.zero_grad()
            relaxed = torch.tanh(model(images + change))
            quantization = (relaxed - relaxed.detach().sign()).square().mean()
            alignment = -(relaxed * mainstay).mean() + config.quantization_weight * quantization
            logits = model(images)
            torch.autograd.backward(hashing(logits, batch.labels, batch.indices) + alignment)
            bank.update_(batch.indices, sign_codes(logits.detach()))
            optimizer.step()
        yield (time.perf_counter() - began) / steps


def main() -> None:
    """Measure from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/benchmarks/cifar10-seed0/plain"))
    parser.add_argument("--threads", type=int, default=0, help="0 for OMP_NUM_THREADS if set, else every core")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    options = parser.parse_args()
    set_threads(options.threads)
    out = Path("unused")  # nothing is written there
    configs = {name: HardenConfig(checkpoint=options.checkpoint, out=out, **o) for name, o in TRAININGS.items()}
    images = 16 * 32
    configs["published"] = configs["saat"]
    parents = {name: load_parent(config) for name, config in configs.items()}
    sources = {
        name: (published_steps if name == "published" else timed_steps)(
            config, parents[name], images // config.fit.batch_size
        )
        for name, config in configs.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(1 + (3 if options.quick else 9)):
        for name, source in sources.items():
            if turn == 0:
                next(source)  # warm-up
            else:
                seconds[name].append(next(source))
    result: dict[str, Any] = heading() | {"turns": len(seconds["saat"]), "trainings": {}}
    for name, values in seconds.items():
        fit = configs[name].fit
        whole = [value * fit.epochs * math.ceil(len(parents[name][2]) / fit.batch_size) for value in values]
        spread = {"median": statistics.median(whole), "spread": [min(whole), max(whole)]}
        result["trainings"][name] = {"epochs": fit.epochs, "batch_size": fit.batch_size, "seconds": spread}
    totals = {name: training["seconds"]["median"] for name, training in result["trainings"].items()}
    headline = {
        "time_over_published": round(totals["query-side"] / totals["published"], 3),
        "time_over_saat": round(totals["query-side"] / totals["saat"], 3),
        "unlabeled_time_over_published": round(totals["query-side, unlabeled"] / totals["published"], 3),
    }
    write_text(RESULT, json.dumps(headline | result, indent=2) + "\n")
    print(json.dumps(headline | {name: round(value, 1) for name, value in totals.items()}))


if __name__ == "__main__":
    main()
