"""Crop and flip as a value: what a square shows of its stored image, and the way back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saat.types import Batch, CropFlip

SIZE = 4


def place(drawn: CropFlip, image: int, row: int, column: int) -> tuple[int, int]:
    """Return where in its stored image a pixel of a square lies, one pixel at a time."""
    if bool(drawn.flipped[image]):
        column = SIZE - 1 - column
    top, left = drawn.offsets[image].tolist()
    return top + row, left + column


def everywhere(drawn: CropFlip) -> list[tuple[int, int, int]]:
    return [
        (image, row, column) for image in range(len(drawn.offsets)) for row in range(SIZE) for column in range(SIZE)
    ]


def stored(images: int) -> Tensor:
    """Return pixels that are all different, from 1."""
    return torch.arange(1, 1 + images * 3 * SIZE * SIZE).view(images, 3, SIZE, SIZE)


@st.composite
def draws(draw: st.DrawFn) -> CropFlip:
    moves = st.integers(-SIZE, SIZE)
    drawn = draw(st.lists(st.tuples(moves, moves, st.booleans()), min_size=1, max_size=4))
    return CropFlip(torch.tensor([each[:2] for each in drawn]), torch.tensor([each[2] for each in drawn]))


def test_a_square_by_hand():
    drawn = CropFlip(torch.tensor([[1, -2]]), torch.tensor([True]))
    image = torch.arange(16).view(1, 1, 4, 4)
    # Rows 1, 2, 3 and one below the image; columns -2, -1, 0, 1 from the right to the left.
    wanted = [[5, 4, 4, 4], [9, 8, 8, 8], [13, 12, 12, 12], [13, 12, 12, 12]]
    assert drawn.apply(image)[0, 0].tolist() == wanted
    assert drawn.follow(image)[0, 0].tolist() == [[5, 4, 0, 0], [9, 8, 0, 0], [13, 12, 0, 0], [0, 0, 0, 0]]
    found = torch.arange(100, 116).view(1, 1, 4, 4)
    back = drawn.undo(found, image)[0, 0].tolist()
    assert back == [[0, 1, 2, 3], [101, 100, 6, 7], [105, 104, 10, 11], [109, 108, 14, 15]]


@given(drawn=draws())
@settings(max_examples=50)
def test_every_pixel_is_where_the_draw_says(drawn: CropFlip):
    images = stored(len(drawn.offsets))
    shown, followed, kept = drawn.apply(images), drawn.follow(images), -images
    wanted = kept.clone()
    for image, row, column in everywhere(drawn):
        top, left = place(drawn, image, row, column)
        nearest = images[image, :, min(max(top, 0), SIZE - 1), min(max(left, 0), SIZE - 1)]
        inside = 0 <= top < SIZE and 0 <= left < SIZE
        assert torch.equal(shown[image, :, row, column], nearest)
        assert torch.equal(followed[image, :, row, column], nearest if inside else torch.zeros_like(nearest))
        if inside:
            wanted[image, :, top, left] = 1000 + images[image, :, row, column]
    assert torch.equal(drawn.undo(1000 + images, kept), wanted)


@given(drawn=draws())
@settings(max_examples=50)
def test_there_and_back_changes_nothing(drawn: CropFlip):
    changes = stored(len(drawn.offsets)).to(torch.int8)
    assert torch.equal(drawn.undo(drawn.follow(changes), changes), changes)
    assert drawn.follow(changes).dtype == torch.int8


def test_a_part_of_a_batch_keeps_its_draws():
    images = stored(3).float()
    drawn = CropFlip(torch.tensor([[0, 1], [1, 0], [-1, 2]]), torch.tensor([True, False, True]))
    batch = Batch(drawn.apply(images), torch.eye(3), torch.tensor([5, 6, 7]), drawn)
    chosen = batch.select(torch.tensor([True, False, True]))
    assert chosen.indices.tolist() == [5, 7]
    assert torch.equal(chosen.labels, torch.eye(3)[[0, 2]])
    assert chosen.augmentation is not None
    assert torch.equal(chosen.augmentation.apply(images[[0, 2]]), chosen.images)


@pytest.mark.parametrize("chosen", [[True, False], [False, False]])
def test_a_part_of_a_batch_without_augmentation_has_none(chosen: list[bool]):
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.eye(2), torch.arange(2)).select(torch.tensor(chosen))
    assert batch.augmentation is None
    assert len(batch.images) == sum(chosen)
