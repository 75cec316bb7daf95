"""saat: image retrieval by deep hashing that an adversary cannot easily fool."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saat.serving.client import Client

__all__ = ["Client", "__version__"]
__version__ = version("saat")


def __getattr__(name: str) -> object:
    """Import `Client` when it is asked for, so that `import saat` stays light."""
    if name == "Client":
        from saat.serving.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
