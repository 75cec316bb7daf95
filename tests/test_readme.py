"""What the README shows runs as it stands: its commands after a small demo, and its Python example."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import pytest

import saat
from saat.cli import main
from service import Start
from story import README, commands


def test_the_commands_after_the_demo_index_search_and_serve_its_database(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], serve: Start
) -> None:
    build, search, start = commands("runs/demo/index")
    assert [build[:2], search[:1], start[:1]] == [["index", "build"], ["search"], ["serve"]]
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main(build) == 0
    assert "100 items" in capsys.readouterr().out
    assert main(search) == 0
    image = search[2]
    assert f"Nearest to {image}" in capsys.readouterr().out
    with serve(*start[1:]) as server:
        with saat.Client(server.url) as client:
            hits = client.search(image)
        assert len(hits) == 10
        assert all(hit.metadata["label"] for hit in hits)
        assert httpx.get(f"{server.url}/images/{hits[0].id}").headers["content-type"] == "image/png"
        assert server.terminate() == 0


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--data.train_size=500", "--data.query_size=20", "--data.database_size=500", "--fit.epochs=2"]
    words = ["train", "--out=runs/demo/plain", "--backbone=resnet8", "--loss=csq", "--quiet=true", *small]
    assert main(words) == 0
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
    shape, clean, attacked = capsys.readouterr().out.splitlines()
    assert shape == "torch.Size([100, 32])"
    clean_map, attacked_map = (float(line.split()[1]) for line in (clean, attacked))
    assert attacked_map < 0.1 < clean_map
