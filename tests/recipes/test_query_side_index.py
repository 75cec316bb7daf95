"""A model for queries only: items are encoded by the model in its folder `database`, queries by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from saat.bits import pack_codes
from saat.cli import main
from saat.data.fashion import read_fashion
from saat.errors import ArgumentError
from saat.index.storage import read_index
from saat.models.checkpoint import load_checkpoint, read_card, save_checkpoint, weights_checksum
from saat.recipes.encoder import load_encoder, load_encoders
from saat.recipes.index import AddConfig, BuildConfig, add, build
from saat.recipes.merge import MergeConfig, merge
from saat.recipes.push import PushConfig, push
from saat.recipes.search import SearchConfig, search
from saat.recipes.serve import ServeConfig, make_service
from saat.serving.query import Query

COUNT = 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of garments; the first half is indexed, of the second some are added or searched with."""
    root = tmp_path_factory.mktemp("garments")
    fashion = read_fashion()
    for row in range(COUNT):
        Image.fromarray(fashion.read(row)).save(root / f"{row:02}.png")
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def hard(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of query-side training, its model for queries then turned to codes of its own."""
    out = tmp_path_factory.mktemp("hard")
    words = ["harden", f"--checkpoint={tiny}", f"--out={out}", "--defense=query-side", "--fit.epochs=1", "--steps=1"]
    assert main([*words, "--quiet=true"]) == 0
    model, card = load_checkpoint(out)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a moment of training changes few bits
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    save_checkpoint(out, model, card)
    return out


@pytest.fixture(scope="module")
def plain_index(tiny: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "index"
    build(BuildConfig(checkpoint=tiny, images=photos[: COUNT // 2], out=out, quiet=True))
    return out


@pytest.fixture
def copied(plain_index: Path, tmp_path: Path) -> Path:
    """A copy of the index that a test may change."""
    return Path(shutil.copytree(plain_index, tmp_path / "copy"))


def codes_of(checkpoint: Path, paths: list[Path]) -> NDArray[np.uint8]:
    """Return the packed codes of images by the model of a checkpoint alone."""
    model, _ = load_checkpoint(checkpoint)
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]).transpose(0, 3, 1, 2)
    return pack_codes(model.encode(torch.from_numpy(pixels).float() / 255).numpy())


def wanted_pairs(code: NDArray[np.uint8], items: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return distance and id of every item, nearest first; the ids are the rows."""
    return sorted((int(np.bitwise_count(item ^ code).sum()), row) for row, item in enumerate(items))


def test_both_encoders_have_the_key_of_the_database(tiny: Path, hard: Path) -> None:
    plain, encoders = load_encoder(tiny, None, device=CPU), load_encoders(hard, None, device=CPU)
    weights = weights_checksum(load_checkpoint(tiny)[0])
    assert encoders.query.key == encoders.items.key == replace(plain.key, checkpoint=str(hard))
    assert plain.key.weights == weights == weights_checksum(encoders.items.model)
    assert weights_checksum(encoders.query.model) == weights_checksum(load_checkpoint(hard)[0]) != weights
    of_plain = load_encoders(tiny, None, device=CPU)
    assert of_plain.query is of_plain.items


def test_items_are_encoded_by_the_model_of_the_database(
    tiny: Path, hard: Path, photos: list[Path], plain_index: Path, tmp_path: Path
) -> None:
    build(BuildConfig(checkpoint=hard, images=photos[: COUNT // 2], out=tmp_path / "index", quiet=True))
    plain, content = read_index(plain_index), read_index(tmp_path / "index")
    assert (content.packed == plain.packed).all()
    assert (content.packed == codes_of(tiny, photos[: COUNT // 2])).all()
    assert (content.packed != codes_of(hard, photos[: COUNT // 2])).any(axis=1).all()
    content.model.check(plain.model)
    assert content.model.checkpoint == str(hard)


@pytest.mark.parametrize("built_with", ["tiny", "hard"])
def test_items_are_added_by_the_one_checkpoint_or_the_other(
    built_with: str, tiny: Path, hard: Path, photos: list[Path], tmp_path: Path
) -> None:
    first, second = (tiny, hard) if built_with == "tiny" else (hard, tiny)
    build(BuildConfig(checkpoint=first, images=photos[:2], out=tmp_path / "index", quiet=True))
    add(AddConfig(index=tmp_path / "index", images=photos[2:5], checkpoint=second, quiet=True))
    add(AddConfig(index=tmp_path / "index", images=photos[5:6], quiet=True))
    content = read_index(tmp_path / "index")
    assert (content.packed == codes_of(tiny, photos[:6])).all()
    assert content.model.checkpoint == str(first)


def test_indexes_by_the_one_checkpoint_and_the_other_are_merged(
    tiny: Path, hard: Path, photos: list[Path], plain_index: Path, tmp_path: Path
) -> None:
    build(BuildConfig(checkpoint=hard, images=photos[COUNT // 2 :], out=tmp_path / "second", quiet=True))
    merge(MergeConfig(parts=[plain_index, tmp_path / "second"], out=tmp_path / "index", quiet=True))
    content = read_index(tmp_path / "index")
    assert (content.packed == codes_of(tiny, photos)).all()
    assert content.model.checkpoint == str(tiny)


def test_queries_are_encoded_by_the_model_of_the_checkpoint(
    tiny: Path, hard: Path, photos: list[Path], plain_index: Path, tmp_path: Path
) -> None:
    items, image = codes_of(tiny, photos[: COUNT // 2]), photos[3]
    of_hard, of_plain = (wanted_pairs(codes_of(path, [image])[0], items) for path in (hard, tiny))
    assert of_hard != of_plain
    build(BuildConfig(checkpoint=hard, images=photos[: COUNT // 2], out=tmp_path / "index", quiet=True))
    for index, checkpoint, wanted in [
        (plain_index, None, of_plain),
        (plain_index, hard, of_hard),
        (tmp_path / "index", None, of_hard),
        (tmp_path / "index", tiny, of_plain),
    ]:
        hits = search(SearchConfig(index=index, image=image, k=20, checkpoint=checkpoint, quiet=True))
        assert [(hit["distance"], hit["id"]) for hit in hits] == wanted


@pytest.mark.servers
def test_an_address_is_searched_by_the_model_of_the_checkpoint(
    tiny: Path, hard: Path, photos: list[Path], plain_index: Path, address: Callable[[str], str]
) -> None:
    place, image = address("postgresql"), photos[3]
    push(PushConfig(index=plain_index, to=place, quiet=True))
    items = codes_of(tiny, photos[: COUNT // 2])
    hits = search(SearchConfig(index=place, image=image, k=20, checkpoint=hard, quiet=True))
    assert [(hit["distance"], hit["id"]) for hit in hits] == wanted_pairs(codes_of(hard, [image])[0], items)


def test_the_model_for_queries_alone_is_refused(hard: Path, photos: list[Path], copied: Path, tmp_path: Path) -> None:
    """Without the word of its card that it is for queries, its codes are those of another model."""
    model, card = load_checkpoint(hard)
    save_checkpoint(tmp_path / "alone", model, replace(card, database_model=None))
    with pytest.raises(ArgumentError, match="an index takes codes of one model"):
        search(SearchConfig(index=copied, image=photos[0], checkpoint=tmp_path / "alone", quiet=True))
    with pytest.raises(ArgumentError, match="an index takes codes of one model"):
        add(AddConfig(index=copied, images=photos[6:], checkpoint=tmp_path / "alone", quiet=True))


def test_a_database_of_another_model_is_refused(
    hard: Path, photos: list[Path], plain_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(hard, tmp_path / "moved"))
    shutil.copy(moved / "model.safetensors", moved / "database" / "model.safetensors")
    words = ["search", f"--index={plain_index}", f"--image={photos[0]}", f"--checkpoint={moved}"]
    assert main(words) == 2
    assert "is of another model than the card" in capsys.readouterr().err
    shutil.rmtree(moved / "database")
    assert main(words) == 2
    assert "found no card.json" in capsys.readouterr().err


def test_items_are_cut_as_the_model_of_the_database_says(
    tiny: Path, hard: Path, photos: list[Path], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(hard, tmp_path / "moved"))
    card = json.loads((moved / "card.json").read_text())
    card["data"]["crop_border"] = 4
    (moved / "card.json").write_text(json.dumps(card))
    assert read_card(moved / "database").data.get("crop_border", 0) == 0
    content, encoders = photos[0].read_bytes(), load_encoders(moved, None, device=CPU)
    assert (encoders.items.encode_content(content) == codes_of(tiny, photos[:1])).all()
    assert (encoders.query.crop_border, encoders.items.crop_border) == (4, 0)


def test_a_service_adds_with_the_one_model_and_searches_with_the_other(
    tiny: Path, hard: Path, photos: list[Path], copied: Path
) -> None:
    service = make_service(ServeConfig(index=copied, checkpoint=hard, lab=True, quiet=True), CPU, writable=True)
    assert service.store is not None
    image = photos[COUNT - 1]
    item, new = service.store.add(image.read_bytes(), label=None)
    assert (item.id, new) == (COUNT // 2, True)
    items = codes_of(tiny, [*photos[: COUNT // 2], image])
    assert (read_index(copied).packed == items).all()
    wanted = wanted_pairs(codes_of(hard, [image])[0], items)
    (hits,) = service.engine.search([Query(service.engine.prepare(image.read_bytes()), 20)])
    assert [(hit.distance, hit.id) for hit in hits] == wanted
    assert service.lab is not None
    report = service.lab.attack(image.read_bytes(), None, epsilon=32 / 255, steps=3, k=20, ended=Event())
    (side,) = report.sides
    assert [(hit.distance, hit.id) for hit in side.before] == wanted
    assert weights_checksum(service.engine.model) == weights_checksum(load_checkpoint(hard)[0])
