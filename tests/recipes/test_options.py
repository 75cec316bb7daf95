"""What is read from the command line: presets, short forms, files of options, help, and an answer to what is wrong."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saat.cli import COMMANDS, main
from saat.index.content import IndexContent, ModelKey
from saat.index.storage import create_index
from saat.parsing import load_yaml, parse


def test_help_shows_the_defaults_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["harden", "--preset=cgat", "--help"])
    assert "default: cgat)" in capsys.readouterr().out


def parsed(line: str) -> Any:
    words = shlex.split(line)
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    return parse(name, COMMANDS[name], words[len(name.split()) :])


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("index build x 2024 'b c' --out y", 'index build --checkpoint=x --images=\'["2024", "b c"]\' --out=y'),
        ("index build --images 2024 'b c' --checkpoint x --out=y", "index build x 2024 'b c' --out=y"),
        ("index build --images=2024 'b c' --checkpoint x --out=y", "index build x 2024 'b c' --out=y"),
        ("index build x a --out y", "index build x '[a]' --out y"),
        ("index build x 😀 2024/05 --out y", "index build --checkpoint=x --images='[😀, \"2024/05\"]' --out=y"),
        ("index info 2024/05", "index info --index=2024/05"),
        (
            "attack x --out y --epsilon 1/4 --step_size=1/8",
            "attack --checkpoint=x --out=y --epsilon=0.25 --step_size=0.125",
        ),
        ("harden 2024 --out y", "harden --checkpoint=./2024 --out=y"),
        ("index build --checkpoint x --images '[a, b c]' --out y", "index build x '[a, b c]' --out y"),
        ("index merge x z --out y", "index merge --parts='[x, z]' --out=y"),
        ("index remove y --ids 3", "index remove --index=y --ids=[3]"),
        (
            "index push y --to postgresql://host/base --hnsw",
            "index push --index=y --to=postgresql://host/base --hnsw=true",
        ),
        ("search y a.jpg -k 3 --where \"a == '1'\"", "search --index=y --image=a.jpg --k=3 --where=\"a == '1'\""),
        ("serve y --lab --port 1", "serve --index=y --lab=true --port=1"),
        ("certify x --radii 1/4 0.5 --out y", "certify --checkpoint=x --radii='[0.25, 0.5]' --out=y"),
        ("leaderboard x --out y", "leaderboard --cards=x --out=y"),
        ("leaderboard x z --out y", "leaderboard --cards='[x, z]' --out=y"),
        ("report x z --names a b --out y", "report --runs='[x, z]' --names='[a, b]' --out=y"),
        (
            "attack x --out y --targeted --surrogate a",
            "attack --checkpoint=x --out=y --targeted=true --surrogate='[a]'",
        ),
        (
            "train --out y --seed -1 --fit.augment false",
            "train --out=y --seed=-1 --fit.augment=false",
        ),
        ("serve y --token-file a-b --request-seconds=3", "serve --index=y --token_file=a-b --request_seconds=3"),
        ("train --fit.batch-size 8 --loss csq --out a-b", "train --fit.batch_size=8 --loss=csq --out=a-b"),
        ("train --out y --fit.augment --quiet", "train --out=y --fit.augment=true --quiet=true"),
    ],
)
def test_short_forms_mean_the_whole_ones(short: str, whole: str) -> None:
    assert parsed(short) == parsed(whole)


def test_a_checkpoint_whose_name_reads_as_a_number_is_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("2024", "2024-05-01"):
        assert main(["harden", name, "--out=y", "--data.query_size=3"]) == 2
        assert f"found no card.json in {name}" in capsys.readouterr().err


def test_a_file_of_options_keeps_the_dashes_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "a-b.yaml").write_text("fit: {batch_size: 7}\n")
    assert parsed(f"train --out y --config {tmp_path / 'a-b.yaml'}").fit.batch_size == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`config` is a YAML file of options, such as `seed: 1`; got an empty one"),
        ("# none\n", "`config` is a YAML file of options, such as `seed: 1`; got # none"),
        ("fit: {epohcs: 3}\n", "unrecognized arguments: --fit.epohcs; did you mean --fit.epochs?"),
        ("weights: w\nout: 2024\n", "`out` is a path; one that reads as a number or a date has quotes in a YAML file"),
        (None, "`config`: File does not exist: '@'"),
    ],
)
def test_what_is_wrong_with_a_file_of_options_is_said(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit):
        main(["train", f"--config={file}"])
    assert capsys.readouterr().err.startswith(f"saat train: {message.replace('@', str(file))}\n")


def test_what_a_list_takes() -> None:
    made = parsed("index build x 2024 'b c' --out y")
    assert (made.checkpoint, made.images, made.out) == (Path("x"), [Path("2024"), Path("b c")], Path("y"))
    assert parsed("certify x --radii 1/4 0.5 --out y").radii == [0.25, 0.5]
    assert parsed("leaderboard x --out y").cards == Path("x")


def test_data_options_of_a_command_that_has_none_get_an_answer(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["index", "build", f"--checkpoint={tiny}", "--images=x", f"--out={tmp_path}", "--data.query_size=30"])
    assert stopped.value.code == 2
    assert "--data.query_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack", "--checkpoint=x", "--out=y", "--epsilon=8"], "did you mean 8/255?"),
        (["train", "--out=y", "--code_length=50"], "the nearest are 48 and 56"),
        (["train", "--out=y", "--data.split_seed=-1"], "`data.split_seed` is at least 0; got -1"),
        (["train", "--out=y", "--fit.epochs=0"], "`fit.epochs` is at least 1; got 0"),
        (["train", "--out=y", "--data.name=fashon"], "did you mean 'fashion'"),
        (["train", "--out=y", "--data.name=folder", "--data.root=/no/such/folder"], "/no/such/folder"),
        (["evaluate", "--checkpoint=/no/such/checkpoint"], "card.json"),
        (["evaluate"], "give `checkpoint`"),
        (["evaluate", "--model=json:loads"], "`model` 'json:loads' cannot be built"),
        (["train", "--out=y", "--backbone=resnet21", "--data.train_size=20"], "or 'resnet20'"),
        (["search", "x", "a.png", "--image=b.png"], "`image` is given once; got a.png, which stands first, and"),
        (["index", "add", "x", "a", "b", "--images", "c"], '`images` is given once; got ["a", "b"], which stands'),
        (["frobnicate"], "no command 'frobnicate'"),
    ],
)
def test_mistakes_get_an_answer(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("value", ["3", "null"])
def test_a_group_of_options_is_no_value(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.yaml").write_text(f"fit: {value}\n")
    assert main(["train", "--out=y", f"--config={tmp_path / 'file.yaml'}"]) == 2
    expected = f"saat train: `fit` is a group of options, such as `fit.epochs`; got {value}\n"
    assert capsys.readouterr().err == expected


def test_a_group_that_may_be_left_out_may_be_null(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("data: null\n")
    assert parsed(f"attack x --out y --config {tmp_path / 'file.yaml'}").data is None


@pytest.mark.parametrize("option", ["--config", "--fit"])
def test_a_file_of_options_is_text(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.yaml").write_bytes(b"epochs: \xff\n")
    assert main(["train", "--out=y", f"{option}={tmp_path / 'file.yaml'}"]) == 2
    expected = "saat train: `config` and files of groups are YAML in UTF-8; found invalid start byte at byte 8\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack", "--out=y", "--data.bogus=3"], "unrecognized arguments: --data.bogus"),
        (["attack", "x", "--out=y", "--checkp=z"], "unrecognized arguments: --checkp=z; did you mean --checkpoint?"),
        (["attack", "--out=y", "--eps", "8/255"], "unrecognized arguments: --eps 8/255; did you mean --epsilon?"),
        (["train", "--out=y", "--qui"], "unrecognized arguments: --qui; did you mean --quiet?"),
        (["attack", "--out=y", "--data.query_size=x"], "`data.query_size` is int; got x"),
        (["attack", "--out=y", "--batch_size=q"], "`batch_size` is int or null; got q"),
        (
            ["attack", "--out=y", "runs/x"],
            "unrecognized arguments: runs/x (values without an option stand before all options)",
        ),
        (["attack", "--out=y", "--stpes=3"], "unrecognized arguments: --stpes=3; did you mean --steps?"),
        (["attack", "--out=y", "--config=@"], "`surrogate` is list[Path] or null; got runs/a"),
        (["attack"], "the following arguments are required: out"),
        (
            ["train", "--out=y", "--fit=no.yaml"],
            "`fit` is a group of options, or a YAML file of them; got no.yaml, and there is no such file",
        ),
        (["train", "--out=y", "--data=x"], "`data` is a group of options, or a YAML file of them; got x"),
    ],
)
def test_options_that_cannot_be_parsed_get_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.yaml").write_text("surrogate: runs/a\n")
    with pytest.raises(SystemExit) as stopped:
        main([word.replace("@", str(tmp_path / "file.yaml")) for word in words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"saat {words[0]}: {message}\n`saat {words[0]} --help` shows the options\n"


@pytest.mark.parametrize(
    ("words", "then"),
    [
        (["train", "--out=y"], "goes on"),
        (["attack", "--out=y"], "goes on"),
        (["evaluate", "x", "--out=y"], "starts again"),
        (["evaluate", "x", "--out=y", "--suite=fast"], "goes on"),
    ],
)
def test_a_stop_says_what_the_same_command_does(
    words: list[str], then: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("saat.cli.COMMANDS", {words[0]: replace(COMMANDS[words[0]], run=stopped)})
    assert main(words) == 130
    assert f"stopped; the same command {then}" in capsys.readouterr().err


def test_what_a_command_resumes_with_is_an_option_of_it() -> None:
    for command in COMMANDS.values():
        assert not command.resumes or command.resumes in command.config.__dataclass_fields__


def test_unknown_keys_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("bakcbone: resnet8\n")
    for words in (["train", "--out=y", "--bakcbone=x"], ["train", "--out=y", f"--config={config}"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert "bakcbone" in capsys.readouterr().err


@pytest.mark.parametrize("words", list(COMMANDS))
def test_help_names_every_option(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"saat {words}" in printed
    for words_of_python in ("class", "Union[", "Optional[", "type:", "null)", "LIST_OF"):
        assert words_of_python not in printed.replace("subfolder a class", "")


@pytest.mark.parametrize(("group", "count"), [("index", 7), ("data", 2)])
def test_help_of_a_group_shows_its_commands(group: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([group, "--help"], [group, "-h"], [group], [group, "frobnicate"]):
        asked = words[1:] in (["--help"], ["-h"])
        assert main(words) == (0 if asked else 2)
        printed = capsys.readouterr()
        lines = [line for line in (printed.out if asked else printed.err).splitlines() if line.startswith("  saat ")]
        assert [line.split()[1] for line in lines[:-1]] == [group] * count


def test_help_says_the_short_form_of_k(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert "-k for short" in capsys.readouterr().out.replace("`", "")


def test_fractions_are_numbers_in_yaml() -> None:
    assert load_yaml("{epsilon: 8/255, path: a/b}") == {"epsilon": 8 / 255, "path": "a/b"}


def test_help_after_a_list_of_values_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["index", "build", "x", "a", "b", "-h"])
    assert "--images" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_the_output_gets_an_answer() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "saat", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.startswith("saat: what is printed cannot be written: ")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="no POSIX shell here")
@pytest.mark.parametrize(("words", "closed", "code"), [("data list", ">&-", 0), ("frobnicate", "2>&-", 2)])
def test_a_closed_output_is_none(words: str, closed: str, code: int) -> None:
    done = subprocess.run(f"{sys.executable} -m saat {words} {closed}", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_folder_whose_name_is_no_text_is_printed(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xe9"
    content = IndexContent.empty(ModelKey("a" * 32, 16, "runs/plain"))
    create_index(Path(os.fsdecode(folder)), content)
    words = [sys.executable, "-m", "saat", "index", "verify", folder]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"}, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
