"""What `saat index` and `saat search` refuse, and how they say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from saat.cli import main


def test_another_model_is_refused_by_the_names_of_checkpoint_and_index(
    built: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--data.train_size=20", "--data.query_size=5", "--data.database_size=20", "--fit.epochs=1"]
    for name, bits in (("other", 32), ("longer", 48)):
        train = ["train", f"--out={tmp_path / name}", "--backbone=resnet8", "--loss=csq", f"--code_length={bits}"]
        assert main([*train, *small, "--quiet=true"]) == 0
    before = (built / "manifest.json").read_bytes()
    for name, message in (("other", "codes of one model"), ("longer", "here 32 bits; got 48")):
        chosen, hardened = f"--checkpoint={tmp_path / name}", f"--hardened={tmp_path / name}"
        for words, options in [
            (["search", str(built), str(photos / "plain.png"), chosen], ("checkpoint", "index")),
            (["index", "add", str(built), str(photos), chosen], ("checkpoint", "index")),
            (["serve", str(built), chosen], ("checkpoint", "index")),
            (["serve", str(built), "--lab", hardened, f"--hardened_index={built}"], ("hardened", "hardened_index")),
        ]:
            assert main(words) == 2
            printed = capsys.readouterr().err
            assert "`{}` is a checkpoint of the model of `{}`: ".format(*options) in printed
            assert message in printed
    assert (built / "manifest.json").read_bytes() == before


def test_mistakes_get_an_answer(
    built: Path, photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    build_words = ["index", "build", f"--checkpoint={tiny}"]
    for words, message in [
        ([*build_words, f"--images=[{photos}]", f"--out={built}"], "saat index add makes it larger"),
        ([*build_words, f"--images=[{tmp_path / 'no'}]", f"--out={tmp_path / 'x'}"], "found nothing at"),
        ([*build_words, f"--images=[{tmp_path / 'empty'}]", f"--out={tmp_path / 'x'}"], "`images` holds images"),
        ([*build_words, f"--images=[{photos / 'broken.jpg'}]", f"--out={tmp_path / 'x'}"], "all 1 failed"),
        (["index", "info", f"--index={tmp_path}"], "found no manifest.json"),
        (["index", "verify", f"--index={tmp_path}"], "found no manifest.json"),
        (["index", "remove", f"--index={built}", "--where="], "wrong at 'its end'"),
        (["index", "remove", f"--index={built}", f"--ids={2**63}"], f"below 2^63; got [{2**63}]"),
        (["index", "remove", f"--index={built}", "--ids=-1"], "`ids` are at least 0"),
        (["index", "push", f"--index={built}", "--to=photos"], "found no ://"),
        (["index", "frobnicate"], "no command 'index frobnicate'"),
        (["index"], "'index' is a group of commands; give one of them"),
        (["search", f"--index={built}", f"--image={photos / 'no.png'}"], "No such file"),
        (["search", f"--index={built}", f"--image={photos / 'broken.jpg'}"], "broken.jpg: not an image"),
        (["search", f"--index={built}", "--image=x", "--backend=fais"], "did you mean 'faiss'"),
    ]:
        assert main(words) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert "Traceback" not in printed


def test_an_index_that_is_missing_is_named_by_its_own_option(
    built: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hardened = [f"--hardened={tiny}", f"--hardened_index={tmp_path}", "--lab"]
    for options, name in (([str(built), *hardened], "hardened_index"), ([str(tmp_path)], "index")):
        assert main(["serve", *options]) == 2
        expected = f"`{name}` names a folder that `saat index build` wrote; found no manifest.json in {tmp_path}"
        assert expected in capsys.readouterr().err
