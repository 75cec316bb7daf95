"""The command line: parse, call a recipe, print."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# OpenMP threads that spin while the other cores are busy slow everything down; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jsonargparse
import yaml

from saat import __version__
from saat.errors import SaatError
from saat.models.checkpoint import CARD_FILE, read_card
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
    plant,
    push,
    report,
    search,
    serve,
    train,
)


@dataclass(frozen=True)
class Command:
    """A command: its options, what it calls, its published settings, and an option whose name may be left out."""

    config: type[Any]
    run: Callable[[Any], object]
    presets: Mapping[str, dict[str, Any]]
    first: str | None = None


COMMANDS: Mapping[str, Command] = {
    "demo": Command(demo.DemoConfig, demo.demo, {}),
    "train": Command(train.TrainConfig, train.train, train.PRESETS),
    "attack": Command(attack.AttackConfig, attack.attack, attack.PRESETS),
    "harden": Command(harden.HardenConfig, harden.harden, harden.PRESETS),
    "evaluate": Command(evaluate.EvaluateConfig, evaluate.evaluate, {}),
    "certify": Command(certify.CertifyConfig, certify.certify, {}),
    "detect": Command(detect.DetectConfig, detect.detect, {}),
    "plant": Command(plant.PlantConfig, plant.plant, {}),
    "report": Command(report.ReportConfig, report.report, {}),
    "leaderboard": Command(leaderboard.LeaderboardConfig, leaderboard.leaderboard, {}),
    "index build": Command(index.BuildConfig, index.build, {}),
    "index add": Command(index.AddConfig, index.add, {}),
    "index remove": Command(index.RemoveConfig, index.remove, {}),
    "index push": Command(push.PushConfig, push.push, {}, first="index"),
    "index info": Command(index.InfoConfig, index.info, {}),
    "index verify": Command(index.VerifyConfig, index.verify, {}),
    "search": Command(search.SearchConfig, search.search, {}),
    "serve": Command(serve.ServeConfig, serve.serve, {}),
    "data list": Command(data.ListConfig, data.list_datasets, {}),
    "data describe": Command(data.DescribeConfig, data.describe, {}),
}


class FractionLoader(yaml.SafeLoader):
    """YAML in which 8/255 is a number."""


FRACTION = re.compile(r"^\d+(\.\d+)?/\d+(\.\d+)?$")
FractionLoader.add_implicit_resolver("!fraction", FRACTION, list("0123456789"))
FractionLoader.add_constructor("!fraction", lambda _, node: _divide(str(node.value)))


def _divide(text: str) -> float:
    above, below = map(float, text.split("/"))
    return above / below if below else float("nan")  # no option takes NaN, so each names itself


def decimal(word: str) -> str:
    """Return an argument with a value such as 8/255 as a decimal number; any other as it is.

    >>> decimal("--epsilon=1/4"), decimal("1/4"), decimal("--root=a/b")
    ('--epsilon=0.25', '0.25', '--root=a/b')
    """
    head, equals, value = word.rpartition("=")
    return f"{head}{equals}{_divide(value)!r}" if FRACTION.match(value) else word


def load_yaml(stream: str) -> Any:
    """Parse YAML with fractions; what `--config` files go through."""
    return yaml.load(stream, FractionLoader)


def make_parser(preset: str | None, words: str) -> jsonargparse.ArgumentParser:
    """Return the parser of one command, its defaults moved to those of `preset`, if given."""
    command = COMMANDS[words]
    parser = jsonargparse.ArgumentParser(
        prog=f"saat {words}", description=(command.config.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--config", action="config", help="YAML file of options; options given after it win.")
    if command.presets:
        names = ", ".join(command.presets)
        parser.add_argument(
            "--preset", choices=list(command.presets), help=f"Published settings to start from: {names}."
        )
    parser.add_class_arguments(command.config, as_group=False)
    if preset is not None and preset in command.presets:
        parser.set_defaults(_flat(command.presets[preset]))
    return parser


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Return what follows an option, or nothing where it is not given.

    >>> _value_of("--out", ["--out=a"]), _value_of("--out", ["--out", "b"]), _value_of("--out", ["--output", "b"])
    ('a', 'b', None)
    """
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def _data_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the data of the checkpoint's card as defaults, where data options change a part of it.

    With `--data.name` it is other data, of which the card knows nothing.
    """
    checkpoint = _value_of("--checkpoint", arguments)
    partly = any(word.startswith("--data.") for word in arguments) and _value_of("--data.name", arguments) is None
    if checkpoint is None or not partly or not (Path(checkpoint) / CARD_FILE).exists():
        return {}
    return {"data": read_card(Path(checkpoint)).data}


def usage() -> str:
    """Return the overview that `saat --help` prints."""
    lines = [f"saat {__version__}: image retrieval by deep hashing that an adversary cannot easily fool", ""]
    for words, command in COMMANDS.items():
        lines.append(f"  saat {words:<15} {(command.config.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "  saat COMMAND --help shows the options of a command.", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after printing an error that a user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "--version"):
        print(__version__ if given[:1] == ["--version"] else usage())
        return 0
    grouped = any(words.startswith(f"{given[0]} ") for words in COMMANDS)  # commands of two words, such as `data list`
    words = " ".join(given[:2]) if grouped else given[0]
    if words not in COMMANDS:
        print(f"saat: no command {words!r}\n\n{usage()}", file=sys.stderr)
        return 2
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that `--model mine:factory` finds mine.py in the folder where the user stands
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    jsonargparse.set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))
    rest = [decimal(word) for word in given[len(words.split()) :]]
    first = COMMANDS[words].first
    if first is not None and rest and not rest[0].startswith("-"):
        rest[0] = f"--{first}={rest[0]}"
    parser = make_parser(_value_of("--preset", rest), words)
    try:
        if "data" in COMMANDS[words].config.__dataclass_fields__:
            parser.set_defaults(_data_of(rest))
        options = parser.parse_args(rest)
        config = parser.instantiate(options)
        fields = {key: value for key, value in vars(config).items() if key not in ("config", "preset")}
        COMMANDS[words].run(COMMANDS[words].config(**fields))
    except SaatError as error:
        print(f"saat {words}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that is a file, a full disk
        print(f"saat {words}: {error.strerror or error}: {error.filename}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"saat {words}: stopped; the same command goes on from what was saved", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
