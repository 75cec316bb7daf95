"""What hardening costs: seconds of SAAT and of query-side training on the CIFAR-10 protocol, in turns in one run.

python benchmarks/bench_hardening.py [--quick] [--checkpoint DIR] [--threads N]

A few batches of each are timed in turns, and multiplied by the batches of the whole training: 8 epochs of SAAT in
batches of 32 with 7 gradient steps (our own loop, in the fastest precision here), and the epochs of the preset
`query-side`. The whole trainings are in results/defenses, with wall times of a machine that had other work.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from bench_defenses import DEFENSES, EPOCHS
from bench_protocol import RESULTS, heading, paper_fit

from saat.data.loading import batches
from saat.models.checkpoint import load_checkpoint
from saat.recipes.harden import PRESETS, HardenConfig, make_step, training_items
from saat.recipes.subject import splits_of
from saat.runtime import as_channels_last, make_generator, set_threads, write_text
from saat.types import Batch

RESULT = RESULTS / "hardening.json"
TRAININGS: dict[str, dict[str, Any]] = {
    "saat": PRESETS["paper"] | {"fit": paper_fit(EPOCHS)},
    "query-side": DEFENSES["query-side"],
}


def timed_steps(config: HardenConfig, steps: int) -> Iterator[float]:
    """Yield the seconds a batch takes, each time the mean over `steps` batches more."""
    model, parent = load_checkpoint(config.checkpoint)
    splits = splits_of(parent, config.checkpoint, quiet=True)
    train, bank = training_items(config, model, splits, torch.device("cpu"))
    step = make_step(config, deepcopy(model), parent, bank)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=config.fit.momentum)
    order = make_generator(0, "order")

    def endless() -> Iterator[Batch]:
        while True:
            yield from batches(
                train, config.fit.batch_size, device=torch.device("cpu"), generator=order, augment=config.fit.augment
            )

    source = endless()
    while True:
        began = time.perf_counter()
        for _ in range(steps):
            batch = next(source)
            output = step(model, Batch(as_channels_last(batch.images), batch.labels, batch.indices))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(output.loss)
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
    sources = {name: timed_steps(config, images // config.fit.batch_size) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(1 + (3 if options.quick else 9)):
        for name, source in sources.items():
            if turn == 0:
                next(source)  # warm-up
            else:
                seconds[name].append(next(source))
    result: dict[str, Any] = heading() | {"turns": len(seconds["saat"]), "trainings": {}}
    size = load_checkpoint(options.checkpoint)[1].manifest["sizes"]["train"]
    for name, values in seconds.items():
        fit = configs[name].fit
        whole = [value * fit.epochs * math.ceil(size / fit.batch_size) for value in values]
        spread = {"median": statistics.median(whole), "spread": [min(whole), max(whole)]}
        result["trainings"][name] = {"epochs": fit.epochs, "batch_size": fit.batch_size, "seconds": spread}
    totals = {name: training["seconds"]["median"] for name, training in result["trainings"].items()}
    headline = {"time_over_saat": round(totals["query-side"] / totals["saat"], 3)}
    write_text(RESULT, json.dumps(headline | result, indent=2) + "\n")
    print(json.dumps(headline | {name: round(value, 1) for name, value in totals.items()}))


if __name__ == "__main__":
    main()
