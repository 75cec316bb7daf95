import numpy as np
import pytest
import torch

from saat.errors import ArgumentError
from saat.evaluation.loops import average_precisions, count_pairs
from saat.evaluation.pairs import Pairs
from saat.hamming import hamming_distances, sign_codes

ITEMS = 140  # two words of 64 and a part of one


def case_of(code_length, classes):
    generator = torch.Generator().manual_seed(0)
    codes = sign_codes(torch.randn(ITEMS + 4, code_length, generator=generator))
    codes[ITEMS], codes[3] = 1, -1  # the largest distance
    labels = torch.rand(ITEMS + 4, classes, generator=generator) < 1.5 / classes
    return codes[ITEMS:], labels[ITEMS:], codes[:ITEMS], labels[:ITEMS]


def oracle(case):
    query_codes, query_labels, database_codes, database_labels = case
    relevant = (query_labels.float() @ database_labels.float().T) > 0
    return hamming_distances(query_codes, database_codes).numpy(), relevant.numpy()


@pytest.mark.parametrize("code_length", [1, 3, 7, 8, 11, 31, 32, 48, 64, 65, 127, 128, 200, 255, 256, 300])
@pytest.mark.parametrize("classes", [1, 9, 80])
def test_codes_of_any_length_are_counted_as_their_distances_are(code_length, classes):
    case = case_of(code_length, classes)
    counts = np.empty((4, 2, code_length + 1), np.int64)
    Pairs(*case).run(count_pairs, counts)
    for query, (distances, relevant) in enumerate(zip(*oracle(case), strict=True)):
        for kind, some in enumerate((distances[~relevant], distances[relevant])):
            assert counts[query, kind].tolist() == np.bincount(some, minlength=code_length + 1).tolist()


@pytest.mark.parametrize("k", [1, 63, 64, 65, ITEMS])
@pytest.mark.parametrize("code_length", [3, 32, 200])
def test_precisions_are_those_of_a_stable_sort(k, code_length):
    case = case_of(code_length, 9)
    scores = np.empty(4)
    Pairs(*case).run(average_precisions, scores, k)
    for query, (distances, relevant) in enumerate(zip(*oracle(case), strict=True)):
        ranks = np.flatnonzero(relevant[np.argsort(distances, kind="stable")[:k]]) + 1
        expected = np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0
        assert scores[query] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_threads_share_the_queries_and_change_nothing(threads):
    pairs, before = Pairs(*case_of(32, 9)), torch.get_num_threads()
    alone, shared = np.empty((4, 2, 33), np.int64), np.empty((4, 2, 33), np.int64)
    try:
        torch.set_num_threads(1)
        pairs.run(count_pairs, alone)
        torch.set_num_threads(threads)
        pairs.run(count_pairs, shared)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(alone, shared)


def test_pairs_that_do_not_fit_are_named():
    codes, labels = torch.ones(4, 8, dtype=torch.int8), torch.ones(4, 3)
    with pytest.raises(TypeError, match=r"`query_codes` is int8.*got torch\.float32"):
        Pairs(codes.float(), labels, codes, labels)
    with pytest.raises(ArgumentError, match=r"`database_labels` has shape \(4, C\), a row a code; got \(3, 3\)"):
        Pairs(codes, labels, codes, labels[:3])
    with pytest.raises(ArgumentError, match="the same classes; got 2 and 3"):
        Pairs(codes, labels[:, :2], codes, labels)
    with pytest.raises(ArgumentError, match="the same code length; got 8 and 7"):
        Pairs(codes, labels, codes[:, :7], labels)
