"""Flags: signs that a number is not what it seems. A report with a flag is unreliable, and says so first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saat.evaluation.code_statistics import bit_entropies, count_distinct
from saat.evaluation.metrics import RetrievalMetrics, standard_error
from saat.evaluation.trials import Trials
from saat.hamming import sign_codes

MIN_CODES_PER_GROUP = 0.5  # distinct codes for each group of relevant items, 1 / relevant_share of them if even
MIN_BIT_ENTROPY = 0.1  # mean over bits, in bits: below, nearly all bits are the same for nearly all items
NOISE = 3.0  # standard errors
SATURATED_LOGIT = 9.5  # beyond, tanh has an exactly zero float32 gradient
MAX_SATURATED_SHARE = 0.5
MAX_VANISHED_SHARE = 0.1
MAX_ROUNDED_SHARE = 0.1
MAX_INSTABILITY = 1e-3  # in units of the mean |logit|; rounding is far below


@dataclass(frozen=True)
class Flag:
    """A reason to distrust a report.

    Args:
        name: short, with hyphens.
        message: what was found, with its number.
    """

    name: str
    message: str


def collapsed_codes(clean: RetrievalMetrics) -> Flag | None:
    """Flag a database that has fallen onto a few codes: a constant code scores chance under every attack."""
    groups = 1.0 / clean.relevant_share if clean.relevant_share > 0 else 1.0
    enough = min(max(2.0, MIN_CODES_PER_GROUP * groups), 2.0**clean.code_length, clean.database)
    if clean.distinct_codes >= enough and clean.bit_entropy >= MIN_BIT_ENTROPY:
        return None
    found = f"{clean.distinct_codes} distinct database codes, mean bit entropy {clean.bit_entropy:.3f}"
    return Flag("collapsed-codes", f"the model tells few images apart: {found}")


def collapsed_queries(codes: Tensor) -> Flag | None:
    """Flag queries, int8 (Q, K), that have fallen onto one code while the database, encoded in another way, has not."""
    entropy = bit_entropies(codes).mean().item()
    if len(codes) < 2 or entropy >= MIN_BIT_ENTROPY:
        return None
    found = f"{count_distinct(codes)} distinct query codes, mean bit entropy {entropy:.3f}"
    return Flag("collapsed-codes", f"the model tells few queries apart: {found}")


def clean_at_chance(clean: RetrievalMetrics) -> Flag | None:
    """Flag a clean MAP within noise of chance: there is nothing that an attack could take."""
    if _above(clean.average_precision, clean.chance_average_precision):  # by query: chance differs between queries
        return None
    return Flag("clean-at-chance", f"clean MAP {clean.map:.4f} is within noise of chance {clean.chance_map:.4f}")


def attacked_above_clean(clean: RetrievalMetrics, attacked: RetrievalMetrics) -> Flag | None:
    """Flag an attack after which search works better: its optimization is broken, and it says nothing of robustness."""
    if not _above(attacked.average_precision, clean.average_precision):
        return None
    return Flag("attacked-above-clean", f"attacked MAP {attacked.map:.4f} is above clean MAP {clean.map:.4f}")


def saturated_logits(logits: Tensor) -> Flag | None:
    """Flag logits (Q, K) that mostly lie where tanh is flat: attacks through tanh look weak for no good reason."""
    share = float((logits.abs() > SATURATED_LOGIT).float().mean())
    if share <= MAX_SATURATED_SHARE:
        return None
    return Flag("saturated-logits", f"{share:.0%} of the logits are beyond {SATURATED_LOGIT}, where tanh is flat")


def overlapping_splits(overlap: int) -> Flag | None:
    """Flag queries whose very content is in the database."""
    return Flag("overlap", f"{overlap} queries are in the database, by content") if overlap else None


def vanished_gradients(share: float) -> Flag | None:
    """Flag a model whose gradient is zero or not finite where attacks begin: they cannot see where to go."""
    if share <= MAX_VANISHED_SHARE:
        return None
    return Flag("vanished-gradients", f"{share:.0%} of the queries have no gradient, zero or not finite")


def unstable_model(instability: float) -> Flag | None:
    """Flag a model that gives the same images other logits the second time: it draws at random, or remembers."""
    if instability <= MAX_INSTABILITY:
        return None
    return Flag("unstable-model", f"two passes over the same queries differ by {instability:.2g} of the mean |logit|")


def black_box_wins(white: Mapping[str, Tensor], black: Mapping[str, Tensor]) -> Flag | None:
    """Flag attacks without gradients, or from another model, that are stronger than those with the model's gradients.

    Args:
        white: average precision of the queries, float64 (Q,), under each attack with gradients.
        black: the same under each attack without.
    """
    if not white or not black:
        return None
    best_white, best_black = (min(group, key=lambda name: group[name].mean().item()) for group in (white, black))
    if not _above(white[best_white], black[best_black]):
        return None
    found = ", ".join(f"{name} {group[name].mean():.4f}" for name, group in ((best_black, black), (best_white, white)))
    return Flag("black-box-wins", f"an attack that sees no gradient of the model beats those that do: MAP {found}")


def lost_to_rounding(clean: Tensor, before: Tensor, saved: Tensor) -> Flag | None:
    """Flag attacks that lose much of what they take when their images are rounded to 8 bits: they search off the grid.

    Args:
        clean: average precision of the clean queries, float64 (Q,).
        before: of each query the lowest that an attack found, before its image is rounded.
        saved: the same of the images as saved, or of the clean image.
    """
    before = torch.minimum(before, clean)
    taken, lost = (clean - before).mean().item(), (saved - before).mean().item()
    if lost <= MAX_ROUNDED_SHARE * taken or not _above(saved, before):
        return None
    found = f"MAP {before.mean():.4f} before, {saved.mean():.4f} after"
    return Flag("lost-to-rounding", f"rounding to 8 bits undoes {lost / taken:.0%} of what the attacks take: {found}")


def weak_search(steps: Mapping[int, Tensor], beyond: Tensor, chance: float) -> Flag | None:
    """Flag a search that is no better with many steps than with one, though there is something left to take.

    In a small ball one step may take all there is; then a larger ball shows that the search works.

    Args:
        steps: average precision of the queries, float64 (Q,), by number of steps, ascending.
        beyond: the same at the next larger epsilon, with the most steps.
        chance: MAP of a random ranking.
    """
    few, many = steps[min(steps)], steps[max(steps)]
    if few.mean().item() <= chance or _above(few, many) or _above(few, beyond):
        return None
    found = f"{few.mean():.4f} after {min(steps)}, {many.mean():.4f} after {max(steps)}"
    return Flag("more-steps-no-stronger", f"more steps of the attack take nothing more: MAP {found}")


def weak_radius(radii: Mapping[float, Tensor], *, epsilon: float, chance: float) -> Flag | None:
    """Flag a larger epsilon under which the attack is weaker: its search goes astray, as a larger ball holds a smaller.

    Beyond the report's epsilon nobody claims a number: at chance nothing is left to find there, and how far below it a
    few steps get tells nothing. Up to that epsilon the attack may be weaker nowhere.

    Args:
        radii: average precision of the queries, float64 (Q,), by epsilon, ascending.
        epsilon: of the report.
        chance: MAP of a random ranking.
    """
    for smaller, larger in itertools.pairwise(radii):
        matters = larger <= epsilon or radii[larger].mean().item() > chance
        if matters and _above(radii[larger], radii[smaller]):
            found = f"{radii[smaller].mean():.4f} at {smaller:.3g}, {radii[larger].mean():.4f} at {larger:.3g}"
            return Flag("larger-epsilon-weaker", f"a larger epsilon makes the attack weaker: MAP {found}")
    return None


def large_radius_above_chance(radii: Mapping[float, Tensor], chance: Tensor) -> Flag | None:
    """Flag search that holds where every image can become plain gray: no model does, so the attack is what fails.

    Args:
        radii: average precision of the queries, float64 (Q,), by epsilon; the largest is that of `trials.gray_radius`.
        chance: float64 (Q,), of a random ranking.
    """
    largest = max(radii)
    if not _above(radii[largest], chance):
        return None
    found = f"MAP {radii[largest].mean():.4f} at {largest:.3g}, chance {chance.mean():.4f}"
    return Flag("large-epsilon-above-chance", f"even a very large epsilon leaves search above chance: {found}")


def _above(higher: Tensor, lower: Tensor) -> bool:
    """Return whether `higher` leads `lower`, query by query, by more than noise; of a single query nobody knows."""
    lead = higher - lower
    return len(lead) > 1 and lead.mean().item() > NOISE * standard_error(lead) + 1e-9


def entries_of(flags: Sequence[Flag]) -> dict[str, Any]:
    """Return the first entries of a report, for JSON: whether it is unreliable, and why."""
    return {"unreliable": bool(flags), "flags": [vars(flag) for flag in flags]}


def find_flags(
    clean: RetrievalMetrics,
    attacked: RetrievalMetrics | None,
    *,
    logits: Tensor,
    codes: Tensor | None = None,
    overlap: int,
    vanished: float = 0.0,
    instability: float = 0.0,
    trials: Trials | None = None,
    white: Mapping[str, Tensor] | None = None,
    black: Mapping[str, Tensor] | None = None,
    before_rounding: Tensor | None = None,
) -> list[Flag]:
    """Return all flags of a measurement.

    Args:
        clean: of the clean queries.
        attacked: of the attacked ones, if they were.
        logits: (Q, K) of the clean queries.
        codes: int8 (Q, K), those the clean queries search with, if these are not the signs of `logits`.
        overlap: queries that are in the database.
        vanished: share of the queries at which the attack finds no gradient to begin with.
        instability: of two passes, see `trials.instability`; trials have their own.
        trials: of the first labeled queries, if they were run.
        white: average precision of the queries under each attack with gradients, if there are several.
        black: the same under each attack without.
        before_rounding: the lowest average precision of each query, float64 (Q,), of images that were rounded since.
    """
    found = [
        collapsed_codes(clean) or collapsed_queries(sign_codes(logits) if codes is None else codes),
        clean_at_chance(clean),
        attacked_above_clean(clean, attacked) if attacked is not None else None,
        saturated_logits(logits),
        overlapping_splits(overlap),
        black_box_wins(white or {}, black or {}),
        vanished_gradients(vanished if trials is None else trials.vanished_gradients),
        unstable_model(instability if trials is None else trials.instability),
    ]
    if attacked is not None and before_rounding is not None:
        found.append(lost_to_rounding(clean.average_precision, before_rounding, attacked.average_precision))
    if trials is not None:
        chance = clean.chance_average_precision[: len(next(iter(trials.radii.values())))]
        found += [
            weak_search(trials.steps, trials.beyond_epsilon(), chance.mean().item()),
            weak_radius(trials.radii, epsilon=trials.epsilon, chance=chance.mean().item()),
            large_radius_above_chance(trials.radii, chance),
        ]
    return [flag for flag in found if flag is not None]
