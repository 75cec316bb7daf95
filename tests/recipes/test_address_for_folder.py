"""An address where a command takes a file or folder is refused, and its password is not shown."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from saat.cli import COMMANDS, main

ADDRESS = "postgresql://me:geheim@db/photos?sslmode=geheim"


def path_options() -> list[tuple[str, str]]:
    """Return command and option of every option that is a file or folder, or some, and nothing else."""
    found = []
    for words, command in COMMANDS.items():
        for name, kind in get_type_hints(command.config).items():
            kinds = {kind, *get_args(kind)}
            if Path in kinds and str not in kinds:
                found.append((words, name))
    return found


def test_the_commands_of_an_index_are_among_them() -> None:
    assert {
        ("index build", "out"),
        ("index build", "checkpoint"),
        ("index build", "images"),
        ("index add", "index"),
        ("index remove", "index"),
        ("index push", "index"),
        ("index verify", "index"),
        ("search", "image"),
    } <= set(path_options())


@pytest.mark.parametrize(("words", "option"), path_options())
def test_an_address_is_no_path(
    words: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = [each.name for each in fields(COMMANDS[words].config) if each.default is each.default_factory is MISSING]
    others = [f"--{name}=x" for name in needed if name != option]
    assert main([*words.split(), f"--{option}", ADDRESS, *others]) == 2
    rule = f"`{option}` is a path on this machine; got the address postgresql://db/photos?table=saat\n"
    assert capsys.readouterr().err == f"saat {words}: {rule}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("milvus://me:geheim@db", "milvus://..."),
        ("mysql://me:geheim@db/photos", "mysql://..."),
        ("postgresql:/me:geheim@db/photos", "postgresql://db/photos?table=saat"),
    ],
)
def test_what_is_no_address_shows_no_password_either(
    address: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", "verify", address]) == 2
    assert capsys.readouterr().err == f"saat index verify: `index` is a path on this machine; got the address {shown}\n"


def test_an_address_too_many_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["index", "verify", "folder", ADDRESS])
    assert "unrecognized arguments: postgresql://... (values" in capsys.readouterr().err
