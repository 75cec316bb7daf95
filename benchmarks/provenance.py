"""Of what source and machine a result file comes."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from saat.runtime import available_cores, versions


def commit() -> str:
    """Return the commit of this source, with `+` after it where files were changed since; `unknown` outside git."""
    here = Path(__file__).parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """Return what a result file says of the machine."""
    return {"processor": platform.processor() or platform.machine(), "cores": available_cores()}


def heading() -> dict[str, Any]:
    """Return what a result file says first: machine, threads, versions and source."""
    return {"machine": machine() | {"threads": torch.get_num_threads()}, "versions": versions(), "commit": commit()}
