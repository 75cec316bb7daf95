"""Reports: one page, one JSON and one Markdown file from one or more attack runs."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from saat.errors import ArgumentError, DataError
from saat.evaluation.charts import AT_RANK, COLORS, distance_chart, precision_recall_chart, rank_chart, trial_charts
from saat.evaluation.run_reports import CHANCE, Report, combine_reports
from saat.runtime import versions, write_text

BUDGET = (
    *("suite", "search", "goal", "objective", "targeted", "surrogate", "norm", "epsilon", "patch"),
    *("steps", "step_size", "schedule", "samples", "restarts", "last"),
)
PICTURE_SIDE = 192  # larger pictures are made smaller, so that a page of photographs stays a few megabytes


def surviving_share(report: Mapping[str, Any]) -> float | None:
    """Return the share of the gap between chance and clean MAP that survives the attack; None where there is no gap.

    Below 0 the attacked ranking is worse than a random one.

    >>> surviving_share({"clean_map": 0.9, "attacked_map": 0.3, "chance_map": 0.1})
    0.25
    """
    gap = report["clean_map"] - report["chance_map"]
    return round((report["attacked_map"] - report["chance_map"]) / gap, 4) if gap > 0 else None


def is_chance(share: float | None) -> bool:
    """Return whether a surviving share is, in whole percents, that of a random ranking, or less; or there is no gap."""
    return share is None or round(share, 2) <= 0


def strength(attack: Mapping[str, Any]) -> str:
    """Return the radius of an attack in words: n/255 a pixel for linf, a length for l2, a share for a patch.

    >>> strength({"norm": "linf", "epsilon": 8 / 255}), strength({"norm": "l2", "epsilon": 0.5})
    ('8/255', '0.5 in l2')
    >>> strength({"norm": "linf", "epsilon": 8 / 255, "patch": 0.05})
    'a patch of 5% of the image'
    """
    if attack.get("patch"):
        return f"a patch of {attack['patch']:.0%} of the image"
    return (
        gray_levels(attack["epsilon"]) if attack["norm"] == "linf" else f"{attack['epsilon']:.3g} in {attack['norm']}"
    )


def gray_levels(value: float) -> str:
    """Return a fraction of the pixel range as n/255.

    >>> gray_levels(0.5 / 255)
    '0.5/255'
    """
    return f"{value * 255:.3g}/255"


def verdict(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the numbers say, in one sentence; of more than two models, it names the best and the worst."""
    ranked = sorted(models, key=lambda name: -models[name]["attacked_map"])
    told = list(models) if len(models) <= 2 else [ranked[0], ranked[-1]]
    opening = "" if len(models) <= 2 else f"of {len(models)} models, these hold best and worst: "
    strengths = {strength(models[name]["attack"]) for name in told}
    attack = f"Under attack at {strengths.pop()}" if len(strengths) == 1 else "Under attack"
    return f"{attack}, {opening}{'; '.join(_outcome(name, models[name]) for name in told)}."


def _outcome(name: str, report: Mapping[str, Any]) -> str:
    clean, attacked, chance = (report[key] for key in ("clean_map", "attacked_map", "chance_map"))
    share = surviving_share(report)
    moves = "falls" if attacked < clean else "does not fall but goes"
    change = f"the {name} model {moves} from {clean:.3f} to {attacked:.3f} MAP"
    if share is None:
        return f"{change}, and even its clean ranking is no better than chance ({chance:.3f})"
    if is_chance(share):
        return f"{change}, no better than a random ranking ({chance:.3f})"
    return f"{change} and keeps {share:.0%} of its lead over a random ranking ({chance:.3f})"


def unequal_settings(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings of the attacks that differ, by model: numbers under unequal attacks do not compare models."""
    found = {}
    for setting in BUDGET:
        values = {name: report["attack"].get(setting) for name, report in models.items()}
        if len({str(value) for value in values.values()}) > 1:
            found[setting] = values
    purifiers = {name: report["model"].get("purifier") for name, report in models.items()}
    return found | ({"purifier": purifiers} if len(set(purifiers.values())) > 1 else {})


def reproduce(report: Mapping[str, Any]) -> str:
    """Return the command that makes an attack run again.

    >>> attack = {"goal": "mainstay", "targeted": False, "norm": "linf", "epsilon": 8 / 255, "steps": 9, "seed": 0}
    >>> report = {"name": "a", "model": {"checkpoint": "b c"}, "attack": attack | {"patch": 0.0}, "data": {}}
    >>> reproduce(report).partition(" --norm ")[2]  # no patch: the radius is that of the norm
    'linf --epsilon 8/255 --steps 9 --seed 0'
    """
    model = report["model"]
    words = ["saat", "evaluate" if "suite" in report["attack"] else "attack"]
    if model["checkpoint"] is not None:
        words += ["--checkpoint", model["checkpoint"]]
    words += ["--out", "runs/again", "--name", report["name"]]
    if ":" in model.get("backbone", ""):  # a factory of the user's own
        words += ["--model", model["backbone"]]
    if model.get("purifier"):
        words += ["--purifier", model["purifier"]]
    for setting in (*BUDGET, "service", "precision", "batch_size", "seed"):
        if report["attack"].get(setting) not in (None, []) and (setting != "patch" or report["attack"]["patch"]):
            words += [f"--{setting}", _option(report["attack"][setting])]
    for option, value in report["data"].get("options", {}).items():
        words += [f"--data.{option}", "null" if value is None else _option(value)]
    return shlex.join(words)


def describe(attack: Mapping[str, Any]) -> str:
    """Return what was done, in words.

    >>> describe({"suite": "fast", "members": {"a": {}, "b": {}}, "norm": "l2", "epsilon": 0.5, "steps": 9, "seed": 0})
    'suite fast (the worst of a, b for each query), epsilon 0.5 in l2, 9 steps a search, seed 0'
    """
    if "suite" in attack:
        what = f"suite {attack['suite']} (the worst of {', '.join(attack['members'])} for each query)"
        return f"{what}, epsilon {strength(attack)}, {attack['steps']} steps a search, seed {attack['seed']}"
    aim = f"{'targeted' if attack['targeted'] else 'untargeted'}, goal {attack['goal']}"
    if attack["objective"]:
        aim += f", objective {attack['objective']}"
    place = f", made on {', '.join(attack['surrogate'])}" if attack.get("surrogate") else ""
    steps, restarts = (f"{attack[name]} {name[:-1] if attack[name] == 1 else name}" for name in ("steps", "restarts"))
    search = f"{steps}{_stride(attack)}, {restarts}, seed {attack['seed']}"
    return f"{attack['name']}, {aim}{place}, epsilon {strength(attack)}, {search}"


def _stride(attack: Mapping[str, Any]) -> str:
    size = attack["step_size"]
    if size is None:
        return " of lengths that the search chooses"
    return f" of {gray_levels(size) if attack['norm'] == 'linf' else f'{size:.3g}'}"


def _option(value: str | float | bool | list[str]) -> str:
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and abs(value * 255 - round(value * 255)) < 1e-9:
        return f"{round(value * 255)}/255"
    return str(value)


def match_examples(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the example queries of all models, each once, with what every model that shows it found."""
    matched: dict[int, dict[str, Any]] = {}
    for name, report in models.items():
        for example in report["examples"]:
            row = example["query"]
            matched.setdefault(row, {"query": row, "labels": example["labels"], "shown": {}})
            matched[row]["shown"][name] = example
    return list(matched.values())


def write_report(runs: Sequence[tuple[str, Path]], out: Path) -> tuple[Path, Report]:
    """Write `report.html` (self-contained), `report.md` and `report.json`; return the page and the last's content.

    Args:
        runs: 1 to 6 of (name, folder of an attack or a suite), names distinct.
        out: a folder that is none of the runs' own.

    Raises:
        DataError: a run has no readable report, or lacks a picture.
        ArgumentError: `runs` do not go together, or `out` is one of them.
    """
    combined = combine_reports(runs)
    folders = {name: folder.resolve() for name, folder in runs}
    if out.resolve() in folders.values():
        raise ArgumentError(
            f"`out` is a folder other than those of the runs, whose report.json it would hide; got {out}"
        )
    models = {name: combined[name] for name, _ in runs}
    examples = match_examples(models)
    values = {
        "models": models,
        "first": next(iter(models.values())),
        "chance": combined[CHANCE],
        "colors": dict(zip(models, COLORS, strict=False)),
        "targeted": any("t_map_attacked" in report for report in models.values()),
        "verdict": verdict(models),
        "flags": [(name, flag) for name, report in models.items() for flag in report["flags"]],
        "unequal": unequal_settings(models),
        "examples": examples,
        "factors": sorted({shown["perturbation_factor"] for query in examples for shown in query["shown"].values()}),
        "precision_recall": precision_recall_chart(models),
        "at_rank": AT_RANK,
        "ranks": rank_chart(models),
        "trials": trial_charts(models),
        "distances": {name: distance_chart(report) for name, report in models.items()},
        "picture": lambda name, image: _data_uri(folders[name] / image),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    environment = page_environment()
    pages = {name: environment.get_template(name).render(values) for name in ("report.html", "report.md")}
    for name, page in (pages | {"report.json": json.dumps(combined, indent=2) + "\n"}).items():
        write_text(out / name, page)
    return out / "report.html", combined


def page_environment() -> jinja2.Environment:
    """Return the templates of pages, with the filters that they use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saat.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        share=surviving_share,
        strength=strength,
        gray_levels=gray_levels,
        reproduce=reproduce,
        describe=describe,
        cell=_cell,
        three=lambda value: "\N{EN DASH}" if value is None else f"{value:.3f}",
    )
    return environment


def _cell(text: str) -> str:
    """Keep a name from ending its cell in a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _data_uri(path: Path) -> str:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if max(image.size) > PICTURE_SIDE:
                image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
                smaller = io.BytesIO()
                image.save(smaller, "PNG")
                content = smaller.getvalue()
    except OSError as error:
        raise DataError(f"a picture of the report cannot be read: {path}: {error}") from error
    return "data:image/png;base64," + base64.b64encode(content).decode()
