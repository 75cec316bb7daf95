"""`saat index merge`: parts become the index that a build of all their images would have written."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saat.cli import main
from saat.errors import DataError
from saat.index.content import IndexContent, ModelKey
from saat.index.flat import FlatIndex
from saat.index.storage import create_index, read_index, read_manifest, verify_index
from saat.recipes import index as index_recipe
from saat.recipes.index import AddConfig, BuildConfig, RemoveConfig, add, build, remove
from saat.recipes.merge import MergeConfig, merge
from service import Start

MODEL = ModelKey("a" * 32, 16, "runs/plain")


def write(folder: Path, paths: Sequence[str], model: ModelKey = MODEL, **columns: list[Any]) -> Path:
    """Write an index whose code of an item is its path's first letter, again and again."""
    packed = np.array([[ord(path[0])] * (model.code_length // 8) for path in paths], np.uint8)
    table = pa.table({"path": pa.array(paths, pa.string())} | columns)
    create_index(folder, IndexContent.empty(model).added(packed, table, model=model))
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / "first", ["a", "b"], label=["cat", None]), write(tmp_path / "second", ["c"], price=[3])]


@pytest.fixture(scope="module")
def sources(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    """Images of three parts: class folders; others, with a damaged image; a Parquet set, and an image of the first."""
    root = tmp_path_factory.mktemp("sources")
    for number, path in enumerate(sorted(photos.iterdir())):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        copy(path, root / "ab"[number % 2] / path.name)
    pictures = [{"bytes": path.read_bytes(), "path": None} for path in sorted(photos.rglob("*.png"))[:6]]
    (root / "set").mkdir()
    pq.write_table(pa.table({"image": pictures, "price": range(6)}), root / "set" / "train.parquet")
    return [[root / "a"], [root / "b"], [root / "set", next((root / "a").rglob("*.png"))]]


@pytest.fixture(scope="module")
def built_parts(sources: list[list[Path]], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("parts")
    for name, images in zip("abc", sources, strict=True):
        build(BuildConfig(checkpoint=tiny, images=images, out=root / name, quiet=True))
    return [root / name for name in "abc"]


def test_parts_become_the_index_of_all_images(
    sources: list[list[Path]], built_parts: list[Path], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "out", [bytes_of(part) for part in built_parts]
    assert main(["index", "merge", *map(str, built_parts), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 47 items from 3 indexes; 1 were there already\n"
    images = [image for part in sources for image in part]
    build(BuildConfig(checkpoint=tiny, images=images, out=tmp_path / "whole", quiet=True))
    merged, whole = read_index(out), read_index(tmp_path / "whole")
    assert (merged.packed == whole.packed).all()
    assert merged.metadata.equals(whole.metadata)
    assert (merged.model, merged.next_id) == (whole.model, whole.next_id)
    assert set(merged.metadata.column("price").to_pylist()) == {None, *range(6)}
    answers = []
    for content in (merged, whole):
        index = FlatIndex(content.model.code_length)
        index.add(content.packed, content.ids)
        answers.append(index.search(whole.packed, len(whole)))
    assert (answers[0].distances == answers[1].distances).all()
    assert (answers[0].ids == answers[1].ids).all()
    assert (answers[0].distances[:, 1:] == answers[0].distances[:, :-1]).mean() > 0.2  # ties
    assert verify_index(out) == ()
    assert read_manifest(out).identity not in {read_manifest(part).identity for part in built_parts}
    assert [bytes_of(part) for part in built_parts] == before


def test_a_merged_index_serves_its_pictures_and_grows(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Start
) -> None:
    """Parts of images given relative to two folders, one of which has since moved."""
    for name in ("Bag", "Dress"):
        shutil.copytree(photos / name, tmp_path / name / "photos")
        monkeypatch.chdir(tmp_path / name)
        build(BuildConfig(checkpoint=tiny, images=[Path("photos")], out=Path("index"), quiet=True))
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "Bag" / "index", tmp_path / "moved")
    out = tmp_path / "out"
    merge(MergeConfig(parts=[Path("Dress/index"), Path("moved")], out=out, quiet=True))
    add(AddConfig(index=out, images=[photos / "plain.png"], quiet=True))
    files = sorted((tmp_path / "Dress" / "photos").rglob("*.png")) + sorted((tmp_path / "Bag").rglob("*.png"))
    files.append(photos / "plain.png")
    assert len(files) == len(read_index(out)) == 9
    with serve(f"--index={out}") as server, httpx.Client(base_url=server.url, timeout=60) as http:
        for number, file in enumerate(files):
            assert http.get(f"/images/{number}").content == file.read_bytes()


def test_ids_are_given_anew_and_one_part_is_enough(parts: list[Path], tmp_path: Path) -> None:
    remove(RemoveConfig(index=parts[0], ids=[0], quiet=True))
    assert merge(MergeConfig(parts=parts[:1], out=tmp_path / "one", quiet=True)) == {"count": 1, "already_there": 0}
    merge(MergeConfig(parts=[parts[1], parts[0], parts[1]], out=tmp_path / "out", quiet=True))
    content = read_index(tmp_path / "out")
    assert (content.ids.tolist(), content.next_id) == ([0, 1], 2)
    assert content.metadata.to_pylist() == [
        {"id": 0, "path": "c", "price": 3, "label": None},
        {"id": 1, "path": "b", "price": None, "label": None},
    ]


def test_items_without_a_path_are_all_kept(parts: list[Path], tmp_path: Path) -> None:
    for name, columns in (("bare", {"label": ["x", "y"]}), ("bare too", {"label": ["z"]})):
        packed = np.zeros((len(columns["label"]), 2), np.uint8)
        create_index(tmp_path / name, IndexContent.empty(MODEL).added(packed, pa.table(columns), model=MODEL))
    bare = [tmp_path / "bare", tmp_path / "bare too"]
    create_index(tmp_path / "empty", IndexContent.empty(MODEL))
    for given, count in ((bare, 3), ([*parts, *bare], 6), ([tmp_path / "empty"], 0), ([tmp_path / "empty", *bare], 3)):
        assert merge(MergeConfig(parts=given, out=tmp_path / f"{len(given)} {count}", quiet=True))["count"] == count


def test_names_of_damaged_images_are_kept(parts: list[Path], tmp_path: Path) -> None:
    merge(MergeConfig(parts=parts, out=tmp_path / "none", quiet=True))
    assert not (tmp_path / "none" / "damaged.txt").exists()
    for name, part in zip("xy", parts, strict=True):
        (part / "damaged.txt").write_text(f"/ö/{name}.png: not an image\n", encoding="utf-8")
    merge(MergeConfig(parts=parts, out=tmp_path / "out", quiet=True))
    kept = (tmp_path / "out" / "damaged.txt").read_text(encoding="utf-8")
    assert kept == "/ö/x.png: not an image\n/ö/y.png: not an image\n"


def test_damaged_images_are_named_once_and_not_those_that_another_part_has(parts: list[Path], tmp_path: Path) -> None:
    (parts[0] / "damaged.txt").write_bytes(b"c: not an image\nx: empty\n\xe9.png: empty\n")
    (parts[1] / "damaged.txt").write_bytes(b"x: empty\n")
    merge(MergeConfig(parts=parts, out=tmp_path / "out", quiet=True))
    kept = (tmp_path / "out" / "damaged.txt").read_text(encoding="utf-8")
    assert kept == "x: empty\n\ufffd.png: empty\n"


def damaged_part(folder: Path) -> Path:
    write(folder, ["d"])
    (codes,) = folder.glob("codes-*.npy")
    codes.write_bytes(codes.read_bytes()[:-1] + b"?")
    return folder


def part_with_another_code(folder: Path) -> Path:
    content = IndexContent.empty(MODEL).added(np.zeros((2, 2), np.uint8), pa.table({"path": ["b", "d"]}), model=MODEL)
    create_index(folder, content)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: write(folder, ["d"], ModelKey("b" * 32, 16)), "{third} does not fit: an index takes codes of "),
        (lambda folder: write(folder, ["d"], ModelKey("a" * 32, 24)), "{third} does not fit: .* here 16 bits; got 24"),
        (lambda folder: write(folder, ["d"], price=["x"]), "{third} does not fit: .*price.*int64 vs string"),
        (part_with_another_code, "code for each path; b has one in {first}, another in {third} "),
        (damaged_part, "{third}/codes-[0-9a-f]+.npy is damaged"),
        (lambda folder: folder.mkdir(), "`parts` names a folder that .*; found no manifest.json in {third}"),
    ],
)
def test_a_part_that_does_not_fit_is_named(
    make: Callable[[Path], object], message: str, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third, out = tmp_path / "third", tmp_path / "out"
    make(third)
    assert main(["index", "merge", *map(str, parts), str(third), f"--out={out}"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(message.format(first=parts[0], third=third), printed)
    assert not out.exists()


def test_an_index_at_out_and_no_part_are_refused(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (parts[0] / "damaged.txt").write_text("x.png: not an image\n")
    before = bytes_of(parts[1])
    for words, message in (
        ([str(parts[0]), f"--out={parts[1]}"], f"`out` is a folder without an index; found one in {parts[1]} (saat"),
        (["--parts=[]", f"--out={tmp_path / 'out'}"], "`parts` are folders of indexes; got none"),
    ):
        assert main(["index", "merge", *words]) == 2
        assert message in capsys.readouterr().err
    assert bytes_of(parts[1]) == before


def test_a_part_that_is_not_finished_is_refused_until_it_is(
    built_parts: list[Path], photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One build is stopped before its index is there; another one after that; an addition is stopped."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    bag: dict[str, Any] = {"checkpoint": tiny, "images": [photos / "Bag"], "quiet": True}
    early, late = BuildConfig(out=tmp_path / "early", **bag), BuildConfig(out=tmp_path / "late", **bag)
    more = AddConfig(index=early.out, images=[photos / "Dress"], quiet=True)
    steps: list[tuple[Callable[[], Any], Path, str, int]] = [
        (lambda: build(early), early.out, "create_index", 4),
        (lambda: build(late), late.out, "remove_work", 4),
        (lambda: add(more), early.out, "update_index", 8),
    ]
    for number, (command, part, place, count) in enumerate(steps):
        with monkeypatch.context() as patch:
            patch.setattr(index_recipe, place, stopped)
            with pytest.raises(KeyboardInterrupt):
                command()
        config = MergeConfig(parts=[part], out=tmp_path / f"out{number}", quiet=True)
        with pytest.raises(DataError, match=rf"{part}/\.work-\w+, of a build or an addition that was stopped"):
            merge(config)
        assert not config.out.exists()
        command()
        assert merge(config)["count"] == count


KILLED = """
import os, signal, sys
from saat.cli import main
sync, out, parts = os.fsync, sys.argv[1], sys.argv[2:]
for call in range(1, 9):
    child = os.fork()
    if not child:
        calls = []
        def fsync(handle):
            calls.append(handle)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)
        os.fsync = fsync
        main(["index", "merge", *parts, "--out", out + str(call), "--quiet"])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_kill_at_any_write_leaves_no_index_or_all_of_it(parts: list[Path], tmp_path: Path) -> None:
    """Killed at names of damaged images, codes, ids, metadata, their names, the manifest, its name, the folder."""
    (parts[0] / "damaged.txt").write_text("x.png: not an image\n")
    before = [bytes_of(part) for part in parts]
    merge(MergeConfig(parts=parts, out=tmp_path / "whole", quiet=True))
    whole = {path.name for path in (tmp_path / "whole").iterdir()}
    words = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), *map(str, parts)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 8
    for call in range(1, 9):
        out = tmp_path / f"killed{call}"
        assert (out / "manifest.json").exists() == (call > 6)
        if call <= 6:
            merge(MergeConfig(parts=parts, out=out, quiet=True))
        assert verify_index(out) == ()
        assert {path.name for path in out.iterdir() if not path.name.startswith(".damaged")} == whole
    assert [bytes_of(part) for part in parts] == before
