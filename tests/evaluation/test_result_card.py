from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from result_cards import make_card, make_report

from saat.errors import DataError
from saat.evaluation.result_card import LARGEST_FILE, check_result_card, read_result_card


def test_a_card_holds_the_claim_and_no_place_on_the_machine():
    report = make_report(flags=["overlap"], surrogates=["s1"])
    before = copy.deepcopy(report)
    card = make_card(flags=["overlap"], surrogates=["s1"])
    assert report == before
    assert card["versions"].keys() == {"saat", "python", "torch"}
    del card["versions"]
    assert card == {
        "saat": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "name": "hard",
        "unreliable": True,
        "flags": ["overlap"],
        "dataset": {
            "name": "made-up",
            "sizes": {"train": 40, "query": 12, "database": 1234},
            "checksums": {"train": "t1", "query": "q1", "database": "d1"},
            "image_size": 28,
            "crop_border": 0,
        },
        "model": {
            "checkpoint": "hard",
            "backbone": "resnet20",
            "weights": "cifar.th",
            "code_length": 32,
            "loss": "csq",
            "defense": "saat",
            "parent": "plain",
            "train_seconds": 12.5,
            "epochs": 20,
        },
        "threat": {"norm": "linf", "epsilon": 8 / 255},
        "suite": "fast",
        "steps": 10,
        "surrogates": ["s1"],
        "seed": 0,
        "clean_map": 0.9,
        "worst_map": 0.3,
        "worst_map_interval": [0.27999999999999997, 0.32],
        "worst_map_paper": 0.375,
        "chance_map": 0.1,
        "chance_map_paper": 0.12,
        "any_code_map": 0.02,
        "members": {"away-from-mainstay": 0.3, "soft-ranking": 0.31},
        "model_evaluations": 400,
        "seconds": 3.0,
    }


def test_a_card_comes_back_from_its_file(tmp_path: Path):
    card = make_card()
    path = tmp_path / "result.json"
    path.write_text(json.dumps(card, indent=2))
    assert read_result_card(path) == card


def test_a_card_of_an_older_version_knows_no_chance_of_the_papers_map():
    card = make_card()
    del card["chance_map_paper"]
    assert check_result_card(card) == card
    with pytest.raises(DataError, match=r"`chance_map_paper` is a MAP in \[0, 1\] or null; found 1.5"):
        check_result_card(card | {"chance_map_paper": 1.5})


def test_the_card_of_a_model_of_the_users_own_is_a_card():
    own = make_card(checkpoint=None, backbone="mine:make", weights=None, parent=None, loss=None, defense=None)
    assert own["model"]["checkpoint"] is None
    without = {key: value for key, value in own["model"].items() if key in ("checkpoint", "backbone", "code_length")}
    assert check_result_card(own | {"model": without})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "10"}, "`steps` is a whole number of at least 0; found '10'"),
        ({"steps": True}, "`steps` is a whole number"),
        ({"seed": 0.5}, "`seed` is a whole number; found 0.5"),
        ({"clean_map": float("nan")}, r"`clean_map` is a MAP in \[0, 1\]; found nan"),
        ({"chance_map": 10}, r"`chance_map` is a MAP in \[0, 1\]; found 10"),
        ({"seconds": 10**400}, "`seconds` is a finite number"),
        ({"name": "two\nlines"}, r"`name` is printable text; found 'two\\nlines'"),
        ({"name": "\ud800"}, "`name` is printable text"),
        ({"name": "\x1b[2J"}, "`name` is printable text"),
        ({"flags": "overlap"}, "`flags` is a list of names"),
        ({"unreliable": True}, r"unreliable where it has flags, and only there; found \[\]"),
        ({"flags": ["overlap"]}, "unreliable where it has flags"),
        ({"members": {}}, "`members` is a MAP for each name"),
        ({"members": {"pgd": None}}, "`members` is a MAP for each name"),
        ({"worst_map_interval": [0.5, 0.4]}, "the lower one first"),
        ({"worst_map": 0.31}, "`worst_map` is at most every other MAP, 0.3 here; found 0.31"),
        ({"clean_map": 0.2}, "`worst_map` is at most every other MAP, 0.2 here; found 0.3"),
        ({"dataset": {"name": "made-up"}}, "`dataset.sizes.query` is a whole number of at least 0; found None"),
        ({"model": []}, "`model.backbone` is printable text; found None"),
        ({"surrogates": "s1"}, "`surrogates` is a list of checksums, or null; found 's1'"),
        ({"threat": {"norm": "linf", "epsilon": 8}}, r"did you mean 8/255\?"),
        ({"threat": {"norm": "l3", "epsilon": 0.1}}, "`norm` is one of l2, linf; got 'l3'"),
        ({"threat": {"norm": "l2", "epsilon": 10**400}}, r"`threat\.epsilon` is a finite number"),
    ],
)
def test_a_broken_rule_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        check_result_card(make_card() | changes)


@pytest.mark.parametrize("entry", sorted(make_card().keys() - {"chance_map_paper", "surrogates"}))  # of older versions
def test_every_entry_is_needed(entry: str):
    card = make_card()
    del card[entry]
    with pytest.raises(DataError, match=f"`{entry}[`.]"):
        check_result_card(card)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"cut', "is damaged: "),
        (b"", "is damaged: "),
        (b"\xff\xfe", "is damaged: "),
        (b"[" * 100_000, "is damaged: "),
        (b"[1]", "is no result card: it is a JSON object; found [1]"),
        (b'{"saat": 3}', "is no result card: `saat` is printable text; found 3"),
        (b" " * (LARGEST_FILE + 1), "is no result card: a card has at most 1,048,576 bytes; found 1,048,577"),
    ],
)
def test_a_damaged_or_foreign_file_is_named(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path} {message}")):
        read_result_card(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.json is damaged: .*No such file"):
        read_result_card(tmp_path / "none.json")
