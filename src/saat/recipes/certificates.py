"""What a certification reports at each radius: the bound, what attacks found, and whether one went below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from saat.codes.bank import CodeBank
from saat.evaluation.certificates import certified_average_precision
from saat.evaluation.deployment import Deployment
from saat.evaluation.ranking import average_precision, count_by_distance
from saat.models.smoothing import majority_codes
from saat.recipes.tables import print_flags, print_table
from saat.runtime import progress

if TYPE_CHECKING:
    from saat.recipes.certify import CertifyConfig

ROUNDING = 1e-9  # of average precision, between two ways to sum it


def by_radius(
    config: CertifyConfig,
    database: CodeBank,
    smoothed: Tensor,
    radii: Tensor,
    attacked_votes: Tensor,
    labels: Tensor,
) -> dict[str, dict[str, float]]:
    """Return certified and attacked MAP, certified bits and violations, each by radius."""
    names = ("certified_map", "attacked_map", "certified_bits", "violations")
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    deployment = Deployment(database)
    for place, radius in enumerate(progress(config.radii, "bounds", unit="radius", quiet=config.quiet)):
        certified = radii > radius
        bound = certified_average_precision(deployment, smoothed, certified, labels)
        attacked_codes = majority_codes(attacked_votes[:, place], samples=config.samples)
        attacked = average_precision(count_by_distance(attacked_codes, labels, database.codes, database.labels))
        key = f"{radius:.6g}"
        found["certified_map"][key] = bound.mean().item()
        found["attacked_map"][key] = attacked.mean().item()
        found["certified_bits"][key] = certified.sum(1).double().mean().item()
        found["violations"][key] = int((attacked < bound - ROUNDING).sum())
    return found


def print_certificates(report: Mapping[str, Any]) -> None:
    """Print what is certified at each radius, beside what the attacks found there; before it, why it may not count."""
    print_flags(report["flags"])
    title = f"Certificates of {report['queries']} queries at sigma {report['sigma']:g}"
    columns = ("l2 radius", "certified MAP", "attacked MAP", f"certified bits of {report['code_length']}", "violations")
    attacked, bits, violations = (report[name] for name in ("attacked_map", "certified_bits", "violations"))
    rows = [
        (radius, f"{bound:.3f}", f"{attacked[radius]:.3f}", f"{bits[radius]:.1f}", f"{violations[radius]}")
        for radius, bound in report["certified_map"].items()
    ]
    print_table(title, columns, rows)
    print(
        f"clean MAP {report['smoothed_map']:.3f} with noise, {report['base_map']:.3f} without; "
        f"chance {report['chance_map']:.3f}; confidence {report['confidence']:g} a query"
    )
