"""Tables of defenses: under the suite, along the curve from clean to robust, under other threats, and certified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from folders import folder_of
from markdown_tables import markdown, paragraph, spread, thousands

QUERY_SIDE = ("query-side", "query-side, rate 0.05", "query-side, unlabeled")
DEFENSES = (
    "undefended",
    "constant",
    "pgd-at",
    "trades",
    "distill",
    "atrdh",
    "cgat",
    "saat, as released",
    "saat, no momentum",
    "saat, no momentum, empty memory",
    "saat",
    "saat, empty memory",
    "saat, database of plain",
    *QUERY_SIDE,
)
NAMES = {"hardened": "saat"} | {folder_of(name): name for name in DEFENSES}
"""Of defenses by the folders of their checkpoints."""
DEFENSE_NOTE = """\
MAP, tie-aware; chance {}. `SAAT attack` and `HAG` are the papers' 100 steps; `worst case` is the suite `standard`;
`kept` is the share of the gap between clean and chance that is left in the worst case. Seconds are wall time of a
machine that had other work: for the cost see below. `evaluations` counts, in thousands, images that went through the
model in training, those of the inner attack included; of runs from before they were counted, by epochs and steps. The
budget is about that of 8 epochs of 7 steps, where SAAT and ATRDH were published with more, and CgAT with 30 epochs.
`query-side` was trained within 10/255, the others within 8/255, at which all are attacked."""
REMARKS = {
    "saat, as released": "`saat, as released` is `--preset paper`: its inner attack sees the model in train mode.",
    "saat, no momentum": "`saat, no momentum` has the inner attack in eval mode.",
    "saat": "`saat` has it there too, and momentum 0.9.",
    "saat, no momentum, empty memory": "`empty memory`: the same, by [earlier code](#runs-of-earlier-code).",
    "query-side, unlabeled": "`query-side, unlabeled` has 15 epochs, and nearly twice that budget.",
    "constant": "`constant` has one code for all images: no attack moves it, and it finds nothing.",
    "saat, database of plain": "`saat, database of plain` shows what the database's codes alone are worth.",
}
"""What a reader of some rows should know."""
FLAGGED = "Rows with a [flag](flags.md) say nothing of robustness."
COLLAPSED = (
    "Why `query-side` has one here: all its queries have one code, as "
    "[the rate of its preset](defenses.md#query-side-training) is too high."
)
THREATS_NOTE = """\
MAP, tie-aware; chance {}. APGD away from the mainstay code with 20 steps, so that a figure says how models compare, not
how low a strong attack goes. The images made on another model come from MI-FGSM on the plain one, and for the plain one
on that of SAAT."""
ABLATION_NOTE = """\
CIFAR-10; MAP, tie-aware. What `query-side` is made of, left out of it, and added to `saat` alone, each in about the
same time of training: `evaluations` counts, in thousands, images that went through the model. The worst case is that
of the suite `fast`. `models` counts the plain models that a training began from, and `gained` is, in points of MAP,
what it has over the training named before its last comma from the same ones; where there is none, it is blank: plain
models of one seed differ from machine to machine, and what comes of them does. `empty memory`: the hashing loss began
with zeros, as in all our hardening up to then, not with the train codes, as SAAT was released, and as `saat` itself
has it here. `no warmup`: within the whole radius from the start, as query-side training was before. What is not in
the table is not measured: `bench_ablation.py --help` has all runs."""
CURVE_NOTE = """\
`--robustness` multiplies the radius that is trained against. The worst case is that of the suite `fast`; one seed.

![clean against worst-case MAP, a line a defense](clean-robust.svg)"""

CERTIFIED_NOTE = """\
No change of a query within an l2 radius of 0.25 or 0.5 takes MAP below `certified`; `attacked` is what APGD finds there
on the mean over noise. Bits vote over noise of `sigma`: {samples:,} copies a query, {queries} queries; chance
{chance_map:.3f}. The bound of each query holds with a confidence of {confidence:.1%}, those of all at once with one of
{confidence_of_all:.0%}. `violations` counts queries that an attack took below their bound. `smoothing` was trained on
noise of the same sigma. Seconds of votes for the certificates, and of the attacks, are wall time."""


def defense_tables(every: Sequence[dict[str, Any]]) -> list[str]:
    """Return a section for each data set: every defense, over seeds."""
    parts = []
    for dataset in sorted({row["dataset"] for row in every}):
        rows = [row for row in every if row["dataset"] == dataset]
        names = sorted({row["defense"] for row in rows}, key=lambda name: DEFENSES.index(name))
        table = []
        for name in names:
            same = [row for row in rows if row["defense"] == name]
            keys = ("clean_map", "paper_attack_map", "hag_map", "worst_case_map")
            kept = [
                (row["worst_case_map"] - row["chance_map"]) / (row["clean_map"] - row["chance_map"])
                for row in same
                if row["clean_map"] - row["chance_map"] > 0.001
            ]
            table.append(
                [
                    name,
                    ", ".join(sorted({flag for row in same for flag in row["flags"]})),
                    str(len(same)),
                    *(spread([row[key] for row in same], 3) for key in keys),
                    spread(kept, 2) if kept else "",
                    spread([row["train_seconds"] for row in same], 0),
                    thousands([row["train_model_evaluations"] for row in same]),
                ]
            )
        columns = ("defense", "flags", "seeds", "clean MAP", "SAAT attack", "HAG", "worst case", "kept", "seconds")
        columns = (*columns, "evaluations")
        remarks = [
            DEFENSE_NOTE.format(f"{rows[0]['chance_map']:.3f}"),
            *(REMARKS[name] for name in REMARKS if name in names),
        ]
        flagged = {row["defense"] for row in rows if row["flags"]}
        remarks += [FLAGGED] if flagged else []
        remarks += [COLLAPSED] if dataset == "corel5k" and "query-side" in flagged else []
        note = paragraph(" ".join(remarks))
        parts.append(f"## Defenses on {dataset}\n\n{note}\n\n{markdown(columns, table, text_columns=2)}\n")
        parts += gains(rows)
    return parts


def gains(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what query-side training gains over SAAT, in points of MAP, of rows without flags, seed by seed."""
    sound = {(row["defense"], row["seed"]): row for row in rows if not row["flags"]}
    lines = []
    for ours in QUERY_SIDE:
        for theirs in (name for name in DEFENSES if name.startswith("saat")):
            seeds = sorted(seed for name, seed in sound if name == ours and (theirs, seed) in sound)
            if seeds:
                clean, worst = (
                    100 * fmean(sound[ours, seed][key] - sound[theirs, seed][key] for seed in seeds)
                    for key in ("clean_map", "worst_case_map")
                )
                over = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
                lines.append(f"- `{ours}` over `{theirs}`: clean {clean:+.1f}, worst case {worst:+.1f}; {over}")
    return ["In points of MAP, means over the seeds that both have:\n\n" + "\n".join(lines) + "\n"] if lines else []


def threat_tables(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return a section for each data set: a row a threat that was not trained for, a column a model."""
    parts = []
    for dataset in sorted({run["row"]["dataset"] for run in runs}):
        rows = [run["row"] for run in runs if run["row"]["dataset"] == dataset]
        found = {NAMES.get(row["model"], row["model"]) for row in rows}
        models = sorted(found, key=lambda name: DEFENSES.index(name) if name in DEFENSES else -1)  # the plain one first
        of = {model: [row for row in rows if NAMES.get(row["model"], row["model"]) == model] for model in models}
        table = [["none", *(spread([row["clean_map"] for row in of[model]], 3) for model in models)]]
        table += [
            [threat, *(spread([row["map"][threat] for row in of[model]], 3) for model in models)]
            for threat in rows[0]["map"]
        ]
        note = THREATS_NOTE.format(f"{rows[0]['chance_map']:.3f}")
        parts.append(
            f"## Not trained for, on {dataset}\n\n{note}\n\n{markdown(('threat', *models), table, text_columns=1)}\n"
        )
    return parts


def curve_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of `--robustness`, with its picture."""
    if not runs:
        return []
    rows = sorted((run["row"] for run in runs), key=lambda row: (row["defense"], row["robustness"]))
    keys = ("clean_map", "worst_case_map", "chance_map")
    table = [
        [row["defense"], f"{row['robustness']:g}", ", ".join(row["flags"]), *(f"{row[key]:.3f}" for key in keys)]
        for row in rows
    ]
    columns = ("defense", "robustness", "flags", "clean MAP", "worst case", "chance")
    return [f"## From clean to robust\n\n{CURVE_NOTE}\n\n{markdown(columns, table, text_columns=3)}\n"]


def ablation_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of what each ingredient is worth: a row a run, over the plain models that it began from."""
    if not runs:
        return []
    of: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        of.setdefault(run["row"]["run"], {})[run["training"]["parent_weights"]] = run["row"]
    keys = ("clean_map", "worst_case_map")
    table = []
    for name in sorted(of, key=lambda name: (name.split(",")[0] != "saat", name)):
        rows, bare = of[name], of.get(name.rpartition(", ")[0], {})
        pairs = [(row, bare[start]) for start, row in rows.items() if start in bare]
        flags = ", ".join(sorted({flag for row in rows.values() for flag in row["flags"]}))
        cells = []
        for key in keys:
            gained = f"{100 * fmean(row[key] - other[key] for row, other in pairs):+.1f}" if pairs else ""
            cells += [spread([row[key] for row in rows.values()], 3), gained]
        evaluations = thousands([row["train_model_evaluations"] for row in rows.values()])
        table.append([name, flags, str(len(rows)), *cells, evaluations])
    columns = ("training", "flags", "models", "clean MAP", "gained", "worst case", "gained", "evaluations")
    parts = [paragraph(ABLATION_NOTE), markdown(columns, table, text_columns=2)]
    return ["\n\n".join(["## What each ingredient is worth", *parts]) + "\n"]


def certified_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of certificates: a row a model and sigma, over seeds."""
    if not runs:
        return []
    rows = [run["row"] for run in runs]
    table = []
    for model, sigma in sorted({(row["model"], row["sigma"]) for row in rows}):
        same = [row for row in rows if (row["model"], row["sigma"]) == (model, sigma)]
        cells = [spread([row[key] for row in same], 3) for key in ("base_map", "smoothed_map")]
        for radius in same[0]["certified_map"]:
            cells.append(spread([rounded_down(row["certified_map"][radius]) for row in same], 3))
            cells.append(spread([row["attacked_map"][radius] for row in same], 3))
        violations = str(sum(sum(row["violations"].values()) for row in same))
        seconds = (spread([row[key] for row in same], 0) for key in ("seconds", "attack_seconds"))
        table.append([model, f"{sigma:g}", str(len(same)), *cells, violations, *seconds])
    of_radii = (f"{what}, {radius}" for radius in rows[0]["certified_map"] for what in ("certified", "attacked"))
    columns = ("model", "sigma", "seeds", "MAP without noise", "MAP of votes", *of_radii, "violations")
    columns = (*columns, "seconds", "attack seconds")
    note = paragraph(CERTIFIED_NOTE.format(**rows[0]))
    return [f"## Certified, on cifar10\n\n{note}\n\n{markdown(columns, table, text_columns=1)}\n"]


def rounded_down(bound: float) -> float:
    """Return a lower bound in three digits, which is one still.

    >>> rounded_down(0.30884)
    0.308
    """
    return math.floor(1000 * bound) / 1000
