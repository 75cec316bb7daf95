"""How fast our attack is beside the published loop: model evaluations a second, and time to the MAP where that ends.

python benchmarks/bench_attack.py [--quick] [--threads N] [--checkpoint DIR] [--work DIR]

Both search on the same model for the same queries, in one run and in turns:

* published: the SAAT paper's attack as released, 100 steps of 1/255 in float32, channels first, with a backward pass
  that reaches the weights too, and all queries in one batch for all steps;
* ours: in precision auto and channels last, on the folded model and as many queries at a time as `saat attack` takes,
  the step size suited to the steps. The rate is that of `PGD` toward `flips`, the default; for the time, each search of
  `OURS` is tried.

Both start from the clean image and return their last iterate. All that a search needs is in its time: the mainstay
codes, and our pass over the clean images, which our rate does not count as an evaluation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attack_settings import CPU, Effort, Setting, alexnet_setting, resnet20_setting
from provenance import heading
from torch import Tensor, nn
from turns import summary

from saat.attacks.base import Attack
from saat.attacks.goals import SemanticGoal
from saat.attacks.gradient import PAPER_SHARPNESS, PGD
from saat.attacks.objectives import MakeObjective, flips_objective, margin_objective
from saat.attacks.threat import ThreatModel
from saat.attacks.transfer import TransferPGD
from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.models.folding import folded
from saat.runtime import fast_bfloat16, images_at_once, set_threads, write_text

RESULT = Path(__file__).parent / "results" / "attack_speed.json"
PUBLISHED_STEPS, PUBLISHED_STEP_SIZE = 100, 1 / 255
OURS: dict[str, tuple[Callable[..., Attack], MakeObjective]] = {
    "pgd, flips": (partial(PGD, random_start=False), flips_objective),
    "pgd, margin": (partial(PGD, random_start=False), margin_objective),
    "mi-fgsm, margin": (TransferPGD, margin_objective),
}
BUDGETS = (1, 2, 3, 5, 8, 13, 20, 32, 50, 75, 100)
Search = Callable[[Tensor, Tensor, int], Tensor]
"""(images (B, 3, S, S), labels (B, C), steps) -> adversarial images."""
FULL = {"resnet20": Effort(250, 5000, 10000, 6, 20, 7, 3), "alexnet": Effort(32, 500, 1000, 100, 20, 5, 3)}
QUICK = {"resnet20": Effort(100, 2000, 2000, 4, 5, 5, 1), "alexnet": Effort(8, 200, 400, 100, 4, 3, 1)}


def published_search(model: nn.Module, bank: CodeBank, epsilon: float) -> Search:
    """Return the attack of the SAAT paper as its code runs it, waste included (written anew from the formulas)."""

    def search(images: Tensor, labels: Tensor, steps: int) -> Tensor:
        mainstay = mainstay_codes(bank, labels).float()
        change = torch.zeros_like(images, requires_grad=True)
        for step in range(steps):
            sharpness = PAPER_SHARPNESS[step * len(PAPER_SHARPNESS) // steps]
            agreement = torch.tanh(sharpness * model(images + change)) * mainstay
            active = (agreement > -0.5).float()
            loss = (active * (agreement + 2.0) * agreement).sum() / active.sum().clamp(min=1.0)
            torch.autograd.backward(loss)  # into the weights too, which nobody asked for
            assert change.grad is not None
            moved = (change.detach() - PUBLISHED_STEP_SIZE * change.grad.sign()).clamp(-epsilon, epsilon)
            change.data = (images + moved).clamp(0.0, 1.0) - images
            change.grad.zero_()
        model.zero_grad(set_to_none=True)
        return (images + change).detach()

    return search


def our_search(model: nn.Module, bank: CodeBank, epsilon: float, *, name: str = "pgd, flips") -> Search:
    """Return one of `OURS`, all that `saat attack` does to be fast included."""
    make_attack, make_objective = OURS[name]

    def search(images: Tensor, labels: Tensor, steps: int) -> Tensor:
        pace = {"steps": steps, "step_size": suited_step_size(steps, epsilon)}
        attack = make_attack(ThreatModel("linf", epsilon), **pace, precision="auto", keep_best=False)
        goal, view = SemanticGoal(bank, make_objective=make_objective), folded(model)
        at_once = images_at_once(images.shape[-1], CPU, most=len(images))
        parts = zip(images.split(at_once), labels.split(at_once), strict=True)
        return torch.cat([attack(view, part, goal(view, part, wanted)) for part, wanted in parts])

    return search


def suited_step_size(steps: int, epsilon: float) -> float:
    """Return a step with which a search crosses the ball once, 2 epsilon / steps, within 1/255 and epsilon."""
    return min(epsilon, max(PUBLISHED_STEP_SIZE, 2.0 * epsilon / steps))


def timed(search: Search, setting: Setting, steps: int) -> tuple[Tensor, float]:
    """Return the adversarial images of all queries, and the seconds it took to find them."""
    began = time.perf_counter()
    found = search(setting.images, setting.labels, steps)
    return found, time.perf_counter() - began


def measure_throughput(setting: Setting, searches: dict[str, Search]) -> dict[str, Any]:
    """Time a few steps of both, in turns; an evaluation is an image that went forward and backward once."""
    steps = setting.effort.throughput_steps
    rates: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(setting.effort.repeats):
        for name, search in searches.items():
            _, seconds = timed(search, setting, steps)
            rates[name].append(steps * len(setting.images) / seconds)
    ratios = [ours / published for ours, published in zip(rates["ours"], rates["published"], strict=True)]
    per_second = {f"{name}_evaluations_per_second": summary(values) for name, values in rates.items()}
    return {"steps": steps, **per_second, "ratio": summary(ratios)}


def measure_time_to_map(setting: Setting, published_one: Search, our_searches: dict[str, Search]) -> dict[str, Any]:
    """Find our smallest budget that ends at or below the published loop's MAP, and time both in turns."""
    adversarial, published_seconds = timed(published_one, setting, PUBLISHED_STEPS)
    aim = setting.measure(adversarial).map
    published = {"steps": PUBLISHED_STEPS, "map": aim}
    tried: list[dict[str, Any]] = []
    for steps, name in itertools.product(BUDGETS, our_searches):
        adversarial, seconds = timed(our_searches[name], setting, steps)
        reached = setting.measure(adversarial).map
        step_size = suited_step_size(steps, setting.epsilon)
        tried.append({"search": name, "steps": steps, "step_size": step_size, "seconds": seconds, "map": reached})
        line = f"{setting.name}: {steps} steps of ours, {name}, {seconds:.2f} s, MAP {reached:.6f}"
        print(f"{line}; published {aim:.6f}", flush=True)
        if reached <= aim:
            break
    else:
        reason = f"none of {BUDGETS[-1]} steps of ours or fewer ends at or below the published MAP"
        return {"published": published, "tried": tried, "ratio": None, "reason": reason}
    times = {"published": [published_seconds], "ours": [tried[-1]["seconds"]]}
    ours = our_searches[tried[-1]["search"]]
    for _ in range(setting.effort.map_repeats - 1):
        times["published"].append(timed(published_one, setting, PUBLISHED_STEPS)[1])
        times["ours"].append(timed(ours, setting, tried[-1]["steps"])[1])
    ratios = [theirs / mine for theirs, mine in zip(times["published"], times["ours"], strict=True)]
    seconds_of = {f"{name}_seconds": summary(values) for name, values in times.items()}
    return {"published": published, "ours": tried[-1], "tried": tried, **seconds_of, "ratio": summary(ratios)}


def measure(setting: Setting) -> dict[str, Any]:
    """Measure both figures of one setting; a model no better than chance has no time to MAP."""
    builders = {"published": published_search, "ours": our_search}
    searches = {name: build(setting.model, setting.bank, setting.epsilon) for name, build in builders.items()}
    for search in searches.values():
        timed(search, setting, 1)  # warm-up
    clean = setting.measure(setting.images)
    throughput = measure_throughput(setting, searches)
    ratio = throughput["ratio"]["median"]
    print(f"{setting.name}: clean MAP {clean.map:.4f}, throughput ratio {ratio:.2f}", flush=True)
    if clean.map > 1.2 * clean.chance_map:
        parts = setting.model, setting.bank, setting.epsilon
        ours = {name: our_search(*parts, name=name) for name in OURS}
        time_to_map = measure_time_to_map(setting, searches["published"], ours)
    else:
        time_to_map = {"ratio": None, "reason": "the clean MAP is not above 1.2 times chance: nothing to bring down"}
    about = {"note": setting.note, "epsilon": setting.epsilon, "effort": asdict(setting.effort)}
    maps = {"clean_map": clean.map, "chance_map": clean.chance_map}
    return {**about, **maps, "throughput": throughput, "time_to_map": time_to_map}


def main() -> None:
    """Measure both settings from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a ResNet-20 to attack; without it, one is trained and kept")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/attack-speed"), help="where it is kept")
    parser.add_argument("--epsilon", type=float, default=8 / 255, help="linf radius")
    parser.add_argument("--threads", type=int, default=0, help="0 for OMP_NUM_THREADS if set, else every core")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements, within five minutes")
    options = parser.parse_args()
    set_threads(options.threads)
    efforts, epsilon = QUICK if options.quick else FULL, options.epsilon
    settings = (
        resnet20_setting(options.checkpoint, options.work, efforts["resnet20"], epsilon=epsilon),
        alexnet_setting(efforts["alexnet"], epsilon=epsilon),
    )
    result = heading() | {"quick": options.quick}
    result["machine"]["bfloat16"] = fast_bfloat16(CPU)
    result |= {setting.name: measure(setting) for setting in settings}
    figures = headline(result)
    write_text(RESULT, json.dumps(figures | result, indent=2) + "\n")
    print(json.dumps(figures))


def headline(result: dict[str, Any]) -> dict[str, float | None]:
    """Return the median ratios."""
    figures: dict[str, float | None] = {}
    for name, suffix in (("resnet20", ""), ("alexnet", "_alexnet")):
        for figure in ("throughput", "time_to_map"):
            ratio = result[name][figure]["ratio"]
            figures[f"{figure}_ratio{suffix}"] = ratio and round(ratio["median"], 2)
    return figures


if __name__ == "__main__":
    main()
