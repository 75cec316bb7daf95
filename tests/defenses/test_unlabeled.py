import pytest
import torch

from saat.codes.bank import CodeBank
from saat.data.splits import ImageSplit
from saat.defenses.unlabeled import join_splits, pseudo_labels, unlabeled_images
from saat.errors import ArgumentError


def split(name: str, digests: str, labels: list[list[int]]) -> ImageSplit:
    images = torch.tensor([ord(letter) for letter in digests], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    names = tuple(f"{name} {digest}" for digest in digests)
    return ImageSplit(name, images, torch.tensor(labels, dtype=torch.uint8), names, tuple(digests))


def test_the_label_set_of_the_nearest_mainstay_code_by_inner_product():
    codes = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]], dtype=torch.int8)
    bank = CodeBank(codes, torch.tensor([[1, 0], [1, 1], [0, 0]]))
    # Sets: {0} and {0, 1}; the third has none. Mainstay codes less the unlabeled code (-1, -1, -1, -1): of {0},
    # weights 1 and 1/sqrt(2): (1, 1, +, +) + 1 -> all +1. Of {0, 1}, 1/sqrt(2) and 1, shares .414 and .586:
    # (1, 1, -.17, -.17) + 1 -> all +1 too: the tie goes to the first set, {0}.
    assert pseudo_labels(bank, torch.tensor([[1.0, 1.0, 1.0, 1.0]])).tolist() == [[1, 0]]
    bank = CodeBank(codes, torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]]))
    # Of {0}: (1,1,1,1) - ((1,1,-1,-1) + (-1,-1,-1,-1)) / 2 -> (+,+,+,+); of {1,2}: (1,1,-1,-1) - (0,0,0,0).
    logits = torch.tensor([[1.0, 1.0, -0.5, 1.0], [5.0, 1.0, 1.0, -1.5], [-9.0, -9.0, 0.1, 0.0]])
    # Products with (+,+,+,+) and (+,+,-,-): 2.5 and 1.5; 5.5 and 6.5; -17.9 and -18.1. In the second image the last two
    # bits disagree, and the surer one decides; in the third, far from both codes, those two bits decide as well.
    found = pseudo_labels(bank, logits)
    assert found.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert found.dtype == torch.uint8


def test_a_bank_without_a_label_gives_none():
    bank = CodeBank(torch.ones(3, 8, dtype=torch.int8), torch.zeros(3, 4))
    assert pseudo_labels(bank, torch.ones(2, 8)).tolist() == [[0] * 4] * 2


def test_the_labels_of_the_database_stay_behind_and_so_does_what_is_in_train():
    train = split("train", "ab", [[1, 0], [0, 1]])
    database = split("database", "bcad", [[1, 1]] * 4)
    others = unlabeled_images(database, train)
    assert others.digests == ("c", "d")
    assert others.item_names == ("database c", "database d")
    assert others.images[:, 0, 0, 0].tolist() == [ord("c"), ord("d")]
    assert others.labels.tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ArgumentError, match="`unlabeled` needs database images that are not in the train split"):
        unlabeled_images(train, database)


def test_joined_splits_keep_their_order():
    joined = join_splits(split("train", "ab", [[1, 0], [0, 1]]), split("database", "c", [[1, 1]]))
    assert (joined.name, joined.digests, len(joined)) == ("train", ("a", "b", "c"), 3)
    assert joined.item_names == ("train a", "train b", "database c")
    assert joined.labels.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert joined.images[:, 0, 0, 0].tolist() == [97, 98, 99]
