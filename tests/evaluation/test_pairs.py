import numpy as np
import pytest
import torch

from saat.errors import ArgumentError
from saat.evaluation.pairs import Pairs
from saat.hamming import hamming_distances, sign_codes


@pytest.mark.parametrize("code_length", [1, 8, 11, 16, 31, 32, 48, 64, 65, 128, 200, 255, 256, 300])
@pytest.mark.parametrize("classes", [1, 9, 21, 33, 80])
def test_words_of_any_width_give_every_distance_and_relevance(code_length, classes):
    generator = torch.Generator().manual_seed(0)
    codes = sign_codes(torch.randn(44, code_length, generator=generator))
    codes[40], codes[3] = 1, -1  # the largest distance
    labels = torch.rand(44, classes, generator=generator) < 1.5 / classes
    pairs = Pairs(codes[40:], labels[40:], codes[:40], labels[:40])
    distances = hamming_distances(codes[40:], codes[:40])
    relevant = (labels[40:].float() @ labels[:40].float().T) > 0
    some = np.array([5, 0, 39])
    for query in range(4):
        assert pairs.distances(query).tolist() == distances[query].tolist()
        assert pairs.relevant(query).tolist() == relevant[query].tolist()
        assert pairs.relevant_among(query, some).tolist() == relevant[query][some].tolist()


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
