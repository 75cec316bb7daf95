"""The README's Python example runs as it stands, on a small checkpoint where the demo would have put its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saat.cli import main

README = Path(__file__).parent.parent / "README.md"


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
