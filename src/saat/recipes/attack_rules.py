"""Which options of `saat attack` go together; each rule names what it needs and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from saat.attacks.catalog import GOALS, SEARCHES, NamedGoal, NamedSearch, find_search
from saat.attacks.generative import GENERATORS
from saat.errors import ArgumentError
from saat.recipes.attacker import TRAINED, traits_of

if TYPE_CHECKING:
    from saat.recipes.attack import AttackConfig


def check_goal(config: AttackConfig) -> None:
    """Refuse a goal that does not fit `targeted`, the search or surrogates."""
    goal = GOALS[config.goal]
    if config.targeted and goal.aim == "away":
        others = ", ".join(_goals(lambda one: one.aim == "away"))
        raise ArgumentError(f"`targeted` needs another `goal` than {others}; got {config.goal}")
    if goal.from_outside and (traits_of(config.search).gradient or config.surrogate):
        needed = f"`search` {' or '.join(_searches(lambda one: not one.traits.gradient))}, and no `surrogate`"
        raise ArgumentError(f"`goal` {config.goal} sees no gradient, and needs {needed}; got {config.search}")
    if goal.own_objective and config.objective != type(config).objective:
        raise ArgumentError(f"`goal` {config.goal} has an objective of its own; got `objective` {config.objective}")
    if not config.targeted and goal.aim == "toward":
        raise ArgumentError(f"`goal` {config.goal} is that of a target, and needs `targeted`; got an untargeted attack")


def check_search(config: AttackConfig) -> None:
    """Refuse what the search would pass over in silence."""
    search = traits_of(config.search)
    if config.restarts > 1 and (config.last or not search.restarts):
        needed = f"`search` {' or '.join(_searches(lambda one: one.traits.restarts))}, without `last`"
        raise ArgumentError(f"`restarts` above 1 need {needed}; got {config.search}")
    if config.samples is not None and not search.samples:
        sampling = " or ".join(_searches(lambda one: one.traits.samples))
        raise ArgumentError(f"`samples` are for `search` {sampling}; got {config.search}")
    if not config.keeps_best and (_chooses(config.search) or config.restarts > 1):
        choosing = ", ".join(_searches(lambda one: one.chooses))
        found = f"{config.restarts} restarts" if config.restarts > 1 else config.search
        if config.last:
            raise ArgumentError(f"`last` needs a search other than {choosing}; got {found}")
        raise ArgumentError(
            f"`goal` {config.goal} is an attack on the last iterate, and needs no restarts and a search other than "
            f"{choosing}; got {found}"
        )
    if config.step_size is None and search.step == "rate":
        raise ArgumentError(f"`search` {config.search} steps along the gradient and needs a `step_size`; got none")
    if config.step_size is not None and config.step_size != config.pace()[1]:
        raise ArgumentError(f"`search` {config.search} chooses the length of its steps; got `step_size`")
    if config.patch and search.everywhere:
        moving = ", ".join(_searches(lambda one: one.traits.everywhere))
        raise ArgumentError(f"`patch` needs a search other than {moving}; got {config.search}")


def check_trained(config: AttackConfig) -> None:
    """Refuse what a search that is trained first cannot do."""
    if config.search in TRAINED and config.surrogate:
        raise ArgumentError(f"`search` {config.search} is trained on the attacked model; got a `surrogate`")
    if config.search == "universal" and config.targeted:
        raise ArgumentError("`search` universal makes one change for all queries; got `targeted`, one aim for each")
    if config.search in GENERATORS and (config.goal != "prototype" or config.patch or config.norm != "linf"):
        raise ArgumentError(f"`search` {config.search} needs `goal` prototype, `targeted`, norm linf, and no `patch`")


def _chooses(search: str) -> bool:
    """Return whether a search has no last iterate to return; a trained one has a single image, whatever is asked."""
    return search not in TRAINED and find_search(search).chooses


def _goals(wanted: Callable[[NamedGoal], bool]) -> list[str]:
    return [name for name, goal in GOALS.items() if wanted(goal)]


def _searches(wanted: Callable[[NamedSearch], bool]) -> list[str]:
    return [name for name, search in SEARCHES.items() if wanted(search)]
