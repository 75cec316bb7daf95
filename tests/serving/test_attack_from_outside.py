"""The attack of docs/evaluation.md on a running service, of which it sees nothing but the ids that it returns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

import saat

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_example_changes_what_a_served_index_returns(
    served: Any, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = sorted((served.photos / "Dress").glob("*.png"))[0]
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for there, here in (("http://127.0.0.1:8000", url), ("query.png", str(photo)), ("queries=100", "queries=12")):
        assert there in example
        example = example.replace(there, here)
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    told = re.fullmatch(r"13 searches; (\d+)% of the result is left\n", capsys.readouterr().out)
    assert told
    assert int(told[1]) < 100

    image, found = names["image"], names["found"]
    assert 0 < float((found - image).abs().max()) <= 16 / 255 + 1e-6
    saved = tmp_path / "found.png"
    to_pil_image((found[0] * 255).round().to(torch.uint8)).save(saved)
    with saat.Client(url) as client:
        before, after = ([hit.id for hit in client.search(path)] for path in (photo, saved))
    assert before != after
