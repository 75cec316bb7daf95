"""What `saat COMMAND --help` says of an option: in a reader's words, not in those of Python."""

from __future__ import annotations

import re
from argparse import Action

import jsonargparse

_ABOUT = re.compile(r" \(((?:required|type: |default: ).*)\)$", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a number"}  # others say it by their names and texts
_PATHS = "LIST_OF_PATHS_FILE"


def in_words(text: str) -> str:
    """Return the help of an option with its kind or default as a reader writes them.

    >>> in_words("radius. (type: float, default: 0.03137254901960784)")
    'radius. (default: 8/255)'
    >>> in_words("folder. (required, type: <class 'Path'>)"), in_words("a file. (type: Path | null, default: null)")
    ('folder. (required)', 'a file.')
    >>> in_words("side in pixels. (type: int | null, default: null)")
    'side in pixels. (a whole number)'
    """
    found = _ABOUT.search(text)
    if found is None:
        return text
    about, _, default = found[1].partition("default: ")
    kind = about.partition("type: ")[2]
    if default in ("", "null"):
        said = [words for name, words in _KINDS.items() if kind.startswith(name)]
        said += ["required"] if found[1].startswith("required") else []
    else:
        said = [f"default: {as_typed(default)}"]
    return text[: found.start()] + (f" ({', '.join(said)})" if said else "")


def as_typed(value: str) -> str:
    """Return a default as one would type it.

    >>> as_typed("0.0392156862745098"), as_typed("True"), as_typed("0.25")
    ('10/255', 'true', '0.25')
    """
    if re.fullmatch(r"0\.\d{9,}", value):
        levels = 255 * float(value)
        return f"{levels:.4g}/255" if abs(levels - round(levels, 2)) < 1e-9 else value
    return value.lower() if value in ("True", "False") else value


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Formats the options of a command by `in_words`."""

    def add_argument(self, action: Action) -> None:
        """Take up an option; one of several paths is shown as PATHS."""
        if isinstance(action.metavar, str) and _PATHS in action.metavar:
            action.metavar = "PATHS"
        super().add_argument(action)

    def _expand_help(self, action: Action) -> str:
        return in_words(str(super()._expand_help(action)))
