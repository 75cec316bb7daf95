"""The CIFAR-10 protocol: ResNet-20, 32 bits, 5,000 train, 500 queries, 20,000 in the database; 12 + 8 epochs.

python benchmarks/bench_cifar10.py --data DIR_OF_PARQUET --weights resnet20.th [--seeds 0 1 2] [--quick]
"""

from __future__ import annotations

from bench_protocol import Protocol, arguments, headline, paper_fit, run_protocol

from saat.data.catalog import DataOptions


def main() -> None:
    options = arguments(str(__doc__))
    scale, name = (10, "cifar10-quick") if options.quick else (1, "cifar10")
    data = DataOptions(
        name="parquet",
        root=options.data,
        train_size=5000 // scale,
        query_size=500 // scale,
        database_size=20000 // scale,
        train_in_database=False,
        split_seed=None,
    )
    protocol = Protocol(
        name=name,
        data=data,
        weights=options.weights,
        train_fit=paper_fit(1 if options.quick else 12, momentum=0.9),
        harden_fit=paper_fit(1 if options.quick else 8, momentum=0.0),
    )
    print(headline([run_protocol(protocol, seed=seed, work=options.work) for seed in options.seeds]))


if __name__ == "__main__":
    main()
