"""List the data sets, and describe one: sizes, labels, chance, overlap, damaged images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saat.data.catalog import DATASETS, DataOptions, load_splits
from saat.recipes.tables import print_table

SHOWN = 20  # damaged images that are printed by name; the rest is counted


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """List the data sets that `--data.name` knows."""


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """Describe a data set: sizes, label statistics, relevant share, overlap of query and database, damaged images.

    Args:
        data: which images.
        quiet: no progress bars.
    """

    data: DataOptions = field(default_factory=DataOptions)
    quiet: bool = False


def list_datasets(config: ListConfig) -> None:  # noqa: ARG001
    """Print the catalog."""
    rows = [(name, entry.about, "yes" if entry.needs_root else "no") for name, entry in DATASETS.items()]
    print_table("Data sets", ("--data.name", "what it is", "needs --data.root"), rows)


def describe(config: DescribeConfig) -> dict[str, Any]:
    """Load the splits, print what they hold, and return it."""
    splits = load_splits(config.data, quiet=config.quiet)
    manifest = splits.manifest()
    print_table(
        f"{config.data.name}: {len(splits.class_names)} classes, images {tuple(splits.train.images.shape[1:])}",
        ("split", "images", "labels an image", "without a label", "checksum"),
        [
            (
                name,
                f"{size:,}",
                f"{manifest['labels_per_image'][name]:.2f}",
                f"{manifest['unlabeled'][name]:,}",
                manifest["checksums"][name],
            )
            for name, size in manifest["sizes"].items()
        ],
    )
    counts = sorted(manifest["class_counts"].items(), key=lambda item: -item[1])
    print_table("Labels in the database", ("class", "images"), [(name, f"{count:,}") for name, count in counts])
    print(f"a query shares a label with {manifest['relevant_share']:.2%} of the database on average")
    print(f"{manifest['overlap']} queries whose content is in the database")
    print(f"{len(splits.damaged)} damaged images left out")
    for line in splits.damaged[:SHOWN]:
        print(f"  {line}")
    return manifest
