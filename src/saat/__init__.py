"""saat: image retrieval by deep hashing that an adversary cannot easily fool."""

from importlib.metadata import version

__version__ = version("saat")
