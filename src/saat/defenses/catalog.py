"""Defenses by name: a train step each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

from torch import nn

from saat.attacks.objectives import MakeObjective
from saat.attacks.prototype import fit_prototypes
from saat.codes.bank import CodeBank
from saat.codes.semantic import SemanticCodes, center_codes, mainstay_codes
from saat.defenses.distillation import DistillationStep
from saat.defenses.inner import InnerAttack
from saat.defenses.own_code import PgdStep, TradesStep
from saat.defenses.prototype import AtrdhStep
from saat.defenses.query_side import QuerySideStep
from saat.defenses.semantic import SaatStep


@dataclass(frozen=True, kw_only=True)
class DefenseOptions:
    """What a defense is told; each takes what it knows.

    Args:
        model: the model before hardening, on its device.
        loss: the hashing loss that it was trained with, on that device.
        bank: codes and labels of the train split under the model, on that device.
        inner: the inner attack.
        make_objective: of the inner attack.
        adversarial_weight: of the term on adversarial images, where there is another.
        quantization_weight: of the quantization of adversarial codes.
        precision: see `runtime.autocast`.
        seed: of all that is drawn beside the inner attack.
        quiet: show no bars.
    """

    model: nn.Module
    loss: nn.Module
    bank: CodeBank
    inner: InnerAttack
    make_objective: MakeObjective
    adversarial_weight: float
    quantization_weight: float
    precision: str
    seed: int
    quiet: bool


def _saat(
    options: DefenseOptions, *, semantic_codes: SemanticCodes = mainstay_codes, quantized: bool = True
) -> nn.Module:
    return SaatStep(
        options.loss,
        options.bank,
        options.inner,
        semantic_codes=semantic_codes,
        make_objective=options.make_objective,
        adversarial_weight=options.adversarial_weight,
        quantization_weight=options.quantization_weight if quantized else 0.0,
        precision=options.precision,
    )


def _cgat(weights: str) -> Callable[[DefenseOptions], nn.Module]:
    return partial(_saat, semantic_codes=partial(center_codes, weights=weights), quantized=False)


def _atrdh(options: DefenseOptions) -> nn.Module:
    bank = options.bank
    return AtrdhStep(
        options.loss,
        options.inner,
        net=fit_prototypes(bank, seed=options.seed, quiet=options.quiet),
        bank=bank,
        make_objective=options.make_objective,
        adversarial_weight=options.adversarial_weight,
        precision=options.precision,
        seed=options.seed,
    )


def _pgd(options: DefenseOptions) -> nn.Module:
    return PgdStep(
        options.loss,
        options.inner,
        make_objective=options.make_objective,
        precision=options.precision,
    )


def _trades(options: DefenseOptions) -> nn.Module:
    return TradesStep(
        options.loss,
        options.inner,
        make_objective=options.make_objective,
        adversarial_weight=options.adversarial_weight,
        precision=options.precision,
    )


def _distill(options: DefenseOptions) -> nn.Module:
    return DistillationStep(
        deepcopy(options.model),
        options.inner,
        make_objective=options.make_objective,
        precision=options.precision,
    )


def _query_side(options: DefenseOptions) -> nn.Module:
    return QuerySideStep(options.bank, options.inner, precision=options.precision)


DEFENSES: Mapping[str, Callable[[DefenseOptions], nn.Module]] = {
    "saat": _saat,
    "cgat": _cgat("jaccard"),
    "cgat-mean": _cgat("mean"),
    "atrdh": _atrdh,
    "pgd-at": _pgd,
    "trades": _trades,
    "distill": _distill,
    "query-side": _query_side,
}
QUERY_SIDE = ("query-side",)
"""Defenses of the model for queries only; the database keeps the codes of the model before hardening."""
LABEL_FREE = ("distill", "trades")
"""Defenses that learn from images without a label, too."""
_WEIGHTS = ("adversarial_weight", "quantization_weight")
UNREAD: Mapping[str, tuple[str, ...]] = {
    "cgat": ("quantization_weight",),
    "cgat-mean": ("quantization_weight",),
    "atrdh": ("quantization_weight",),
    "pgd-at": _WEIGHTS,
    "trades": ("quantization_weight",),
    "distill": _WEIGHTS,
    "query-side": ("objective", *_WEIGHTS),
}
"""Settings that a defense has no use for."""
