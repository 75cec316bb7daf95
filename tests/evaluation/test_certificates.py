"""Certificates: bounds that hold, against hand-worked values, brute force and a model whose true radii are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from saat.codes.bank import CodeBank
from saat.errors import ArgumentError
from saat.evaluation.certificates import (
    _log_tail,
    certified_average_precision,
    certified_radii,
    largest_radius,
    pessimistic_average_precision,
    share_lower_bound,
)
from saat.evaluation.deployment import Deployment
from saat.hamming import sign_codes
from saat.models.smoothing import add_noise, count_votes, majority_codes
from saat.runtime import make_generator

CODE_LENGTH = 8


def random_case(seed: int, queries: int = 6, items: int = 60) -> tuple[Deployment, torch.Tensor, ...]:
    """A database in which labels say something of codes, and queries with as many sure bits as it falls out."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.eye(3)[torch.randint(0, 3, (queries + items,), generator=generator)]
    centers = torch.randn(3, CODE_LENGTH, generator=generator)
    logits = labels @ centers + 0.7 * torch.randn(queries + items, CODE_LENGTH, generator=generator)
    codes = sign_codes(logits)
    certified = torch.rand(queries, CODE_LENGTH, generator=generator) < torch.rand(queries, 1, generator=generator)
    return Deployment(CodeBank(codes[queries:], labels[queries:])), codes[:queries], certified, labels[:queries]


def true_minimum(deployment: Deployment, code: torch.Tensor, certified: torch.Tensor, labels: torch.Tensor) -> float:
    """The lowest average precision over every value of the other bits, one after the other."""
    unsure = torch.nonzero(~certified).flatten()
    lowest = 1.0
    for values in itertools.product((-1, 1), repeat=len(unsure)):
        changed = code.clone()
        changed[unsure] = torch.tensor(values, dtype=torch.int8)
        lowest = min(lowest, deployment.average_precision(changed[None], labels[None]).item())
    return lowest


@pytest.mark.parametrize(
    ("successes", "samples", "alpha", "bound"),
    [
        # The lower ends of 95 % intervals as published in tables of binomial confidence limits.
        (5, 10, 0.025, 0.18709),
        (8, 10, 0.025, 0.44390),
        (9, 10, 0.025, 0.55498),
        (10, 10, 0.025, 0.69150),
        (3, 3, 0.001, 0.1),  # p^3 = 0.001
        (2, 3, 0.5, 0.5),  # 3 p^2 - 2 p^3 = 0.5
        (1, 4, 1 - 0.9**4, 0.1),  # 1 - (1 - p)^4
        (0, 4, 0.3, 0.0),
        (100_000, 100_000, 0.001, 0.999931),  # exp(ln(0.001) / 100000), of the paper's 100,000 samples
    ],
)
def test_share_lower_bound_by_hand(successes: int, samples: int, alpha: float, bound: float) -> None:
    found = share_lower_bound(torch.tensor([[successes]]), samples=samples, alpha=alpha)
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(bound, abs=1e-5)


def test_the_share_bound_is_wrong_as_often_as_alpha_says() -> None:
    # P(bound > p) summed exactly over all outcomes of 12 samples: at most alpha, and not idly far below for all p.
    bounds = share_lower_bound(torch.arange(13), samples=12, alpha=0.1)
    assert bool((bounds.diff() > 0).all())
    wrong = []
    for share in torch.linspace(0.02, 0.98, 97, dtype=torch.float64):
        outcomes = torch.distributions.Binomial(12, share).log_prob(torch.arange(13.0)).exp()
        wrong.append(float(outcomes[bounds > share].sum()))
    assert max(wrong) <= 0.1
    assert max(wrong) > 0.09


def test_a_tail_is_that_of_all_terms_though_few_are_summed() -> None:
    samples, reach = 4000, 6 * 64
    counts = torch.arange(samples + 1, dtype=torch.float64)
    ways = math.lgamma(samples + 1) - torch.lgamma(counts + 1) - torch.lgamma(samples - counts + 1)
    for successes in (1, 40, 2000, 3990, 4000):
        shares = torch.tensor([1e-9, 0.01, 0.3, 0.49, 0.5, 0.51, 0.97, 0.999, 1 - 1e-9], dtype=torch.float64)
        terms = ways + counts * shares.log()[:, None] + (samples - counts) * (-shares).log1p()[:, None]
        whole = terms[:, successes:].logsumexp(1)
        found = _log_tail(torch.full((len(shares),), successes), shares, ways, reach)
        assert torch.allclose(found, whole, rtol=1e-12, atol=1e-10)
    nearly = _log_tail(torch.tensor([2000]), torch.tensor([0.5], dtype=torch.float64), ways, 20)
    assert nearly > terms_of_half(ways)  # what a short reach leaves out counts too high


def terms_of_half(ways: torch.Tensor) -> torch.Tensor:
    """The logarithm of the probability of at least half of all samples, each with the share 1/2."""
    return ways[len(ways) // 2 :].logsumexp(0) + (len(ways) - 1) * math.log(0.5)


@pytest.mark.parametrize(
    ("successes", "samples", "alpha", "word"),
    [(0, 0, 0.1, "samples"), (1, 2, 0.0, "alpha"), (1, 2, 1.0, "alpha"), (3, 2, 0.1, "successes")],
)
def test_the_share_bound_refuses_nonsense(successes: int, samples: int, alpha: float, word: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{word}`"):
        share_lower_bound(torch.tensor([successes]), samples=samples, alpha=alpha)


def test_radii_by_hand() -> None:
    # Four bits share alpha 0.04: 0.01 each. All of 10: p = 0.01^0.1 = 0.630957, Phi^-1(p) = 0.33439.
    selection, votes = torch.tensor([[5, 0, 5, 3]]), torch.tensor([[10, 0, 0, 6]])
    radii = certified_radii(selection, votes, selection_samples=5, samples=10, sigma=2.0, alpha=0.04)
    assert radii[0, 0].item() == pytest.approx(2 * 0.33439, abs=1e-4)
    assert radii[0, 1] == radii[0, 0]  # a bit that is surely -1
    assert radii[0, 2] == 0.0  # the two votes contradict each other
    assert radii[0, 3] == 0.0  # too even to be sure of
    assert largest_radius(code_length=4, samples=10, sigma=2.0, alpha=0.04) == radii[0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_the_enumeration_is_the_true_minimum_and_no_bound_is_above_it(seed: int) -> None:
    deployment, codes, certified, labels = random_case(seed)
    truth = torch.tensor([true_minimum(deployment, *row) for row in zip(codes, certified, labels, strict=True)])
    exact = certified_average_precision(deployment, codes, certified, labels)
    assert torch.allclose(exact, truth.double(), atol=1e-7)
    looser = exact
    for enumerated in range(CODE_LENGTH - 1, -1, -1):  # each bit less to try can only loosen the bound
        bound = certified_average_precision(deployment, codes, certified, labels, enumerated=enumerated)
        assert bool((bound <= looser + 1e-12).all())
        looser = bound
    assert bool((looser > 0).all())
    assert bool((looser < exact - 1e-3).any())


def test_with_all_bits_sure_the_bound_is_average_precision_itself() -> None:
    deployment, codes, certified, labels = random_case(1)
    bound = certified_average_precision(deployment, codes, torch.ones_like(certified), labels)
    assert torch.allclose(bound, deployment.average_precision(codes, labels), atol=1e-12)
    none = torch.zeros_like(labels)
    assert not bool(certified_average_precision(deployment, codes, certified, none).any())  # nothing to find
    assert certified_average_precision(deployment, codes[:0], certified[:0], labels[:0]).shape == (0,)


def test_pessimistic_average_precision_against_a_list() -> None:
    generator = torch.Generator().manual_seed(0)
    relevant, irrelevant = torch.randint(0, 4, (2, 20, 5), generator=generator)
    relevant[0] = 0
    for row, found in enumerate(pessimistic_average_precision(relevant, irrelevant).tolist()):
        ranking = [
            hit
            for hits, misses in zip(relevant[row].tolist(), irrelevant[row].tolist(), strict=True)
            for hit in [False] * misses + [True] * hits
        ]
        precisions = [sum(ranking[: place + 1]) / (place + 1) for place, hit in enumerate(ranking) if hit]
        assert found == pytest.approx(sum(precisions) / max(1, len(precisions)), abs=1e-12)


class LinearBits(nn.Module):
    """Bits that are linear in the pixels: smoothing moves no boundary, so the true radius is |w x + b| / |w|."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 4 * 4, 16)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.layer.weight.normal_(generator=generator)
            self.layer.bias.normal_(std=2.0, generator=generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(images.flatten(1) - 0.5)
        return logits

    def true_radii(self, images: torch.Tensor) -> torch.Tensor:
        return self(images).abs() / self.layer.weight.norm(dim=1)


def test_the_radii_of_linear_bits_are_below_their_distance_to_the_boundary() -> None:
    model, sigma, samples = LinearBits().requires_grad_(False), 0.5, 2000
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    selection, votes = (
        torch.stack(
            [
                count_votes(
                    model, image, sigma=sigma, samples=count, generator=make_generator(1, row, count), batch_size=300
                )
                for row, image in enumerate(images)
            ]
        )
        for count in (100, samples)
    )
    radii = certified_radii(selection, votes, selection_samples=100, samples=samples, sigma=sigma, alpha=0.001)
    truth = model.true_radii(images)
    assert bool((radii <= truth).all())
    assert float((radii > 0).double().mean()) > 0.8
    middle = (truth > 0.3) & (truth < 0.8)  # where samples are neither too even nor all alike, the bound is near
    assert bool((radii[middle] > 0.6 * truth[middle]).all())
    assert bool(radii.max() <= largest_radius(code_length=16, samples=samples, sigma=sigma, alpha=0.001))
    sure = radii > 0
    assert torch.equal(majority_codes(selection + votes, samples=samples + 100)[sure], sign_codes(model(images))[sure])


def test_votes_follow_the_generator_and_spare_the_model() -> None:
    model = nn.Sequential(nn.Dropout(0.5), LinearBits()).train()
    image = torch.full((3, 4, 4), 0.5)
    first, again, other = (
        count_votes(model, image, sigma=0.3, samples=64, generator=make_generator(seed), batch_size=16)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert model.training
    assert next(model.parameters()).requires_grad
    with pytest.raises(ArgumentError, match="`samples`"):
        count_votes(model, image, sigma=0.3, samples=0, generator=make_generator(0))


def test_noise_has_the_deviation_asked_for() -> None:
    images = torch.full((4, 3, 32, 32), 0.25)
    change = add_noise(images, make_generator(0), sigma=0.5) - images
    assert float(change.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float(change.mean())) < 0.02
