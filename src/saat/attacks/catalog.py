"""Goals and searches by name: an attack of the literature is a pair of them with an objective and a threat model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from saat.attacks.adam import AdamSearch
from saat.attacks.annealed import AnnealedPGD
from saat.attacks.autopgd import APGD
from saat.attacks.base import Attack
from saat.attacks.blackbox import NesAttack, SquareAttack
from saat.attacks.descent import GradientDescent
from saat.attacks.goals import OwnCodeGoal, SemanticGoal
from saat.attacks.gradient import PAPER_SHARPNESS, PGD
from saat.attacks.objectives import MakeObjective
from saat.attacks.prototype import PrototypeGoal, fit_prototypes
from saat.attacks.sdha import SdhaGoal
from saat.attacks.threat import Threat, ThreatModel
from saat.attacks.transfer import TRANSFER_RULES, TransferPGD, joined_rules
from saat.attacks.views import ReturnedIdsGoal
from saat.codes.bank import CodeBank
from saat.codes.semantic import SemanticCodes, anchor_codes, center_codes, mainstay_codes
from saat.errors import ArgumentError
from saat.types import Goal


@dataclass(frozen=True)
class GoalOptions:
    """What a goal is told; each takes what it knows.

    Args:
        bank: codes and labels of the train split.
        make_objective: how nearness is measured on logits.
        targeted: toward a target, not away from the query's own labels.
        seed: of a goal that is trained first.
        quiet: show no bars.
    """

    bank: CodeBank
    make_objective: MakeObjective
    targeted: bool = False
    seed: int = 0
    quiet: bool = False


def _semantic(semantic_codes: SemanticCodes, options: GoalOptions) -> Goal:
    return SemanticGoal(options.bank, semantic_codes, options.make_objective, options.targeted)


def _prototype(options: GoalOptions) -> Goal:
    net = fit_prototypes(options.bank, seed=options.seed, quiet=options.quiet)
    return PrototypeGoal(net, options.make_objective)


@dataclass(frozen=True)
class NamedGoal:
    """How a goal is made, and what goes with it.

    Args:
        make: what it is told -> the goal.
        aim: away from the query's labels, toward those of a target, or either.
        own_objective: its objective is a part of it; it takes no other.
        last_only: its objective, away, is lowest on the clean image: only the last iterate of a search is an attack.
        from_outside: it knows nothing but what a search service returns: the model is a `SearchView`, without a
            gradient.
        of_train_labels: it is made of the labels of the train split.
    """

    make: Callable[[GoalOptions], Goal]
    aim: Literal["away", "toward", "either"] = "either"
    own_objective: bool = False
    last_only: bool = False
    from_outside: bool = False
    of_train_labels: bool = True


GOALS: Mapping[str, NamedGoal] = {
    "mainstay": NamedGoal(partial(_semantic, mainstay_codes)),
    "center": NamedGoal(partial(_semantic, center_codes)),
    "anchor": NamedGoal(lambda o: _semantic(partial(anchor_codes, seed=o.seed), o), aim="toward"),
    "point": NamedGoal(lambda o: _semantic(partial(anchor_codes, members=1, seed=o.seed), o), aim="toward"),
    "prototype": NamedGoal(_prototype, aim="toward"),
    "relevant-codes": NamedGoal(lambda o: SdhaGoal(o.bank, o.targeted), own_objective=True, last_only=True),
    "own-code": NamedGoal(lambda o: OwnCodeGoal(o.make_objective), aim="away", of_train_labels=False),
    "returned-ids": NamedGoal(
        lambda _: ReturnedIdsGoal(), aim="away", own_objective=True, from_outside=True, of_train_labels=False
    ),
}


@dataclass(frozen=True)
class SearchOptions:
    """What a search is told; each takes what it knows.

    Args:
        threat: how far images may move.
        steps: gradient steps, or queries of a black-box search.
        step_size: length of a step, in pixel units; of `sgd` the rate.
        restarts: searches from as many starts.
        schedule: follow the papers' schedule of sharpness, which objectives on relaxed codes have.
        keep_best: return the best iterate, not the last.
        precision: see `runtime.autocast`.
        samples: how many places a step looks at for its gradient, beside its own; None for what is published.
        sigma: how far to look for a gradient that is estimated, in pixel units.
    """

    threat: Threat
    steps: int
    step_size: float
    restarts: int
    schedule: bool
    keep_best: bool
    precision: str
    samples: int | None = None
    sigma: float = 0.001

    @property
    def sharpness(self) -> tuple[float, ...]:
        """The slopes of the relaxed code over the search."""
        return PAPER_SHARPNESS if self.schedule else (1.0,)


def _pgd(options: SearchOptions, *, steps: int | None = None, random_start: bool = True) -> Attack:
    return PGD(
        options.threat,
        steps=steps or options.steps,
        step_size=options.threat.epsilon if steps == 1 else options.step_size,
        random_start=random_start,
        restarts=options.restarts,
        sharpness=options.sharpness,
        precision=options.precision,
        keep_best=options.keep_best,
    )


def _adam(options: SearchOptions) -> Attack:
    return AdamSearch(
        options.threat,
        steps=options.steps,
        sharpness=options.sharpness,
        precision=options.precision,
        keep_best=options.keep_best,
    )


def _descent(options: SearchOptions, *, momentum: float = 0.0, unit: bool = False) -> Attack:
    return GradientDescent(
        options.threat,
        steps=options.steps,
        step_size=options.step_size,
        momentum=momentum,
        unit=unit,
        sharpness=options.sharpness,
        precision=options.precision,
        keep_best=options.keep_best,
    )


def _everywhere(name: str, threat: Threat) -> ThreatModel:
    """Return the threat of a search that moves every pixel."""
    if isinstance(threat, ThreatModel):
        return threat
    raise ArgumentError(f"`patch` needs a search that can stay in one place; got {name}, which moves every pixel")


def _transfer(rule: str, options: SearchOptions) -> Attack:
    rules = joined_rules(rule)
    if options.samples is not None and "variance_samples" in rules:
        rules["variance_samples"] = options.samples
    return TransferPGD(
        _everywhere(rule, options.threat),
        steps=options.steps,
        step_size=options.step_size,
        precision=options.precision,
        keep_best=options.keep_best,
        **rules,
    )


def _nes(options: SearchOptions) -> Attack:
    return NesAttack(
        options.threat,
        steps=options.steps,
        step_size=options.step_size,
        sigma=options.sigma,
        precision=options.precision,
        **({} if options.samples is None else {"samples": options.samples}),
    )


def _square(options: SearchOptions) -> Attack:
    return SquareAttack(_everywhere("square", options.threat), queries=options.steps, precision=options.precision)


@dataclass(frozen=True)
class Traits:
    """What goes with a search.

    Args:
        gradient: it takes gradients.
        step: its length is given, chosen by the search, or a rate along the gradient, for which no part of a radius
            stands in.
        restarts: it can begin again, from another random start.
        samples: its steps look around.
        everywhere: it moves every pixel, so that a patch is not for it.
    """

    gradient: bool = True
    step: Literal["given", "chosen", "rate"] = "given"
    restarts: bool = False
    samples: bool = False
    everywhere: bool = False


@dataclass(frozen=True)
class NamedSearch:
    """How a search is made from what it is told, and what goes with it."""

    make: Callable[[SearchOptions], Attack]
    traits: Traits = Traits()

    @property
    def chooses(self) -> bool:
        """Whether it returns the best it saw, whatever is asked: read off a search that is asked for its last."""
        asked = SearchOptions(
            ThreatModel(), steps=2, step_size=1 / 255, restarts=1, schedule=False, keep_best=False, precision="float32"
        )
        return self.make(asked).keep_best


def _joined(name: str) -> NamedSearch:
    traits = Traits(samples="variance_samples" in joined_rules(name), everywhere=True)
    return NamedSearch(partial(_transfer, name), traits)


SEARCHES: Mapping[str, NamedSearch] = {
    "pgd": NamedSearch(_pgd, Traits(restarts=True)),
    "fgsm": NamedSearch(partial(_pgd, steps=1, random_start=False)),
    "bim": NamedSearch(partial(_pgd, random_start=False)),
    "apgd": NamedSearch(
        lambda o: APGD(o.threat, steps=o.steps, restarts=o.restarts, precision=o.precision),
        Traits(step="chosen", restarts=True),
    ),
    "annealed": NamedSearch(
        lambda o: AnnealedPGD(o.threat, steps=o.steps, precision=o.precision), Traits(step="chosen")
    ),
    "adam": NamedSearch(_adam, Traits(step="chosen")),
    "sgd": NamedSearch(partial(_descent, momentum=0.9), Traits(step="rate")),
    "ngd": NamedSearch(partial(_descent, unit=True), Traits(step="rate")),
    **{rule: _joined(rule) for rule in TRANSFER_RULES},
    "square": NamedSearch(_square, Traits(gradient=False, step="chosen", everywhere=True)),
    "nes": NamedSearch(_nes, Traits(gradient=False, samples=True)),
}


def find_search(name: str) -> NamedSearch:
    """Return the search of a name: one of `SEARCHES`, or transfer rules joined by `+`, such as `di+ti+si-ni`.

    Raises:
        ArgumentError: what is joined are no transfer rules.
    """
    return _joined(name) if "+" in name else SEARCHES[name]


def make_search(name: str, options: SearchOptions) -> Attack:
    """Make the search of a name that `find_search` knows.

    Raises:
        ArgumentError: what is joined are no transfer rules, or the options do not fit.
    """
    return find_search(name).make(options)
