"""Guides made from the deployed database itself: codes and objectives that lower a query's average precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.attacks.goals import clean_logits_of
from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.evaluation.deployment import BLOCK_FLOATS, Deployment, soft_average_precision
from saat.hamming import logit_scale, sign_codes
from saat.types import CodeObjective, has_label

SHARPNESS = 2.0  # of relaxed codes that stand in for codes; larger is nearer to these, and flatter
LEAST_GAIN = 1e-6  # of average precision, for a flip to be worth its while


def flip_costs(logits: Tensor) -> Tensor:
    """Return how hard each bit is to flip, (B, K): |logit| over the image's mean, so that 1 is the usual bit."""
    return logits.abs() / logit_scale(logits)


def cheapest_clusters(bank: CodeBank, deployment: Deployment, logits: Tensor, labels: Tensor, *, count: int) -> Tensor:
    """Return the mainstay codes of wrong label sets that take most average precision for what they cost to reach.

    With many label sets the nearest wrong code is next to the query's own, and being there costs the query nothing; so
    what a code takes counts as well as its price.

    Args:
        bank: codes and labels of the train split.
        deployment: the database, over which average precision is taken.
        logits: (B, K) of the clean queries; a bit costs `flip_costs`.
        labels: (B, C) of the queries; a code is wrong for them if no label set that has it shares a label.
        count: how many clusters for each query. Where there are fewer, the first come again.

    Returns:
        int8 (B, count, K), the best bargain first. A query for which no code is wrong gets negated codes.
    """
    costs, own = flip_costs(logits), sign_codes(logits)
    sets = bank.set_labels[has_label(bank.set_labels)]
    codes, code_of = torch.unique(mainstay_codes(bank, sets), dim=0, return_inverse=True)
    shares = (labels > 0).float().to(sets.device) @ sets.float().T > 0
    right = costs.new_zeros(len(labels), len(codes)).index_add_(1, code_of, shares.float()) > 0
    nothing_wrong = right.all(1, keepdim=True)
    agreement = (costs * own) @ codes.float().T
    cost = (costs.sum(1, keepdim=True) - torch.where(nothing_wrong, -agreement, agreement)) / 2
    there = deployment.average_precision_table(codes, labels)
    if bool(nothing_wrong.any()):
        there = torch.where(nothing_wrong, deployment.average_precision_table(-codes, labels), there)
    gain = (deployment.average_precision(own, labels)[:, None] - there).clamp(min=LEAST_GAIN)
    possible = ~right | nothing_wrong
    ranked = (cost.clamp(min=1e-3) / gain).masked_fill(~possible, torch.inf).argsort(1)
    place = torch.arange(count, device=codes.device)[None, :] % possible.sum(1, keepdim=True)
    found = codes[ranked.gather(1, place)]
    return torch.where(nothing_wrong[:, :, None], -found, found)


def worst_codes(
    deployment: Deployment, start: Tensor, labels: Tensor, *, costs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Flip bits of each code, one at a time, as long as that lowers its average precision over the database.

    Each time the bit with the largest gain for its cost is flipped. The end is a local minimum over all codes, whether
    an image can reach it or not.

    Args:
        deployment: the database.
        start: (B, K) in {-1, +1}.
        labels: (B, C) of the queries.
        costs: (B, K), of `flip_costs`; 1 for every bit when left out.

    Returns:
        int8 (B, K) the codes, and float64 (B,) their average precision.
    """
    rows = max(1, BLOCK_FLOATS // (len(deployment.codes) * (deployment.code_length + 1)))
    costs = torch.ones(start.shape, device=start.device) if costs is None else costs
    blocks = zip(*(torch.split(part, rows) for part in (start, labels, costs)), strict=True)
    codes, values = zip(*(_flip(deployment, *block) for block in blocks), strict=True)
    return torch.cat(codes), torch.cat(values)


def _flip(deployment: Deployment, start: Tensor, labels: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    codes = start.to(torch.float32, copy=True)
    relevant = deployment.relevant(labels)
    values = soft_average_precision(*deployment.soft_counts(codes, relevant))
    for _ in range(4 * deployment.code_length):  # an end that rounding cannot put off
        after = _values_after_flips(deployment, codes, relevant)
        gains = (values[:, None] - after) / costs.clamp(min=1e-3)
        gains[values[:, None] - after < LEAST_GAIN] = -torch.inf
        gain, bit = gains.max(1)
        rows = torch.nonzero(torch.isfinite(gain)).flatten()
        if not len(rows):
            break
        codes[rows, bit[rows]] *= -1
        values[rows] = after[rows, bit[rows]]
    return codes.to(torch.int8), values


def _values_after_flips(deployment: Deployment, codes: Tensor, relevant: Tensor) -> Tensor:
    """Return the average precision of each code after each of its K flips, float64 (B, K).

    Flipping a bit moves the items that agree there one further away and the others one nearer, so all K counts come
    from sums over distances with and without the items' bits.
    """
    bins = deployment.code_length + 1
    distances = ((deployment.code_length - codes @ deployment.codes.T) / 2).round().long()[:, None, :]

    def moved(weights: Tensor) -> Tensor:
        weighted = codes.new_zeros(len(codes), bins, weights.shape[1]).scatter_(1, distances, weights[:, None, :])
        total = weighted.sum(2)[:, None, :]  # (B, 1, K + 1)
        signed = (weighted @ deployment.codes).transpose(1, 2) * codes[:, :, None]  # (B, K, K + 1)
        agree, disagree = (total + signed) / 2, (total - signed) / 2
        counts = torch.zeros_like(agree)
        counts[:, :, 1:] += agree[:, :, :-1]
        counts[:, :, :-1] += disagree[:, :, 1:]
        return counts.flatten(0, 1)

    after = soft_average_precision(moved(relevant), moved(deployment.items.expand(len(codes), -1)))
    return after.view_as(codes)


@dataclass(frozen=True)
class RankingGoal:
    """Lower the average precision over the deployed database itself.

    The value is exact, so that a search keeps the image that really ranks worst. The gradient is that of relaxed codes
    in place of codes, which soften the ranking as in He, Cakir, Bargal, Sclaroff, *Hashing as Tie-Aware Learning to
    Rank*, CVPR 2018; logits are divided by the image's mean absolute clean logit, so that growing all logits changes
    nothing. Give it to a search whose steps do not depend on the values: these change with codes only.

    Args:
        deployment: the database.
    """

    deployment: Deployment
    targeted = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:
        """Return the objective of images (B, 3, H, W) with labels (B, C)."""
        relevant = self.deployment.relevant(labels)
        scale = logit_scale(clean_logits_of(model, images)) / SHARPNESS

        def objective(logits: Tensor) -> Tensor:
            codes = sign_codes(logits.detach()).float()
            exact = soft_average_precision(*self.deployment.soft_counts(codes, relevant))
            if not logits.requires_grad:
                return exact.float()
            soft = soft_average_precision(*self.deployment.soft_counts(torch.tanh(logits / scale), relevant))
            return (exact + (soft - soft.detach())).float()

        return objective
