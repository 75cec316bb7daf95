"""Flags: signs that a number is not what it seems. A report with a flag is unreliable, and says so first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from saat.evaluation.metrics import RetrievalMetrics, standard_error

MIN_CODES_PER_GROUP = 0.5  # distinct codes for each group of relevant items, 1 / relevant_share of them if even
MIN_BIT_ENTROPY = 0.1  # mean over bits, in bits: below, nearly all bits are the same for nearly all items
NOISE = 3.0  # standard errors
SATURATED_LOGIT = 9.5  # beyond, tanh has an exactly zero float32 gradient
MAX_SATURATED_SHARE = 0.5


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
    enough = max(2.0, MIN_CODES_PER_GROUP * groups)
    if clean.distinct_codes >= enough and clean.bit_entropy >= MIN_BIT_ENTROPY:
        return None
    found = f"{clean.distinct_codes} distinct database codes, mean bit entropy {clean.bit_entropy:.3f}"
    return Flag("collapsed-codes", f"the model tells few images apart: {found}")


def clean_at_chance(clean: RetrievalMetrics) -> Flag | None:
    """Flag a clean MAP within noise of chance: there is nothing that an attack could take."""
    lead = clean.average_precision - clean.chance_average_precision  # by query: chance differs between queries
    if lead.mean().item() > NOISE * standard_error(lead):
        return None
    return Flag("clean-at-chance", f"clean MAP {clean.map:.4f} is within noise of chance {clean.chance_map:.4f}")


def attacked_above_clean(clean: RetrievalMetrics, attacked: RetrievalMetrics) -> Flag | None:
    """Flag an attack after which search works better: its optimization is broken, and it says nothing of robustness."""
    if attacked.map <= clean.map:
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


def find_flags(
    clean: RetrievalMetrics, attacked: RetrievalMetrics | None, *, logits: Tensor, overlap: int
) -> list[Flag]:
    """Return all flags of a measurement: clean, attacked (if it was), logits of the clean queries, overlap."""
    checks: list[Callable[[], Flag | None]] = [
        lambda: collapsed_codes(clean),
        lambda: clean_at_chance(clean),
        lambda: attacked_above_clean(clean, attacked) if attacked is not None else None,
        lambda: saturated_logits(logits),
        lambda: overlapping_splits(overlap),
    ]
    return [flag for flag in (check() for check in checks) if flag is not None]
