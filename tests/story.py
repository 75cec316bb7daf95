"""The commands of the README that follow on the demo."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def commands(output: str) -> list[list[str]]:
    """Return the words of the commands of the block that writes to `output`, without `.venv/bin/saat` before them."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if f"--out {output}\n" in block]
    found = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    assert [words[0] for words in found] == [".venv/bin/saat"] * len(found)
    return [words[1:] for words in found]
