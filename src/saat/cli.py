"""The command line: parse, call a recipe, print."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

# OpenMP threads that spin while the other cores are busy slow everything down; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from saat import __version__
from saat.attacks import papers as attack_papers
from saat.defenses import papers as defense_papers
from saat.errors import SaatError
from saat.parsing import Command, parse
from saat.recipes import (
    attack,
    certify,
    data,
    demo,
    detect,
    evaluate,
    harden,
    index,
    leaderboard,
    merge,
    plant,
    push,
    report,
    search,
    serve,
    train,
)

COMMANDS: Mapping[str, Command] = {
    "demo": Command(demo.DemoConfig, demo.demo, {}, resumes="out"),
    "train": Command(train.TrainConfig, train.train, train.PRESETS, resumes="out"),
    "attack": Command(attack.AttackConfig, attack.attack, attack_papers.PRESETS, resumes="out", places=("checkpoint",)),
    "harden": Command(
        harden.HardenConfig, harden.harden, defense_papers.PRESETS, resumes="out", places=("checkpoint",)
    ),
    "evaluate": Command(evaluate.EvaluateConfig, evaluate.evaluate, {}, resumes="suite", places=("checkpoint",)),
    "certify": Command(certify.CertifyConfig, certify.certify, {}, resumes="out", places=("checkpoint",)),
    "detect": Command(detect.DetectConfig, detect.detect, {}, resumes="out", places=("checkpoint",)),
    "plant": Command(plant.PlantConfig, plant.plant, {}, resumes="out", places=("checkpoint",)),
    "report": Command(report.ReportConfig, report.report, {}, places=("runs",)),
    "leaderboard": Command(leaderboard.LeaderboardConfig, leaderboard.leaderboard, {}, places=("cards",)),
    "index build": Command(index.BuildConfig, index.build, {}, resumes="out", places=("checkpoint", "images")),
    "index add": Command(index.AddConfig, index.add, {}, resumes="index", places=("index", "images")),
    "index remove": Command(index.RemoveConfig, index.remove, {}, places=("index",)),
    "index merge": Command(merge.MergeConfig, merge.merge, {}, places=("parts",)),
    "index push": Command(push.PushConfig, push.push, {}, resumes="to", places=("index",)),
    "index info": Command(index.InfoConfig, index.info, {}, places=("index",)),
    "index verify": Command(index.VerifyConfig, index.verify, {}, places=("index",)),
    "search": Command(search.SearchConfig, search.search, {}, places=("index", "image")),
    "serve": Command(serve.ServeConfig, serve.serve, {}, places=("index",)),
    "data list": Command(data.ListConfig, data.list_datasets, {}),
    "data describe": Command(data.DescribeConfig, data.describe, {}),
}


def usage(group: str = "") -> str:
    """Return the overview that `saat --help` prints, or that of a group of commands, such as "index "."""
    lines = [f"saat {__version__}: image retrieval by deep hashing that an adversary cannot easily fool", ""]
    for words, command in COMMANDS.items():
        if words.startswith(group):
            lines.append(f"  saat {words:<15} {(command.config.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "  saat COMMAND --help shows the options of a command.", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, which is 2 after an error that a user can mend (docs/quickstart.md)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder may have a name that is no text
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        if isinstance(error, BrokenPipeError):  # whoever reads what is printed has had enough, as `head` has
            return 141
        print(f"saat: what is printed cannot be written: {error}", file=sys.stderr)
        return 2


def _run(typed: list[str]) -> int:
    if not typed or typed[0] in ("-h", "--help", "--version"):
        print(__version__ if typed[:1] == ["--version"] else usage())
        return 0
    group = f"{typed[0]} "
    grouped = any(words.startswith(group) for words in COMMANDS)  # commands of two words, such as `data list`
    if grouped and typed[1:2] in (["-h"], ["--help"]):
        print(usage(group))
        return 0
    words = " ".join(typed[:2]) if grouped else typed[0]
    if words not in COMMANDS:
        wrong = f"{words!r} is a group of commands; give one of them" if f"{words} " == group and grouped else ""
        print(f"saat: {wrong or f'no command {words!r}'}\n\n{usage(group if grouped else '')}", file=sys.stderr)
        return 2
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that `--model mine:factory` finds mine.py in the folder where the user stands
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")  # of Pillow, below our own limit
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    command, config = COMMANDS[words], None
    try:
        config = parse(words, command, typed[len(words.split()) :])
        command.run(config)
    except SaatError as error:
        print(f"saat {words}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that is a file, a full disk
        place = "" if error.filename is None else f": {error.filename}"
        print(f"saat {words}: {error.strerror or error}{place}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = command.resumes and getattr(config, command.resumes, None)
        then = "goes on from what was saved" if goes_on else "starts again from the beginning"
        print(f"saat {words}: stopped; the same command {then}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
