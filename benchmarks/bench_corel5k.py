"""The Corel5k protocol: photographs at 64 px, 2,500 train, 500 queries, 4,222 in the database; 30 + 8 epochs.

python benchmarks/bench_corel5k.py --data DIR_OF_IMAGE_LISTS [--seeds 0 1 2] [--quick]

EfficientNet-Lite0 from ImageNet weights, which pip brings: a ResNet-20 of CIFAR-10 finds little more than chance here.
"""

from __future__ import annotations

from pathlib import Path

from bench_protocol import main

from saat.data.catalog import DataOptions


def corel5k(root: Path, divisor: int) -> DataOptions:
    return DataOptions(
        name="image-list",
        root=root,
        image_size=64,
        crop_border=6,
        train_size=2500 // divisor,
        query_size=500 // divisor,
        split_seed=None,
    )


if __name__ == "__main__":
    # DPH needs some epochs before it learns at all here
    # hardening has no momentum, as SAAT was released: with 0.9 it soon forgets here what training had learned
    network = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
    main(str(__doc__), "corel5k", corel5k, **network, epochs=30, harden_momentum=0.0)
