"""HashModel: images in [0, 1] -> logits. Normalization lives inside, so that attacks always see plain pixels."""

from __future__ import annotations

import importlib
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from saat.bits import pack_codes
from saat.errors import ArgumentError, DataError, SaatError, check_code_length
from saat.hamming import sign_codes
from saat.models.backbones import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from saat.runtime import device_of, frozen, pixels_of, progress

NO_CODE = "the model gives no finite logits for this image, so it has no code"


class HashModel(nn.Module):
    """normalize -> backbone -> hash layer.

    Args:
        backbone: normalized images (B, 3, H, W) -> features.
        hash_layer: features -> logits (B, K).
        code_length: K, a positive multiple of 8.
        mean: the three channel means that are taken off.
        std: the three channel deviations that are divided by.
        mirror: take the mean of the logits of each image and of its mirror image. It costs twice as much, and where
            models are attacked it is harder to turn both at once.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        hash_layer: nn.Module,
        *,
        code_length: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        self.mirror = mirror
        self.code_length = check_code_length(code_length)
        self.backbone = backbone
        self.hash_layer = hash_layer
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, K)."""
        logits = self._logits(images)
        return (logits + self._logits(images.flip(3))) / 2.0 if self.mirror else logits

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.hash_layer(self.backbone((images - self.mean) / self.std))
        return logits

    def encode(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to codes (B, K), int8 in {-1, +1}; in eval mode, without a graph."""
        with frozen(self), torch.no_grad():
            return sign_codes(self(images))


def build_model(backbone: str, *, code_length: int, weights: str = "auto") -> tuple[HashModel, str]:
    """Build a HashModel over a named backbone, with a small random hash layer.

    Args:
        backbone: a key of `backbones.BACKBONES`.
        code_length: K, in bits, a positive multiple of 8.
        weights: `auto`, `imagenet`, `random` or the path of a state file.

    Returns:
        The model, and where its backbone's weights came from (`random`, `imagenet` or a path).

    Raises:
        ArgumentError: the backbone is unknown, or `code_length` is not a positive multiple of 8.
        CheckpointError: the weights cannot be had or do not fit.
    """
    check_code_length(code_length)
    built = build_backbone(backbone, weights)
    hash_layer = nn.Linear(built.out_features, code_length)
    model = HashModel(built.network, hash_layer, code_length=code_length, mean=built.mean, std=built.std)
    return model, built.weights


def wrap_module(module: nn.Module, *, image_size: int) -> HashModel:
    """Wrap any module from images (B, 3, H, W) in [0, 1] to K logits as a HashModel: bring your own.

    Args:
        module: tried on two gray images and on one here, in eval mode.
        image_size: H = W of the images, in pixels.

    Raises:
        ArgumentError: the module refuses such images, or does not return logits (B, K).
    """
    if any(isinstance(weight, UninitializedParameter) for weight in module.parameters()):
        raise ArgumentError("`model` knows the shapes of its weights; found lazy ones, so call it once in its factory")
    for count in (2, 1):  # a module that squeezes its logits takes one image for none
        shape = (count, 3, image_size, image_size)
        with frozen(module), torch.no_grad():
            try:
                logits = module(torch.full(shape, 0.5, device=device_of(module)))
            except Exception as error:  # whatever the user's module raises
                raise ArgumentError(f"`model` maps images {shape} in [0, 1] to logits; it raised: {error}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count or not logits.is_floating_point():
            raise ArgumentError(f"`model` maps images {shape} to float logits ({count}, K); got {_kind(logits)}")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return HashModel(module, nn.Identity(), code_length=logits.shape[1], mean=mean, std=std).to(logits.device)


def _kind(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def check_trainable(model: nn.Module, images: Tensor) -> None:
    """Raise unless a model can be trained, by a forward pass in train mode, of a copy so that no statistic moves.

    Args:
        model: images -> logits.
        images: float (B, 3, H, W) in [0, 1], on its device; few.

    Raises:
        ArgumentError: no weight takes a gradient; or in train mode the model raises, gives something else than in eval
            mode or logits without a gradient, or adds to its state, of which nothing would be trained or kept.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ArgumentError("`model` has weights that take a gradient; got none to train")
    with frozen(model), torch.no_grad():
        shape = model(images).shape
    rule = f"`model` maps images {tuple(images.shape)} to float logits {tuple(shape)} in train mode too"
    try:
        trained = deepcopy(model).train()
        logits = trained(images)
    except Exception as error:  # whatever the user's module raises
        raise ArgumentError(f"{rule}; it raised: {error}") from error
    if not isinstance(logits, Tensor) or logits.shape != shape or not logits.is_floating_point():
        raise ArgumentError(f"{rule}; got {_kind(logits)}")
    if not logits.requires_grad:
        raise ArgumentError(f"{rule}, with a gradient; got some without, as under torch.no_grad")
    changed = sorted(trained.state_dict().keys() ^ model.state_dict().keys())
    if changed:
        raise ArgumentError(f"`model` has all weights and buffers before it is trained; {changed[0]} came or went then")


def check_image_size(model: HashModel, image_size: int) -> None:
    """Try a model on one gray image of S x S pixels, so that a size it does not take is told before images are decoded.

    Raises:
        ArgumentError: it does not take images of this size.
    """
    gray = torch.full((1, 3, image_size, image_size), 0.5, device=model.mean.device)
    try:
        model.encode(gray)
    except Exception as error:  # whatever a network raises
        rule = "`data.image_size`, or the set's own, is a size that the model takes"
        raise ArgumentError(f"{rule}; got {image_size} pixels, and it raised: {error}") from error


def import_model(name: str, *, image_size: int) -> HashModel:
    """Call the factory named `package.module:factory` (no arguments) and wrap a copy of the module that it returns.

    A copy, since a factory may return the same module each time, and other weights are loaded into each model.

    Raises:
        ArgumentError: the name is malformed, cannot be imported, or returns no module of the right kind.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ArgumentError(f"`model` is package.module:factory; got {name!r}")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        module = factory()
    except SaatError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported or built
        raise ArgumentError(f"`model` {name!r} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"`model` {name!r} returns a torch.nn.Module; got {type(module).__name__}")
    try:
        copy = deepcopy(module)
    except Exception as error:  # of a lock, or of a weight that another is computed into
        rule = "returns a module that copy.deepcopy copies"
        raise ArgumentError(f"`model` {name!r} {rule}; it raised: {error}") from error
    return wrap_module(copy, image_size=image_size)


@torch.no_grad()
def encode_logits(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 256,
    label: str = "encode",
    quiet: bool = False,
) -> Tensor:
    """Return the logits of many images, in eval mode, batch by batch on the model's device.

    Commands switch TF32 off, so that codes hardly depend on the device. From Python on CUDA, do the same:
    `torch.backends.cudnn.allow_tf32 = False`.

    Args:
        model: images in [0, 1] -> logits (B, K).
        images: (N, 3, H, W), uint8 in 0..255, or float in [0, 1].
        batch_size: images at a time.
        label: what the progress bar says.
        quiet: show no bar.

    Returns:
        float32 (N, K) on the CPU.
    """
    device = device_of(model)
    with frozen(model):
        parts = progress(torch.split(images, batch_size), label, unit="batch", quiet=quiet)
        return torch.cat([model(pixels_of(part, device)).float().cpu() for part in parts])


def encode_packed(model: HashModel, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the packed codes of a batch, and which of its images have one: logits that are not finite are no code.

    Args:
        model: of the codes.
        images: uint8 (B, 3, S, S), few enough for one pass.

    Returns:
        uint8 (B, K/8), and bool (B,).
    """
    if not len(images):
        return np.empty((0, model.code_length // 8), np.uint8), np.empty(0, np.bool_)
    logits = encode_logits(model, torch.from_numpy(images), batch_size=len(images), quiet=True)
    return pack_codes(sign_codes(logits).numpy()), torch.isfinite(logits).all(1).numpy()


def packed_codes(model: HashModel, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the packed codes of a batch of which every image has one; see `encode_packed`.

    Raises:
        DataError: the logits of an image are not finite.
    """
    packed, coded = encode_packed(model, images)
    if not coded.all():
        raise DataError(NO_CODE)
    return packed
