"""The lock of an index: writers take turns, and wait for none without end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from saat.errors import DataError
from saat.index import lock
from saat.index.lock import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no lock on Windows")


def test_a_lock_that_another_holds_for_good_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with locked(tmp_path, shared=True), locked(tmp_path, shared=True):  # these share it
        refused = pytest.raises(DataError, match=r"is being changed by another command, for more than 0\.1 s")
        with refused, locked(tmp_path):
            pytest.fail("two writers at a time")
    with locked(tmp_path):
        pass
