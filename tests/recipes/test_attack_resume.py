"""An attack that was stopped goes on: batches that are done are not searched again, and the results are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from saat.cli import main
from saat.recipes import attack_search, detect_search
from service import Start

pytestmark = pytest.mark.usefixtures("no_pictures")
ATTACK = ["attack", "--batch_size=6", "--quiet=true"]  # 4 batches of 20 queries
DETECT = ["detect", "--batch_size=10", "--steps=3", "--quiet=true"]
FILES = {"attack": "adversarial.safetensors", "detect": "attacked.safetensors"}


class Stopping:
    """The search of a batch, which Ctrl-C stops once it was called so many times."""

    def __init__(self, search: Any, calls: int) -> None:
        self.search, self.left, self.done = search, calls, 0

    def __call__(self, *arguments: Any) -> Any:
        if self.done == self.left:
            raise KeyboardInterrupt
        self.done += 1
        return self.search(*arguments)


def told(out: Path) -> dict[str, Any]:
    """The report, without what differs when the same is measured again."""
    report = json.loads((out / "report.json").read_text())
    for part, names in ((report, ("created",)), (report.get("attack", {}), ("seconds", "seconds_of_training"))):
        for name in names:
            part.pop(name, None)
    return report


def test_an_attack_killed_in_the_middle_goes_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ATTACK, f"--checkpoint={tiny}", "--steps=40"]
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "saat", *words, f"--out={out}"], env=os.environ)
    deadline = time.monotonic() + 120
    while not (out / "batches" / "00001.safetensors").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(list((out / "batches").glob("*.safetensors")))
    counting = Stopping(attack_search._search_batch, -1)
    monkeypatch.setattr(attack_search, "_search_batch", counting)
    assert main([*words, f"--out={out}"]) == 0
    assert counting.done == 4 - kept
    assert (out / FILES["attack"]).read_bytes() == (tmp_path / "whole" / FILES["attack"]).read_bytes()
    assert told(out) == told(tmp_path / "whole")
    assert not (out / "batches").exists()


@pytest.mark.parametrize(("words", "search"), [(ATTACK, attack_search), (DETECT, detect_search)])
def test_ctrl_c_loses_no_batch_that_is_done(
    words: list[str],
    search: Any,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "_search_batch" if search is attack_search else "_attack_batch"
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    counting = Stopping(getattr(search, name), -1)
    monkeypatch.setattr(search, name, counting)
    assert main([*words, f"--checkpoint={tiny}", f"--out={whole}"]) == 0
    monkeypatch.setattr(search, name, Stopping(counting.search, 3))
    assert main([*words, f"--checkpoint={tiny}", f"--out={out}"]) == 130
    assert "goes on from what was saved" in capsys.readouterr().err
    rest = Stopping(counting.search, -1)
    monkeypatch.setattr(search, name, rest)
    assert main([*words, f"--checkpoint={tiny}", f"--out={out}"]) == 0
    assert rest.done == counting.done - 3
    assert told(out) == told(whole)
    assert (out / FILES[words[0]]).read_bytes() == (whole / FILES[words[0]]).read_bytes()


@pytest.mark.parametrize("words", [ATTACK, DETECT])
def test_another_run_does_not_mix_with_what_is_there(
    words: list[str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*words, f"--checkpoint={tiny}", f"--out={tmp_path}", "--steps=2"]
    for search, name in ((attack_search, "_search_batch"), (detect_search, "_attack_batch")):
        monkeypatch.setattr(search, name, Stopping(getattr(search, name), 1))
    assert main(words) == 130
    capsys.readouterr()
    for more in ("--epsilon=4/255", "--seed=1", "--batch_size=5", "--steps=3", "--norm=l2"):
        assert main([*words, more]) == 2
        name = more[2:].partition("=")[0]
        assert "`out` is a new folder or that of the same run" in (said := capsys.readouterr().err)
        assert f"{name}: " in said


def test_what_a_service_was_asked_before_the_stop_counts(
    served: Any, serve: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(f"--index={served.index}") as server:
        words = [
            "attack",
            str(served.checkpoint),
            "--goal=returned-ids",
            "--search=square",
            "--steps=4",
            "--quiet=true",
        ]
        words += [f"--service={server.url}", "--batch_size=7", f"--out={tmp_path}"]
        search = attack_search._search_batch
        monkeypatch.setattr(attack_search, "_search_batch", Stopping(search, 2))
        assert main(words) == 130
        monkeypatch.setattr(attack_search, "_search_batch", Stopping(search, 1))
        assert main(words) == 0
    attack = told(tmp_path)["attack"]
    assert attack["searches"] == (1 + 4 + 2) * 20  # the aim, the search, and both results at its end
    assert attack["requests"] == 3 * (1 + 4) + 2
