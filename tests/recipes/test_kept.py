"""What long runs keep in files: claims and tensors that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saat.errors import DataError
from saat.recipes.claims import claim
from saat.recipes.kept import kept_tensors


def test_a_damaged_part_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, made = tmp_path / "part.safetensors", []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"a": torch.arange(3)}

    assert kept_tensors(path, make)["a"].tolist() == kept_tensors(path, make)["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-4])
    assert kept_tensors(path, make)["a"].tolist() == [0, 1, 2]
    assert (len(made), "is damaged" in caplog.text) == (2, True)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_claim_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"state\.json is damaged: .*; take a new `out`"):
        claim(tmp_path / "state.json", {"seed": 0})
