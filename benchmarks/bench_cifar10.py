"""The CIFAR-10 protocol: ResNet-20, 32 bits, 5,000 train, 500 queries, 20,000 in the database; 12 + 8 epochs.

python benchmarks/bench_cifar10.py --data DIR_OF_PARQUET --weights resnet20.th [--seeds 0 1 2] [--quick]
"""

from __future__ import annotations

from pathlib import Path

from bench_protocol import main

from saat.data.catalog import DataOptions


def cifar10(root: Path, divisor: int) -> DataOptions:
    return DataOptions(
        name="parquet",
        root=root,
        train_size=5000 // divisor,
        query_size=500 // divisor,
        database_size=20000 // divisor,
        train_in_database=False,
        split_seed=None,
    )


if __name__ == "__main__":
    main(str(__doc__), "cifar10", cifar10, backbone="resnet20")
