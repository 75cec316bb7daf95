"""Every attack of saat at equal evaluations of the model: their options, and how steps follow from a budget."""

from __future__ import annotations

from typing import Any

from saat.attacks.papers import PRESETS
from saat.recipes.attacker import TRAINED

ESSENTIAL: dict[str, dict[str, Any]] = {"saat-paper": PRESETS["paper"], "hag": PRESETS["hag"], "pgd": {}}
OTHER_MODEL = "other model"
EVERY: dict[str, dict[str, Any]] = {
    **ESSENTIAL,
    "pgd, margin": {"objective": "margin"},
    "fgsm": {"search": "fgsm"},
    "bim": {"search": "bim"},
    "apgd": {"search": "apgd"},
    "apgd, two starts": {"search": "apgd", "restarts": 2},
    "apgd, own code": {"search": "apgd", "goal": "own-code"},
    "apgd, l2 of 0.5": {"search": "apgd", "norm": "l2", "epsilon": 0.5},
    "annealed": {"search": "annealed"},
    "adam": {"search": "adam"},
    "mi-fgsm": {"search": "mi"},
    "ni-fgsm": {"search": "ni"},
    "si-ni-fgsm": {"search": "si-ni"},
    "vmi-fgsm": {"search": "vmi"},
    "di-fgsm": {"search": "di"},
    "ti-fgsm": {"search": "ti"},
    "square": {"search": "square"},
    "nes": {"search": "nes"},
    "hag, sgd": PRESETS["hag-published"],
    "sdha": PRESETS["sdha"],
    "cgat": PRESETS["cgat"],
    "pga": PRESETS["pga"],
    "saat, targeted": PRESETS["paper-targeted"],
    "p2p": PRESETS["p2p"],
    "dhta": PRESETS["dhta"],
    "dhta, ngd": PRESETS["dhta-published"] | {"epsilon": 8 / 255},
    "tha": PRESETS["tha"],
    "pros-gan": PRESETS["pros-gan"],
    "universal": {"search": "universal"},
    "patch of 5 %": {"patch": 0.05, "step_size": 0.1},
    "square, returned ids": {"search": "square", "goal": "returned-ids"},
    "mi-fgsm, from the other model": {"search": "mi", "surrogate": OTHER_MODEL},
    "di+ti-fgsm, from the other model": {"search": "di+ti", "surrogate": OTHER_MODEL},
}
SCALE_COPIES = 5  # that si-ni looks at in each step
SAMPLING_STEPS = 3  # of the searches whose steps look around: fewer places a step, so that there are some steps


def equal_settings(options: dict[str, Any], evaluations: int, epochs: int) -> dict[str, Any]:
    """Return the options of an attack that shows the model each image `evaluations` times, or as near as steps allow.

    A gradient counts as one evaluation. Two looks more, at the clean image and at the last one, are not counted.

    Args:
        options: of the attack.
        evaluations: how often an image is shown, at least 8.
        epochs: of an attack that is trained first.

    >>> equal_settings({"search": "universal"}, 50, 5)["steps"]
    5
    >>> equal_settings({"search": "nes"}, 50, 5)["samples"]  # in 3 steps of 1 + 2 * 8 looks, and the clean image
    8
    """
    search = options.get("search", "pgd")
    if search in TRAINED:  # on the train split, with as many images in all
        return options | {"steps": max(1, epochs)}
    if search in ("vmi", "nes"):  # vmi looks around from all places but the last; nes from all, on both sides
        samples = (evaluations - 2) // 2 - 1 if search == "vmi" else (evaluations - 2) // (2 * SAMPLING_STEPS)
        return options | _pace(SAMPLING_STEPS) | {"samples": samples}
    if search == "si-ni":
        return options | _pace(max(1, evaluations // SCALE_COPIES))
    return options | {"steps": max(1, evaluations // options.get("restarts", 1))}


def _pace(steps: int) -> dict[str, Any]:
    """Return few steps, long enough to cross the ball."""
    return {"step_size": max(1 / 255, 8 / 255 / steps), "steps": steps}
