"""Which options of `saat attack` go together; each rule names what it needs and what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saat.attacks.catalog import (
    ALONG_GRADIENT,
    CHOOSING,
    EVERYWHERE,
    RESTARTING,
    SAMPLING,
    SEEN_FROM_OUTSIDE,
    TARGETED,
    UNTARGETED,
    WITHOUT_GRADIENT,
)
from saat.attacks.generative import GENERATORS
from saat.errors import ArgumentError
from saat.recipes.attacker import TRAINED

if TYPE_CHECKING:
    from saat.recipes.attack import AttackConfig


def check_goal(config: AttackConfig) -> None:
    """Refuse a goal that does not fit `targeted`, the search or surrogates."""
    if config.targeted and config.goal in UNTARGETED:
        raise ArgumentError(f"`targeted` needs another `goal` than {', '.join(UNTARGETED)}; got {config.goal}")
    if config.goal in SEEN_FROM_OUTSIDE and (config.search not in WITHOUT_GRADIENT or config.surrogate):
        needed = f"`search` {' or '.join(WITHOUT_GRADIENT)}, and no `surrogate`"
        raise ArgumentError(f"`goal` {config.goal} sees no gradient, and needs {needed}; got {config.search}")
    if not config.targeted and config.goal in TARGETED:
        raise ArgumentError(f"`goal` {config.goal} is that of a target, and needs `targeted`; got an untargeted attack")


def check_search(config: AttackConfig) -> None:
    """Refuse what the search would pass over in silence."""
    if config.restarts > 1 and (config.search not in RESTARTING or config.last):
        needed = f"`search` {' or '.join(RESTARTING)}, without `last`"
        raise ArgumentError(f"`restarts` above 1 need {needed}; got {config.search}")
    if config.samples is not None and not {*config.search.split("+")} & {*SAMPLING}:
        raise ArgumentError(f"`samples` are for `search` {' or '.join(SAMPLING)}; got {config.search}")
    if config.last and config.search in CHOOSING:
        raise ArgumentError(f"`last` needs a search other than {', '.join(CHOOSING)}; got {config.search}")
    if not config.keeps_best and (config.search in CHOOSING or config.restarts > 1):
        found = f"{config.restarts} restarts" if config.restarts > 1 else config.search
        raise ArgumentError(
            f"`goal` {config.goal} is an attack on the last iterate, and needs no restarts and a search other than "
            f"{', '.join(CHOOSING)}; got {found}"
        )
    if config.step_size is None and config.search in ALONG_GRADIENT:
        raise ArgumentError(f"`search` {config.search} steps along the gradient and needs a `step_size`; got none")
    if config.patch and {*config.search.split("+")} & {*EVERYWHERE}:
        raise ArgumentError(f"`patch` needs a search other than {', '.join(EVERYWHERE)}; got {config.search}")


def check_trained(config: AttackConfig) -> None:
    """Refuse what a search that is trained first cannot do."""
    if config.search in TRAINED and config.surrogate:
        raise ArgumentError(f"`search` {config.search} is trained on the attacked model; got a `surrogate`")
    if config.search == "universal" and config.targeted:
        raise ArgumentError("`search` universal makes one change for all queries; got `targeted`, one aim for each")
    if config.search in GENERATORS and (config.goal != "prototype" or config.patch or config.norm != "linf"):
        raise ArgumentError(f"`search` {config.search} needs `goal` prototype, `targeted`, norm linf, and no `patch`")
