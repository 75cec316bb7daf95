"""What the fixture `serve` is, and what it starts."""

from __future__ import annotations

import signal
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass
class Server:
    """A running `saat serve`."""

    url: str
    process: subprocess.Popen[str]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Start(Protocol):
    """A way to start `saat serve` with options, on a free port; it ends with the block."""

    def __call__(self, *options: str) -> AbstractContextManager[Server]: ...
