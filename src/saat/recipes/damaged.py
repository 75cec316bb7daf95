"""The images that an index lacks because they are damaged: printed, and named in a file beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from saat.index.lock import locked
from saat.runtime import write_text

DAMAGED = "damaged.txt"
SHOWN = 20  # that are printed
_LINE_END = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # those of `str.splitlines`


def keep_damaged(folder: Path, damaged: Sequence[str], tried: Iterable[str]) -> None:
    """Bring the file up to date: what it says of images that were tried now is replaced. No image left, no file.

    Args:
        folder: of the index.
        damaged: "path: reason" of each image that is left out.
        tried: paths of all images of this run.
    """
    file, damaged = folder / DAMAGED, [*map(_in_a_line, damaged)]
    with locked(folder):
        lines = [*lines_without(read_damaged(folder), tried), *damaged]
        if lines:
            write_text(file, "".join(f"{line}\n" for line in lines))
        else:
            file.unlink(missing_ok=True)


def read_damaged(folder: Path) -> list[str]:
    """Return "path: reason" of each damaged image that an index lacks."""
    file = folder / DAMAGED
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []


def lines_without(lines: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Return the lines "path: reason" of other paths.

    >>> lines_without(["a.png: empty", "b: c.png: empty"], ["b: c.png"])
    ['a.png: empty']
    """
    gone = set(map(_in_a_line, paths))
    return [line for line in lines if not any(line[: end.start()] in gone for end in re.finditer(": ", line))]


def _in_a_line(text: str) -> str:
    """Return a text with what would end a line written out.

    >>> print(_in_a_line("new\\nline.png: empty"))
    new\\nline.png: empty
    """
    return _LINE_END.sub(lambda found: repr(found[0])[1:-1], text)


def print_damaged(folder: Path, damaged: Sequence[str]) -> None:
    """Print the images that were left out, "path: reason" each; of many the first, and where all are."""
    if damaged:
        print(f"{len(damaged)} damaged images left out:", *damaged[:SHOWN], sep="\n  ")
    if len(damaged) > SHOWN:
        print(f"  ... and {len(damaged) - SHOWN} more; all are in {folder / DAMAGED}")
