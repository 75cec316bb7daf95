"""What a killed `saat index add` leaves in the folder of an index, and what removes it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from saat.data.fashion import read_fashion
from saat.index.storage import read_index
from saat.recipes import index as index_recipe
from saat.recipes.index import AddConfig, BuildConfig, RemoveConfig, add, build, remove

WRITES = """
import os, signal, sys
from saat.cli import main
from saat.recipes import encoder
real = encoder.pq.write_table
def write(table, file, **options):
    file.write(b"half a batch")
    file.flush()
    print("writing", flush=True)
    if sys.stdin.readline() == "die\\n":
        os.kill(os.getpid(), signal.SIGKILL)
    file.seek(0)
    file.truncate()
    encoder.pq.write_table = real
    real(table, file, **options)
encoder.pq.write_table = write
main(sys.argv[1:])
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One image in the folder `first`, and four in each of `more` and `others`."""
    fashion = read_fashion()
    for row in range(9):
        path = tmp_path / "photos" / ("first", "more", "others")[(row + 3) // 4] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fashion.read(row)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def index(photos: Path, tiny: Path, tmp_path: Path) -> Path:
    out = tmp_path / "index"
    build(BuildConfig(checkpoint=tiny, images=[photos / "first"], out=out, quiet=True))
    return out


@contextmanager
def writing(out: Path, images: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield `saat index add` as a process of its own that is in the middle of its first batch, and waits for a word."""
    words = [sys.executable, "-c", WRITES, "index", "add", f"--index={out}", f"--images=[{images}]", "--batch_size=2"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process


@pytest.mark.parametrize("next_write", ["add", "remove"])
def test_half_a_batch_of_a_killed_addition_goes_at_the_next_write(index: Path, photos: Path, next_write: str) -> None:
    with writing(index, photos / "more") as process:
        process.communicate("die\n")
    assert process.returncode == -signal.SIGKILL
    assert [path.name[0] for path in index.glob(".work*/*")] == ["."]
    if next_write == "add":
        assert add(AddConfig(index=index, images=[photos / "others"], quiet=True))["count"] == 5
    else:
        remove(RemoveConfig(index=index, ids=[0], quiet=True))
    assert not list(index.glob(".work*"))


@pytest.mark.skipif(sys.platform == "win32", reason="writers take no turns there")
def test_half_a_batch_that_is_being_written_stays(index: Path, photos: Path) -> None:
    with ThreadPoolExecutor(1) as pool, writing(index, photos / "more") as process:
        removes = pool.submit(remove, RemoveConfig(index=index, ids=[0], quiet=True))
        with pytest.raises(TimeoutError):
            removes.result(timeout=0.5)
        assert len(list(index.glob(".work*/.*"))) == 1
        process.communicate("go on\n")
        assert process.returncode == 0
        removes.result(timeout=60)
    assert len(read_index(index)) == 4
    assert not list(index.glob(".work*"))


def test_batches_of_an_addition_that_was_killed_when_its_items_were_there_go(
    index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_recipe, "remove_leftovers", killed)
        with pytest.raises(KeyboardInterrupt):
            add(AddConfig(index=index, images=[photos / "more"], quiet=True))
    assert list(index.glob(".work*/*"))
    assert add(AddConfig(index=index, images=[photos / "more"], quiet=True))["already_there"] == 4
    assert not list(index.glob(".work*"))


def test_a_removal_of_items_reads_no_batch(index: Path) -> None:
    batch = index / ".work-of-another" / "batch.parquet"
    batch.parent.mkdir()
    batch.write_bytes(b"whoever reads this fails")
    remove(RemoveConfig(index=index, ids=[0], quiet=True))
    assert batch.exists()


@pytest.mark.parametrize("damage", ["a bit of a code", "the whole file"])
def test_a_kept_batch_that_was_damaged_is_encoded_anew(
    damage: str, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_recipe, "update_index", killed)
        with pytest.raises(KeyboardInterrupt):
            add(AddConfig(index=index, images=[photos / "more"], quiet=True))
    (batch,) = index.glob(".work*/*.parquet")
    content, codes = bytearray(batch.read_bytes()), pq.read_table(batch).column("code").to_pylist()
    row = next(row for row, code in enumerate(codes) if content.count(code) == 1)  # not in the statistics too
    content[content.index(codes[row])] ^= 1
    batch.write_bytes(bytes(content) if damage == "a bit of a code" else b"no Parquet file")
    assert add(AddConfig(index=index, images=[photos / "more"], quiet=True))["resumed"] == 0
    assert "is damaged" in caplog.text
    assert read_index(index).packed[1 + row].tobytes() == codes[row]
