"""Parse the options of one command: flags, YAML files, presets, and the data of a checkpoint's card."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import jsonargparse
import yaml

from saat.errors import ArgumentError
from saat.help_text import HelpFormatter
from saat.index.address import check_no_address
from saat.models.checkpoint import CARD_FILE, read_card
from saat.shorthand import FRACTION, divide, spelled_out


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        config: its options.
        run: what it calls.
        presets: its published settings.
        places: options whose names may be left out where their values stand first.
        resumes: the option with which the same command goes on after a stop; none if it starts again.
    """

    config: type[Any]
    run: Callable[[Any], object]
    presets: Mapping[str, dict[str, Any]]
    places: tuple[str, ...] = ()
    resumes: str = ""


class FractionLoader(yaml.SafeLoader):
    """YAML in which 8/255 is a number."""


FractionLoader.add_implicit_resolver("!fraction", FRACTION, list("0123456789"))
FractionLoader.add_constructor("!fraction", lambda _, node: divide(str(node.value)))


def load_yaml(stream: str) -> Any:
    """Parse YAML with fractions; what `--config` files go through."""
    return yaml.load(stream, FractionLoader)


jsonargparse.set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are one sentence and not the whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error, and exit with 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        known = [option for option in self._option_string_actions if not option.endswith(".help")]
        sentence = " ".join(plain_error(message, known).split())
        sentence = sentence.replace('"<unicode string>", ', "")  # what yaml calls a file's text
        sentence = re.sub(r"://\S+", "://...", sentence)  # of an address, which may hold a password
        print(f"{self.prog}: {sentence}", file=sys.stderr)
        print(f"`{self.prog} --help` shows the options", file=sys.stderr)
        sys.exit(2)


def plain_error(message: str, known: Sequence[str]) -> str:
    r"""Return the parser's message as a sentence, with a near option for one that is not known.

    >>> plain_error('Parser key "fit":\n  Parser key "epochs":\n    Expected a <class \'int\'>. Got value: x', [])
    '`fit.epochs` is int; got x'
    >>> plain_error('Parser key "sigma":\n  Expected a <class \'float\'>. Got value: nan', [])
    '`sigma` is a finite number; got nan'
    >>> plain_error("unrecognized arguments: --step 3", ["--steps", "--out"])
    'unrecognized arguments: --step 3; did you mean --steps?'
    >>> plain_error("unrecognized arguments: runs/mine", ["--steps", "--out"])
    'unrecognized arguments: runs/mine (values without an option stand before all options)'
    """
    name = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))  # some say it twice
    got = re.search(r"(?:Got value|Given value): (.*)", message)
    if got and "is not accepted" not in message:
        wanted = re.search(r"Expected a (<class .*>)\. Got value", message) or re.search(r"Subtypes: \[(.*)\]", message)
        kinds = re.sub(r"<class '([^']+)'>", r"\1", wanted[1] if wanted else "of another type").split(", ")
        kinds = ["null" if kind == "NoneType" else re.sub(r"\w+\.", "", kind) for kind in kinds]
        if re.fullmatch(r"[+-]?(nan|inf|infinity)", got[1].strip(), re.IGNORECASE):
            kinds = ["a finite number" if kind == "float" else kind for kind in kinds]
        return f"`{name}` is {' or '.join(kinds)}; got {got[1]}"
    if name and (found := re.search(r"Unable to load config '([^']*)'", message)):
        missing = found[1].endswith((".yaml", ".yml")) and not Path(found[1]).exists()
        none = ", and there is no such file" if missing else ""
        return f"`{name}` is a group of options, or a YAML file of them; got {found[1]}{none}"
    if found := re.search(r"Unexpected config:\s*(.*)", message):
        return f"`config` is a YAML file of options, such as `seed: 1`; got {found[1] or 'an empty one'}"
    if name and "Not of type Path" in message:
        return f"`{name}` is a path; one that reads as a number or a date has quotes in a YAML file"
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        message = f"unrecognized arguments: --{'.'.join(filter(None, (name, found[1])))}"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        message = f"unrecognized arguments: --{found[1]}.{found[2]}"
    if re.search(r"unrecognized arguments: [^-]", message):
        return f"{message} (values without an option stand before all options)"
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    others = [option for option in known if unknown and not unknown[1].startswith(f"{option}.")]
    near = [option for option in others if unknown and option.startswith(unknown[1])]  # typed in part
    near = near or (difflib.get_close_matches(unknown[1], others, n=1) if unknown else [])
    message = re.sub(r'^(\s*Parser key "[^"]+":)+', f"`{name}`:", message)
    return message + (f"; did you mean {near[0]}?" if near else "")


def make_parser(preset: str | None, words: str, command: Command) -> Parser:
    """Return the parser of one command, its defaults moved to those of `preset`, if given."""
    about = (command.config.__doc__ or "").split("\n")[0]
    if command.places:
        short = " ".join(name.upper() for name in command.places)
        about += f" `saat {words} {short}` is short for {' and '.join(f'--{name}' for name in command.places)}."
    parser = Parser(prog=f"saat {words}", description=about, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of options; options given after it win.")
    if command.presets:
        names = ", ".join(command.presets)
        parser.add_argument(
            "--preset",
            choices=list(command.presets),
            help=f"Settings to start from; options given beside them win: {names}.",
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


def given_options(command: Command, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what is given of a command's options, on the command line and in `--config` files; no defaults.

    Empty where it cannot be parsed: the command's own parser says why.

    Raises:
        ArgumentError: a file is no text in UTF-8.
    """
    needed = [each.name for each in fields(command.config) if each.default is each.default_factory is MISSING]
    parser = Parser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--preset")
    parser.add_class_arguments(command.config, as_group=False, skip=set(needed))
    for name in needed:
        parser.add_argument(f"--{name}", type=Any)  # may be missing: `--preset cgat --help` is a question
    asked = ("-h", "--help", "--print_config")
    try:
        words = [word for word in arguments if word.split("=")[0] not in asked]
        return dict(vars(parser.parse_args(words, defaults=False)))
    except UnicodeDecodeError as error:
        found = f"{error.reason} at byte {error.start}"
        raise ArgumentError(f"`config` and files of groups are YAML in UTF-8; found {found}") from None
    except jsonargparse.ArgumentError:
        return {}


def card_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of the checkpoint's card as defaults, where data options change a part of it.

    With `data.name` it is other data, of which the card knows nothing.
    """
    # as text: one that is needed may have been read as YAML, a folder named 2024 as a number
    checkpoint, data = str(given.get("checkpoint") or ""), given.get("data")
    partly = isinstance(data, jsonargparse.Namespace) and "name" not in data
    if not checkpoint or not partly or not (Path(checkpoint) / CARD_FILE).exists():
        return {}
    return {"data": read_card(Path(checkpoint)).data}


def complete(data: jsonargparse.Namespace, card: Mapping[str, Any]) -> None:
    """Fill in what is not given of the data by what the card says; a `data: null` in a file does not stand for it."""
    for name, value in card.items():
        if name not in data:
            data[name] = Path(value) if name == "root" and value else value


def check_groups(config: type[Any], parsed: jsonargparse.Namespace) -> None:
    """Raise where a YAML file gives one value for a group of options.

    Raises:
        ArgumentError: names the group, and an option of it.
    """
    for name, kind in get_type_hints(config).items():
        value = parsed.get(name)
        group = next((part for part in (kind, *get_args(kind)) if is_dataclass(part)), None)
        left_out = value is None and type(None) in get_args(kind)
        if group is not None and not left_out and not isinstance(value, jsonargparse.Namespace):
            first, found = fields(group)[0].name, "null" if value is None else repr(value)
            raise ArgumentError(f"`{name}` is a group of options, such as `{name}.{first}`; got {found}")


def check_paths(parsed: jsonargparse.Namespace) -> None:
    """Raise where a file or folder is given as an address of an index, before an error can show its password.

    Raises:
        ArgumentError: names the option.
    """
    for name, value in parsed.items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                check_no_address(name, path)


def parse(words: str, command: Command, arguments: Sequence[str]) -> Any:
    """Return the command's config as the arguments, its preset and its checkpoint's card give it.

    Args:
        words: the command's name, for messages.
        command: what is to be run.
        arguments: what follows the command's words.

    Raises:
        SystemExit: after printing help, or an error.
        SaatError: an option breaks a rule of its config.
    """
    arguments = spelled_out(command.config, command.places, arguments)
    given = given_options(command, arguments)
    parser = make_parser(given.get("preset"), words, command)
    of_card = card_data(given)
    parser.set_defaults(of_card)
    parsed = parser.parse_args(arguments)
    if of_card:
        complete(given["data"], of_card["data"])
        parsed.data = given["data"]
    check_groups(command.config, parsed)
    check_paths(parsed)
    config = parser.instantiate(parsed)
    return command.config(**{key: value for key, value in vars(config).items() if key not in ("config", "preset")})
