"""Certificates: bits that no change of an image within a radius flips, and the average precision they leave at least.

J. Cohen, E. Rosenfeld, Z. Kolter, *Certified Adversarial Robustness via Randomized Smoothing*, ICML 2019. Each bit is a
binary classifier; the smoothed bit is the majority of its votes over gaussian noise on the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saat.errors import ArgumentError, check_at_least
from saat.evaluation.deployment import Deployment
from saat.evaluation.ranking import RankingCounts, average_precision

ENUMERATED_BITS = 12  # 4096 codes a query; each bit more doubles the time
_HALVINGS = 60  # of [0, 1]: below the resolution of float64
_BLOCK_TERMS = 1 << 16  # of binomial tails that are summed at once: what a cache holds


def share_lower_bound(successes: Tensor, *, samples: int, alpha: float) -> Tensor:
    """Return the one-sided Clopper-Pearson bound: the true share is above it with confidence 1 - alpha.

    C. Clopper and E. Pearson, *The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial*,
    Biometrika 1934. The p at which k or more successes in n samples have probability alpha; 0 for k = 0. The tail is
    summed in float64, what is left out of it counted too high, and p is halved in on from below, so that nothing but
    the rounding of float64 is on the other side.

    Args:
        successes: int64 of any shape, k in 0..n.
        samples: n, at least 1.
        alpha: the chance of a bound that is too high, in (0, 1).

    Returns:
        float64 in [0, 1), shaped as `successes`.

    Raises:
        ArgumentError: an argument is out of range.

    All of n: p^n = alpha. One of two: 1 - (1 - p)^2 = alpha.

    >>> share_lower_bound(torch.tensor([0, 1, 2]), samples=2, alpha=0.36)
    tensor([0.0000, 0.2000, 0.6000], dtype=torch.float64)
    """
    check_at_least("samples", samples, 1)
    if not 0.0 < alpha < 1.0:
        raise ArgumentError(f"`alpha` is a probability above 0 and below 1; got {alpha}")
    values, place = torch.unique(successes, return_inverse=True)
    if len(values) and not 0 <= int(values[0]) <= int(values[-1]) <= samples:
        raise ArgumentError(f"`successes` are at least 0 and at most {samples}; got {values[0]} to {values[-1]}")
    counts = torch.arange(samples + 1, dtype=torch.float64)
    ways = math.lgamma(samples + 1) - torch.lgamma(counts + 1) - torch.lgamma(samples - counts + 1)
    reach = 6 * (math.isqrt(samples) + 1)
    parts = torch.split(values, max(1, _BLOCK_TERMS // (2 * reach + 1)))
    bounds = [torch.empty(0, dtype=torch.float64)] + [_halved(part, ways, reach, math.log(alpha)) for part in parts]
    return torch.cat(bounds)[place]


def _halved(successes: Tensor, ways: Tensor, reach: int, log_alpha: float) -> Tensor:
    """Return the bounds of counts (V,), all halved in on at once."""
    low, high = torch.zeros(len(successes), dtype=torch.float64), torch.ones(len(successes), dtype=torch.float64)
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        safe = _log_tail(successes, share, ways, reach) <= log_alpha
        low, high = torch.where(safe, share, low), torch.where(safe, high, share)
    return torch.where(successes > 0, low, 0.0)


def _log_tail(successes: Tensor, share: Tensor, ways: Tensor, reach: int) -> Tensor:
    """Return the logarithm of the probability of so many successes or more, at shares (V,) in (0, 1).

    Terms within `reach` of the largest are summed. They fall by exp(-2 d^2 / n) and more at a distance d from it, so
    that all others are below a rounding error; those on either side count as the outermost that is summed, no less.
    """
    samples = len(ways) - 1
    first = torch.maximum(successes, (share * (samples + 1)).long() - reach)
    hits = first[:, None] + torch.arange(2 * reach + 1)
    terms = ways[hits.clamp(max=samples)] + hits * share.log()[:, None] + (samples - hits) * (-share).log1p()[:, None]
    terms = terms.masked_fill(hits > samples, -math.inf)
    before, after = first - successes, (samples - hits[:, -1]).clamp(min=0)
    rest = terms[:, [0, -1]] + torch.stack([before, after], dim=1).double().log()
    return torch.cat([terms, rest], dim=1).logsumexp(1)


def certified_radii(
    selection_votes: Tensor, votes: Tensor, *, selection_samples: int, samples: int, sigma: float, alpha: float
) -> Tensor:
    """Return the l2 radius within which each smoothed bit surely keeps its value; 0 where nothing is sure.

    The first votes choose the value of a bit, independent ones bound its share p from below, and its radius is
    sigma * Phi^-1(p) if p > 1/2. Each of the K bits has confidence 1 - alpha / K, so all radii of an image hold
    together with confidence 1 - alpha, whatever the bits have to do with each other. Where the radius is above 0, both
    votes have the same majority, so that of all votes together is the certified value.

    Args:
        selection_votes: int64 (B, K), how many of the first samples have the bit at +1.
        votes: int64 (B, K), how many of the others.
        selection_samples: noisy copies behind the first, at least 1.
        samples: noisy copies behind the others, at least 1.
        sigma: standard deviation of the noise, in units of the pixel range [0, 1].
        alpha: the chance that a radius of an image is too large, in (0, 1).

    Returns:
        float64 (B, K), in units of the pixel range, of the flattened image.

    Raises:
        ArgumentError: an argument is out of range.

    Both of two copies agree on the one bit: p^2 = 0.36, and Phi^-1(0.6) = 0.2533.

    >>> votes = torch.tensor([[2]])
    >>> certified_radii(votes, votes, selection_samples=2, samples=2, sigma=1.0, alpha=0.36)
    tensor([[0.2533]], dtype=torch.float64)
    """
    positive = 2 * selection_votes >= selection_samples
    agreeing = torch.where(positive, votes, samples - votes)
    share = share_lower_bound(agreeing, samples=samples, alpha=alpha / votes.shape[1])
    radii: Tensor = sigma * torch.special.ndtri(share)
    return radii.clamp(min=0.0)


def largest_radius(*, code_length: int, samples: int, sigma: float, alpha: float) -> float:
    """Return the radius of a bit on which all samples agree: no more can be certified, whatever the model."""
    share = share_lower_bound(torch.tensor(samples), samples=samples, alpha=alpha / code_length)
    return max(0.0, sigma * float(torch.special.ndtri(share)))


def certified_average_precision(
    deployment: Deployment, codes: Tensor, certified: Tensor, labels: Tensor, *, enumerated: int = ENUMERATED_BITS
) -> Tensor:
    """Return a lower bound on each query's tie-aware average precision, whatever values its other bits take.

    Up to `enumerated` of the F bits that are not certified take all their values in turn. If there are no more of
    them, the lowest average precision is the exact minimum over all 2^F codes. The R bits that remain add 0 to R to
    each distance: every relevant item is put at its upper end, every irrelevant one at its lower end, and ties count
    against the query (`pessimistic_average_precision`).

    That this is a lower bound: for a relevant item i let w_i be the number of irrelevant items that stand before it.
    In ascending order, the j-th of these numbers belongs to the j-th relevant item of the ranking, whose precision is
    j / (j + w_(j)), so AP is the mean of these: it does not depend on the order of relevant items among themselves,
    and it falls or stays when any w_i grows, since then no w_(j) gets smaller. Whatever the R bits are and however
    ties fall, an irrelevant item before i has a true distance of at most that of i, hence a lower end of at most i's
    upper end: it is counted before i here too. So every w_i is at its largest, for every order of the ties, and
    therefore also for their mean.

    Codes of one pattern in the enumerated bits are counted together; each enumerated bit then splits the counts in
    one pass, so that all values cost F 2^F K steps a query, however large the database is.

    Args:
        deployment: the database, on the CPU, with the codes it is deployed with.
        codes: int8 (B, K) in {-1, +1}, of the queries.
        certified: bool (B, K), the bits that keep their value.
        labels: (B, C), of the queries.
        enumerated: how many bits at most take all their values.

    Returns:
        float64 (B,) in [0, 1].

    Two codes, ++ relevant and -- not. With both bits sure, the relevant one is first. With one, both may be level.

    >>> from saat.codes.bank import CodeBank
    >>> deployment = Deployment(CodeBank(torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8), torch.eye(2)))
    >>> codes, certified = torch.ones(2, 2, dtype=torch.int8), torch.tensor([[True, True], [True, False]])
    >>> certified_average_precision(deployment, codes, certified, torch.eye(2)[[0, 0]])
    tensor([1.0000, 0.7500], dtype=torch.float64)
    """
    bounds = [
        _lowest(deployment, code, sure, row.unsqueeze(0), enumerated)
        for code, sure, row in zip(codes, certified, labels, strict=True)
    ]
    return torch.stack(bounds) if bounds else torch.empty(0, dtype=torch.float64)


def _lowest(deployment: Deployment, code: Tensor, sure: Tensor, labels: Tensor, enumerated: int) -> Tensor:
    """Return the bound of one query with code (K,), certified bits (K,) and labels (1, C)."""
    unsure = torch.nonzero(~sure).flatten()
    tried, rest = unsure[:enumerated], len(unsure[enumerated:])
    bins = deployment.code_length + 1
    distances = (int(sure.sum()) - deployment.codes[:, sure] @ code[sure].float()).long() // 2
    patterns = (deployment.codes[:, tried] > 0).long() @ 2 ** torch.arange(len(tried))
    place = patterns * bins + distances
    weights = torch.stack([deployment.relevant(labels)[0], deployment.items]).long()
    counts = torch.zeros(2, 2 ** len(tried) * bins, dtype=torch.int64).index_add_(1, place, weights)
    relevant, items = _counts_of_all_values(counts.view(2, -1, bins), len(tried))
    if rest:
        return pessimistic_average_precision(relevant.roll(rest, 1), items - relevant).min()
    return average_precision(RankingCounts(relevant=relevant, items=items)).min()


def _counts_of_all_values(counts: Tensor, bits: int) -> Tensor:
    """Turn counts by the items' pattern into counts for each pattern of the query, int64 (2, 2^bits, K + 1).

    Bit by bit: items with the query's value stay where they are, the others move one distance on. The last place is
    empty before, since no distance over fewer bits is K.
    """
    for bit in range(bits):
        split = counts.reshape(2, -1, 2, 2**bit, counts.shape[-1])
        counts = (split + split.flip(2).roll(1, -1)).flatten(1, 3)
    return counts


def pessimistic_average_precision(relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """Return average precision when irrelevant items come first among items at equal distance.

    With m relevant items at a distance, r relevant ones before it and w irrelevant ones up to it, the distance adds
    sum_{i=1..m} (r + i) / (r + i + w) = m - w (H(r + m + w) - H(r + w)), with the harmonic numbers H.

    Args:
        relevant: int64 (B, K + 1), relevant items at each distance.
        irrelevant: int64 (B, K + 1), the others.

    Returns:
        float64 (B,) in [0, 1]; 0 for a query without a relevant item.

    Two relevant items after one irrelevant item: (1/2 + 2/3) / 2 = 7/12.

    >>> round(pessimistic_average_precision(torch.tensor([[2, 0]]), torch.tensor([[1, 5]])).item() * 12, 6)
    7.0
    """
    size = int((relevant + irrelevant).sum(1).max()) if len(relevant) else 0
    ranks = torch.arange(1, size + 1, dtype=torch.float64)
    harmonic = torch.cat([ranks.new_zeros(1), ranks.reciprocal().cumsum(0)])
    ahead = irrelevant.cumsum(1)
    last = relevant.cumsum(1) + ahead
    gains = relevant - ahead * (harmonic[last] - harmonic[last - relevant])
    return gains.sum(1) / relevant.sum(1).clamp(min=1)
