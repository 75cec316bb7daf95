"""The Corel5k protocol: photographs at 64 px, 2,500 train, 500 queries, 4,222 in the database; 12 + 8 epochs.

python benchmarks/bench_corel5k.py --data DIR_OF_IMAGE_LISTS --weights resnet20.th [--seeds 0 1 2] [--quick]
"""

from __future__ import annotations

from bench_protocol import Protocol, arguments, headline, paper_fit, run_protocol

from saat.data.catalog import DataOptions


def main() -> None:
    options = arguments(str(__doc__))
    scale, name = (10, "corel5k-quick") if options.quick else (1, "corel5k")
    data = DataOptions(
        name="image-list",
        root=options.data,
        image_size=64,
        crop_border=6,
        train_size=2500 // scale,
        query_size=500 // scale,
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
