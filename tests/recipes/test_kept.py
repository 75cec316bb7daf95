"""What long runs keep in files: claims and tensors that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saat.errors import DataError
from saat.recipes.claims import claim
from saat.recipes.kept import batch_file, drop_batches, kept_tensors


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


def test_only_batches_are_dropped(tmp_path: Path) -> None:
    for number in (0, 1):
        kept_tensors(batch_file(tmp_path, number, of="some-"), lambda: {"a": torch.arange(2)})
    (tmp_path / "batches" / "mine.safetensors").write_text("of the user")
    drop_batches(tmp_path)
    assert [path.name for path in (tmp_path / "batches").iterdir()] == ["mine.safetensors"]
    (tmp_path / "batches" / "mine.safetensors").unlink()
    drop_batches(tmp_path)
    drop_batches(tmp_path)
    assert not list(tmp_path.iterdir())
