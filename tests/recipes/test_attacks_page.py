"""docs/attacks.md names all that `saat attack` accepts, and what it shows runs as it stands, in small."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import pytest

from saat.attacks.catalog import GOALS, SEARCHES
from saat.attacks.objectives import OBJECTIVES
from saat.attacks.papers import PRESETS
from saat.attacks.prototype import fit_prototypes
from saat.cli import main
from saat.recipes.attacker import TRAINED

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]
SMALL = ["--steps=2", "--quiet=true"]


@pytest.fixture
def demo(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which `runs/demo` holds a model, as after `make demo`."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    for name in ("plain", "hardened"):
        (tmp_path / "runs" / "demo" / name).symlink_to(tiny)
    monkeypatch.chdir(tmp_path)


def rows(section: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    (part,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", TEXT, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in part.splitlines() if line.startswith("| `") and not line.startswith("| `--")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("Goals", tuple(GOALS)),
        ("Objectives", tuple(OBJECTIVES)),
        ("Searches", (*SEARCHES, *TRAINED)),
        ("The papers' attacks", tuple(PRESETS)),
    ],
)
def test_the_tables_name_all_there_is(section: str, known: tuple[str, ...]) -> None:
    assert sorted(cells[0] for cells in rows(section)) == sorted(f"`{name}`" for name in known)


def test_the_table_of_presets_has_their_settings() -> None:
    for cells in rows("The papers' attacks"):
        settings = PRESETS[cells[0].strip("`")]
        objective = "its own" if GOALS[settings["goal"]].own_objective else f"`{settings['objective']}`"
        wanted = [f"`{settings['goal']}`", objective, f"`{settings['search']}`"]
        assert cells[2] == ", ".join(wanted + ["targeted"] * settings.get("targeted", False))


@pytest.mark.usefixtures("demo", "no_pictures")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_runs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saat.attacks.catalog.fit_prototypes", partial(fit_prototypes, widths=(64, 16), quiet=True))
    words = shlex.split(line, comments=True)
    assert words[0] == "saat"
    assert main([*words[1:], *SMALL]) == 0
    assert (Path(words[words.index("--out") + 1]) / "report.json").is_file()


@pytest.mark.usefixtures("demo")
def test_the_python_examples_run_one_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(example, str(PAGE), "exec"), names)
    cost, returned, as_it_is, bpda = capsys.readouterr().out.splitlines()
    assert cost == "440 evaluations, changes of up to 8.00/255"
    assert returned.endswith("of the results are still returned")
    blocked, through = (int(line.split()[-5].rstrip("%")) for line in (as_it_is, bpda))
    assert blocked < through / 2
