from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saat.data.loading import batches, count_batches, draw_crop_flip
from saat.data.splits import ImageSplit
from saat.errors import ArgumentError
from saat.runtime import make_generator


@pytest.fixture
def split() -> ImageSplit:
    images = torch.randint(0, 256, (10, 3, 16, 16), generator=make_generator(0), dtype=torch.uint8)
    labels = torch.eye(10, dtype=torch.uint8)
    return ImageSplit("train", images, labels, tuple(map(str, range(10))), tuple(map(str, range(10))))


def images_of(split: ImageSplit, **options: object) -> Tensor:
    return torch.cat([batch.images for batch in batches(split, 4, **options)])


def test_in_order_by_default(split):
    found = list(batches(split, 4))
    assert [len(batch.images) for batch in found] == [4, 4, 2]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(10))
    first = found[0]
    assert (first.images.dtype, first.labels.dtype, first.indices.dtype) == (torch.float32, torch.float32, torch.int64)
    assert torch.equal(torch.cat([batch.images for batch in found]), split.images.float() / 255)
    assert torch.equal(torch.cat([batch.labels for batch in found]), split.labels.float())


def test_a_last_batch_of_one_joins_the_one_before(split):
    for size, counts in ((3, [3, 3, 4]), (9, [10]), (10, [10]), (11, [10]), (1, [1] * 9 + [1])):
        found = list(batches(split, size))
        if size > 1:
            assert [len(batch.images) for batch in found] == counts
        assert len(found) == count_batches(len(split), size)
        assert torch.cat([batch.indices for batch in found]).tolist() == list(range(10))


def test_a_generator_shuffles_and_its_state_says_how(split):
    shuffled = list(batches(split, 4, generator=make_generator(1)))
    indices = torch.cat([batch.indices for batch in shuffled])
    assert indices.tolist() != list(range(10))
    assert sorted(indices.tolist()) == list(range(10))
    for batch in shuffled:
        assert torch.equal(batch.images, split.images[batch.indices].float() / 255)
        assert torch.equal(batch.labels.argmax(1), batch.indices)
    generator = make_generator(1)
    first, second, again = (
        images_of(split, generator=generator),
        images_of(split, generator=generator),
        images_of(split, generator=make_generator(1)),
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_augmentation_is_by_the_generator_and_in_range(split):
    once, again = (images_of(split, generator=make_generator(2), augment=True) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == (10, 3, 16, 16)
    assert 0 <= once.min() <= once.max() <= 1
    assert not torch.equal(once, images_of(split, generator=make_generator(2)))


def test_each_image_moves_and_flips_alone():
    ramp = torch.arange(16.0).repeat(16, 1)
    place = torch.stack([ramp, ramp.T, torch.zeros(16, 16)])  # the first channel holds columns, the second rows
    moved = draw_crop_flip(64, 16, generator=make_generator(3)).apply(place.expand(64, 3, 16, 16))
    columns, rows = moved[:, 0, 8], moved[:, 1, :, 8]
    assert len(torch.unique(columns, dim=0)) > 5
    flipped = columns[:, 0] > columns[:, -1]
    assert 16 < flipped.sum() < 48
    for column, row, mirror in zip(columns, rows, flipped, strict=True):
        expected = [(torch.arange(16.0) + shift).clamp(0, 15) for shift in (-2, -1, 0, 1, 2)]
        assert any(torch.equal(column.flip(0) if mirror else column, one) for one in expected)
        assert any(torch.equal(row, one) for one in expected)


def test_the_draws_are_offsets_into_a_padded_image_then_flips(split):
    """The order in which the generator is asked fixes the bits of every training."""
    generator = make_generator(4)
    moved = draw_crop_flip(10, 16, generator=make_generator(4)).apply(split.images)
    top, left = torch.randint(0, 5, (2, 10), generator=generator)
    flipped = torch.rand(10, generator=generator) < 0.5
    padded = F.pad(split.images.float(), (2,) * 4, mode="replicate").to(torch.uint8)
    for row in range(10):
        square = padded[row, :, top[row] : top[row] + 16, left[row] : left[row] + 16]
        assert torch.equal(moved[row], square.flip(2) if flipped[row] else square)


def test_a_batch_says_what_was_drawn_for_it(split):
    for batch in batches(split, 4, generator=make_generator(5), augment=True):
        assert batch.augmentation is not None
        assert torch.equal(batch.augmentation.apply(split.images[batch.indices]).float() / 255, batch.images)
    assert all(batch.augmentation is None for batch in batches(split, 4, generator=make_generator(5)))


def test_wrong_arguments(split):
    with pytest.raises(ArgumentError, match="`batch_size` is at least 1; got 0"):
        next(batches(split, 0))
    with pytest.raises(ArgumentError, match="`augment` needs a generator"):
        next(batches(split, 4, augment=True))
