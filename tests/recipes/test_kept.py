"""What long runs keep in files: claims and tensors that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saat.errors import ArgumentError, DataError
from saat.recipes.claims import claim, measurement_folder
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


def test_other_numbers_in_a_part_are_damage_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "part.safetensors"
    kept_tensors(path, lambda: {"a": torch.arange(3)})
    whole = path.read_bytes()
    other = tmp_path / "other.safetensors"
    kept_tensors(other, lambda: {"a": torch.arange(4)})
    for damaged in (whole[:-1] + b"x", other.read_bytes()):
        path.write_bytes(damaged)
        assert kept_tensors(path, lambda: {"a": torch.arange(3)})["a"].tolist() == [0, 1, 2]
        assert path.read_bytes() == whole
    assert caplog.text.count("its checksum is not that of its name and content") == 2


@pytest.mark.parametrize("part", ["batches/00003", "members/fast-square-00000", "votes/00000"])
def test_parts_that_no_claim_tells_of_are_not_mixed_in(part: str, tmp_path: Path) -> None:
    kept_tensors(tmp_path / f"{part}.safetensors", lambda: {"a": torch.arange(3)})
    with pytest.raises(ArgumentError, match="holds parts of a run whose claim is gone: remove them"):
        measurement_folder(tmp_path, "attack")
    (tmp_path / "attack.json").write_text("{}")
    measurement_folder(tmp_path, "attack")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_claim_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"state\.json is damaged: .*; take a new `out`"):
        claim(tmp_path / "state.json", {"seed": 0})


def test_only_batches_are_dropped(tmp_path: Path) -> None:
    for number in (0, 1):
        kept_tensors(batch_file(tmp_path, number, of="some-"), lambda: {"a": torch.arange(2)})
    (tmp_path / "batches" / "mine.safetensors").write_text("of the user")
    (tmp_path / "batches" / ".some-00002.safetensors.a4f2").write_text("a write that was killed")
    drop_batches(tmp_path)
    assert [path.name for path in (tmp_path / "batches").iterdir()] == ["mine.safetensors"]
    (tmp_path / "batches" / "mine.safetensors").unlink()
    drop_batches(tmp_path)
    drop_batches(tmp_path)
    assert not list(tmp_path.iterdir())
