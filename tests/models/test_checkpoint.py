import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from saat.errors import ArgumentError, CheckpointError
from saat.models.checkpoint import (
    CARD_FILE,
    DATABASE_FOLDER,
    WEIGHTS_FILE,
    Card,
    load_checkpoint,
    load_database_model,
    read_card,
    save_checkpoint,
    weights_checksum,
)
from saat.models.hash_model import HashModel, build_model, import_model, wrap_module

CARD = Card(
    backbone="resnet8",
    weights="random",
    code_length=16,
    image_size=32,
    loss="dph",
    data={"name": "demo"},
    manifest={"train": 10},
    training={"epochs": 1},
    metrics={"map": 0.1 + 0.2},
)


@pytest.fixture
def model() -> HashModel:
    torch.manual_seed(0)
    model, _ = build_model("resnet8", code_length=16, weights="random")
    model(torch.rand(4, 3, 32, 32))  # moves the batch statistics
    return model


@pytest.fixture
def folder(tmp_path, model) -> Path:
    save_checkpoint(tmp_path / "run" / "checkpoint", model, CARD)
    return tmp_path / "run" / "checkpoint"


def test_a_round_trip_loses_no_bit(folder, model):
    loaded, card = load_checkpoint(folder)
    assert card == CARD
    assert not loaded.training
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model.eval()(images))
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, WEIGHTS_FILE]  # nothing temporary is left


def test_saving_again_replaces_both(folder, model):
    save_checkpoint(folder, model, replace(CARD, defense="saat", parent="plain"))
    assert read_card(folder).defense == "saat"


def test_missing_parts_are_named(folder):
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"folder with {WEIGHTS_FILE}; found none"):
        load_checkpoint(folder)
    (folder / CARD_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"found no {CARD_FILE} in"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"backbone": "resnet8"}', '{"colour": "red"}'])
def test_a_damaged_card_is_named(folder, text):
    (folder / CARD_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=f"{CARD_FILE} is damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 10_000])
def test_truncated_weights_are_named(folder, size):
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE} is damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("change", [{"backbone": "resnet14"}, {"code_length": 32}])
def test_a_card_of_another_model_is_named(folder, change):
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | change))
    with pytest.raises(CheckpointError, match=f"(?s){WEIGHTS_FILE} does not fit backbone resnet"):
        load_checkpoint(folder)


def test_a_model_of_ones_own_comes_back_by_its_factory(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 24))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = import_model("own_net:make", image_size=8)
    card = replace(CARD, backbone="own_net:make", code_length=24, image_size=8)
    save_checkpoint(tmp_path / "saved", model, card)
    with pytest.raises(CheckpointError, match="give --model own_net:make again"):
        load_checkpoint(tmp_path / "saved")
    loaded, _ = load_checkpoint(tmp_path / "saved", model_factory="own_net:make")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(images), model(images))


def test_a_factory_may_return_one_module_each_time(tmp_path, monkeypatch):
    (tmp_path / "one_net.py").write_text(
        "from torch import nn\n\nONE = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))\n\ndef make():\n    return ONE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    query, database = (import_model("one_net:make", image_size=2) for _ in range(2))
    torch.nn.init.zeros_(query.backbone[1].weight)
    card = replace(CARD, backbone="one_net:make", code_length=8, image_size=2)
    save_checkpoint(tmp_path / "saved" / DATABASE_FOLDER, database, card)
    save_checkpoint(tmp_path / "saved", query, replace(card, database_model=weights_checksum(database)))
    loaded, card = load_checkpoint(tmp_path / "saved", model_factory="one_net:make")
    other = load_database_model(tmp_path / "saved", loaded, card, model_factory="one_net:make")
    assert weights_checksum(loaded) == weights_checksum(query)
    assert weights_checksum(other) == weights_checksum(database)


def test_a_state_that_is_no_tensor_does_not_keep_a_model_from_being_measured(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    counting = nn.Sequential(nn.Flatten(), Counting(192, 8))
    counting[1].weight, counting[1].bias = plain[1].weight, plain[1].bias
    assert weights_checksum(wrap_module(counting, image_size=8)) == weights_checksum(wrap_module(plain, image_size=8))
    with pytest.raises(ArgumentError, match="a state of tensors, as files keep it"):
        save_checkpoint(tmp_path, wrap_module(counting, image_size=8), CARD)
