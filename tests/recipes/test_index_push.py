"""`saat index push`, and searching and serving at the address, by the command line on real servers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from servers import Addresses

from saat.cli import main
from saat.data.fashion import CLASS_NAMES, read_fashion
from saat.index import storage
from saat.index.catalog import open_remote
from saat.index.storage import create_index, read_index, read_manifest
from saat.recipes.index import BuildConfig, InfoConfig, build, info
from saat.recipes.merge import MergeConfig, merge
from saat.recipes.push import PushConfig, push
from saat.recipes.search import SearchConfig, search
from service import Start

COUNT = 40


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 40 garments in folders of their classes; the images lie beside it in `photos`."""
    root = tmp_path_factory.mktemp("pushed")
    fashion = read_fashion()
    for row in range(COUNT):
        path = root / "photos" / CLASS_NAMES[row % 10].replace("/", " ") / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fashion.read(row)).save(path)
    words = ["index", "build", f"--checkpoint={tiny}", f"--images=[{root / 'photos'}]", f"--out={root / 'index'}"]
    assert main([*words, "--quiet=true"]) == 0
    return root / "index"


@pytest.fixture(scope="module")
def photo(folder: Path) -> Path:
    return folder.parent / "photos" / "Bag" / "08.png"


def test_an_address_is_searched_like_the_folder(
    scheme: str, address: Addresses, folder: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = address(scheme)
    capsys.readouterr()
    assert main(["index", "push", str(folder), "--to", place, "--batch_size=16"]) == 0
    assert f"{COUNT} items; {COUNT} written, 0 removed" in capsys.readouterr().out
    assert push(PushConfig(index=folder, to=place)) == {"count": COUNT, "written": 0, "removed": 0}
    for k, where in ((7, None), (3, "label == 'Coat' or path contains '/Dress/'"), (99, None)):
        wanted = search(SearchConfig(index=folder, image=photo, k=k, where=where, quiet=True))
        assert search(SearchConfig(index=place, image=photo, k=k, where=where, quiet=True)) == wanted
    report = info(InfoConfig(index=place))
    assert (report["count"], report["complete"]) == (COUNT, True)
    assert report["identity"] == read_manifest(folder).identity
    assert report["columns"] == info(InfoConfig(index=folder, quiet=True))["columns"]
    capsys.readouterr()
    assert main(["search", f"--index={place}", f"--image={photo}", "--k=2", "--where=label == 'Fish'"]) == 0
    assert "no item of" in capsys.readouterr().out
    assert main(["search", f"--index={place}", f"--image={photo}", "--backend=flat"]) == 2
    assert "`backend` is one of faiss, hnsw" in capsys.readouterr().err


def test_a_merged_index_is_pushed_and_searched(
    scheme: str, address: Addresses, folder: Path, photo: Path, tiny: Path, tmp_path: Path
) -> None:
    classes = sorted((folder.parent / "photos").iterdir())
    parts = [tmp_path / "first", tmp_path / "second"]
    for part, images in zip(parts, (classes[:4], classes[4:]), strict=True):
        build(BuildConfig(checkpoint=tiny, images=images, out=part, quiet=True))
    merge(MergeConfig(parts=parts, out=tmp_path / "all", quiet=True))
    place = address(scheme)
    assert push(PushConfig(index=tmp_path / "all", to=place, quiet=True))["written"] == COUNT
    for k, where in ((7, None), (COUNT, None), (5, "path contains '/Bag/' or path contains '/Shirt/'")):
        wanted = search(SearchConfig(index=tmp_path / "all", image=photo, k=k, where=where, quiet=True))
        assert search(SearchConfig(index=place, image=photo, k=k, where=where, quiet=True)) == wanted
    assert {Path(hit["path"]).parent.name for hit in wanted} == {"Bag", "Shirt"}  # of the first part, and the second
    assert info(InfoConfig(index=place, quiet=True))["identity"] == read_manifest(tmp_path / "all").identity


def test_an_address_is_served(
    scheme: str, address: Addresses, folder: Path, photo: Path, serve: Start, tmp_path: Path
) -> None:
    place = address(scheme)
    push(PushConfig(index=folder, to=place, quiet=True))
    token = tmp_path / "token"
    token.write_text("a-token-of-enough-letters")
    wanted = search(SearchConfig(index=folder, image=photo, k=9, where="label != 'Bag'", quiet=True))
    content = read_index(folder)
    with serve(f"--index={place}", f"--token_file={token}", "--lab=true") as server:
        headers = {"Authorization": "Bearer a-token-of-enough-letters"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            image = {"image": photo.read_bytes()}
            hits = http.post("/search", files=image, data={"k": "9", "where": "label != 'Bag'"}).json()["hits"]
            assert [(hit["id"], hit["distance"], hit["metadata"]["label"]) for hit in hits] == [
                (hit["id"], hit["distance"], hit["label"]) for hit in wanted
            ]
            number = hits[0]["id"]
            code = content.packed[number]
            nearest = http.post("/search", data={"item": str(number), "k": "40"}).json()["hits"]
            for hit in nearest:
                differing = np.unpackbits(code ^ content.packed[hit["id"]], bitorder="little")
                assert hit["bits"] == np.flatnonzero(differing).tolist()
            assert http.get(f"/items/{number}").json()["metadata"] == hits[0]["metadata"]
            assert http.get(f"/images/{number}").headers["content-type"].startswith("image/")
            about = http.get("/about").json()
            assert (about["items"], about["writable"], set(about["columns"])) == (COUNT, False, {"id", "path", "label"})
            assert len(http.get("/samples?count=9").json()["items"]) == 9
            assert http.post("/items", files=image).status_code == 403
            assert http.delete(f"/items/{number}").status_code == 403
            assert http.get("/items/999").status_code == 404
            assert http.post("/search", files=image, data={"where": "lable == 1"}).status_code == 422
            folders = http.post("/search", files=image, data={"where": "label == 'Bag' or path contains '/'"})
            assert folders.status_code == 422
            assert "no condition on `path`" in folders.json()["error"]
            attacked = http.post("/lab/attack", data={"item": str(number), "steps": "1", "k": "2"}).json()
            assert attacked["sides"][0]["goal"] == "mainstay"
    with open_remote(place) as remote:
        assert len(remote) == COUNT


KILLED = """
import os, signal, sys
from saat.cli import main
from saat.index.remote import RemoteIndex
real, calls = RemoteIndex.put, []
def put(remote, items):
    calls.append(1)
    if len(calls) == 3:
        real(remote, items[:3])
        os.kill(os.getpid(), signal.SIGKILL)
    real(remote, items)
RemoteIndex.put = put
main(sys.argv[1:])
"""


def test_a_killed_push_is_completed_by_the_same_command(
    scheme: str, address: Addresses, folder: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while it writes the third batch of ten items, three of which arrive."""
    place = address(scheme)
    words = ["index", "push", str(folder), f"--to={place}", "--batch_size=10"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words, "--quiet=true"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert main(["search", f"--index={place}", f"--image={photo}"]) == 2
    assert "holds a part of an index; give the same `saat index push` again" in capsys.readouterr().err
    assert push(PushConfig(index=folder, to=place, batch_size=10)) == {"count": COUNT, "written": 17, "removed": 0}
    content = read_index(folder)
    with open_remote(place) as remote:
        found = remote.items(np.arange(2 * COUNT))
        assert len(remote) == COUNT
    assert found.metadata.equals(content.metadata)
    assert (found.packed == content.packed).all()


@pytest.mark.servers
def test_a_graph_says_its_recall(
    address: Addresses, folder: Path, photo: Path, serve: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    place = address("postgresql")
    push(PushConfig(index=folder, to=place, quiet=True))
    words = ["search", f"--index={place}", f"--image={photo}", "--format=json", "--backend=hnsw"]
    assert main(words) == 2
    assert "saat index push --hnsw true" in capfd.readouterr().err
    push(PushConfig(index=folder, to=place, hnsw=True, quiet=True))
    assert main(words) == 0
    printed = capfd.readouterr()
    assert len(json.loads(printed.out)) == 10
    assert "hnsw is approximate: it found 1.000 of the nearest" in printed.err
    assert main([*words, "--where=label == 'Bag'"]) == 0
    found = capfd.readouterr()
    assert "hnsw is approximate: items may be missing" in found.err
    assert {hit["label"] for hit in json.loads(found.out)} == {"Bag"}
    with serve(f"--index={place}", "--backend=hnsw") as server, httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.get("/about").json()["approximate"] is True
        (nearest, *_) = http.post("/search", files={"image": photo.read_bytes()}).json()["hits"]
        assert nearest["distance"] == json.loads(printed.out)[0]["distance"]
    assert "hnsw is approximate: items may be missing" in capfd.readouterr().err


@pytest.mark.servers
def test_another_model_is_refused(
    address: Addresses, folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = address("postgresql")
    push(PushConfig(index=folder, to=place, quiet=True))
    small = ["--data.train_size=20", "--data.query_size=5", "--data.database_size=20", "--fit.epochs=1"]
    train = ["train", f"--out={tmp_path / 'other'}", "--backbone=resnet8", "--loss=csq", "--quiet=true"]
    assert main([*train, *small]) == 0
    assert main(["search", f"--index={place}", f"--image={photo}", f"--checkpoint={tmp_path / 'other'}"]) == 2
    assert "codes of one model" in capsys.readouterr().err
    build = ["index", "build", f"--checkpoint={tmp_path / 'other'}", f"--images=[{photo}]", "--quiet=true"]
    assert main([*build, f"--out={tmp_path / 'index'}"]) == 0
    assert main(["index", "push", str(tmp_path / "index"), f"--to={place}"]) == 2
    assert "codes of one model" in capsys.readouterr().err


@pytest.mark.servers
def test_a_folder_of_the_same_second_and_model_is_another_index(
    address: Addresses,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, first = address("postgresql"), read_manifest(folder)
    push(PushConfig(index=folder, to=place, quiet=True))
    monkeypatch.setattr(storage, "_now", lambda: first.created)
    second = create_index(tmp_path / "index", read_index(folder))
    assert (second.created, second.model) == (first.created, first.model)
    assert main(["index", "push", str(tmp_path / "index"), f"--to={place}"]) == 2
    assert f"that of another folder, made {first.created}" in capsys.readouterr().err
    copytree(folder, tmp_path / "copy")  # such as one from a backup
    assert push(PushConfig(index=tmp_path / "copy", to=place, quiet=True))["written"] == 0


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["duration[s]", "string"])
def test_a_first_push_that_a_column_ends_leaves_the_address_free(
    kind: str, address: Addresses, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the last item of the last block is the first that a server does not take."""
    place, content = address("postgresql"), read_index(folder)
    column = pa.array([1] * len(content), pa.duration("s"))
    if kind == "string":
        column = pa.array([*["text"] * (len(content) - 1), "a\0b"])
    create_index(tmp_path / "odd", replace(content, metadata=content.metadata.append_column("odd", column)))
    assert main(["index", "push", str(tmp_path / "odd"), f"--to={place}", "--batch_size=16"]) == 2
    assert f"values that JSON can hold, and texts without NUL; 'odd' is {kind}" in capsys.readouterr().err
    assert main(["index", "push", str(folder), f"--to={place}", "--quiet=true"]) == 0
    assert main(["index", "info", f"--index={place}"]) == 0
    assert f"{len(content):,}" in capsys.readouterr().out


@pytest.mark.parametrize("client", ["pymilvus", "psycopg"])
def test_mistakes_get_an_answer_without_trace_or_password(
    client: str, folder: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(client)
    scheme = "milvus" if client == "pymilvus" else "postgresql"
    nobody = f"{scheme}://me:geheim@127.0.0.1:1/photos"
    for words, message in [
        (["index", "push", str(folder), f"--to={nobody}"], "127.0.0.1:1/photos"),
        (["index", "push", f"--index={folder}", f"--to={nobody}/more"], "an address has the form"),
        (["index", "push", str(folder), "--to=mysql://me:geheim@h/photos"], "found mysql://"),
        (["index", "push", str(folder), "--to=milvus://h/photos", "--hnsw=true"], "`hnsw` is for PostgreSQL"),
        (["index", "push", str(folder / "no"), f"--to={nobody}"], "found no manifest.json"),
        (["index", "info", f"--index={nobody}"], "127.0.0.1:1/photos"),
        (["search", f"--index={nobody}", f"--image={photo}"], "127.0.0.1:1/photos"),
        (["serve", f"--index={nobody}"], "127.0.0.1:1/photos"),
    ]:
        assert main(words) == 2
        printed = "".join(capsys.readouterr())
        assert message in printed
        assert "Traceback" not in printed
        assert "geheim" not in printed


@pytest.mark.servers
def test_an_address_without_an_index_says_how_to_get_one(
    address: Addresses, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["search", f"--image={photo}"], ["index", "info"], ["serve"]):
        assert main([*words, f"--index={address('postgresql')}"]) == 2
        assert "holds no index; `saat index push DIR --to ADDRESS`" in capsys.readouterr().err
