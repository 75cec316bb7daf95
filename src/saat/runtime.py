"""Where and how code runs: seeds, device, precision, threads, progress, atomic files."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from saat import __version__
from saat.errors import ArgumentError, check_at_least, check_choice

Item = TypeVar("Item")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run; every recipe has these.

    Args:
        seed: of everything random but the splits.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        precision: float32, bfloat16 (mixed), or auto: bfloat16 where it is faster. Codes are taken in float32.
        threads: CPU threads; 0 for OMP_NUM_THREADS if that is set, else every core.
        quiet: no progress bars and no tables.
    """

    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    quiet: bool = False

    def start(self) -> torch.device:
        """Set threads and the global seed, and return the device.

        Raises:
            ArgumentError: an option is out of range.
        """
        check_choice("precision", self.precision, PRECISIONS)
        torch.backends.cudnn.allow_tf32 = False  # with 10 bits of a product, codes would depend on the device
        set_threads(self.threads)
        torch.manual_seed(derive_seed(self.seed, "start"))
        return choose_device(self.device)

    def precision_on(self, device: torch.device) -> str:
        """Return what `precision` means on `device`: float32 or bfloat16."""
        return "bfloat16" if is_mixed(self.precision, device) else "float32"


def versions() -> dict[str, str]:
    """Return the versions that a result rests on."""
    return {"saat": __version__, "python": platform.python_version(), "torch": torch.__version__}


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every part, so that no two uses share a random stream.

    >>> derive_seed(0, "train", 1) == derive_seed(0, "train", 1) != derive_seed(0, "train", 2)
    True
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def make_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a private generator, seeded by `derive_seed(*parts)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is CUDA if there is one, else the CPU.

    Raises:
        ArgumentError: the device is unknown or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ArgumentError(f"`device` is auto, cpu, cuda or cuda:N; got {name!r}") from None
    here = torch.cuda.device_count() if device.type == "cuda" else int(device.type == "cpu")
    if (device.index or 0) >= here:
        raise ArgumentError(f"`device` names a device of this machine, cpu or cuda; got {name!r}, which is not here")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the weights and buffers of a model, of which one has neither on a CPU."""
    return next(chain(model.parameters(), model.buffers()), torch.empty(0)).device


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers of a model by name.

    Raises:
        ArgumentError: its state holds something else.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ArgumentError(f"`model` has a state of tensors, as files keep it; {name} is {type(value).__name__}")
    return state


def available_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads in torch; 0 means `OMP_NUM_THREADS` if set, else every core this process may use."""
    check_at_least("threads", threads, 0)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(threads or (int(asked) if asked.isdigit() and int(asked) else available_cores()))


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 on `device`: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Run the block in `precision`: `float32`, `bfloat16` (mixed), or `auto`, which is bfloat16 where it is faster.

    Raises:
        ArgumentError: `precision` is none of these.
    """
    context: AbstractContextManager[object] = nullcontext()
    if is_mixed(precision, device):
        context = torch.autocast(device.type, torch.bfloat16)
    with context:
        yield


def is_mixed(precision: str, device: torch.device) -> bool:
    """Return whether `precision` means bfloat16 on `device`.

    Raises:
        ArgumentError: `precision` is none of `PRECISIONS`.
    """
    check_choice("precision", precision, PRECISIONS)
    return precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device))


@contextmanager
def weights_cast(model: nn.Module, precision: str, device: torch.device) -> Iterator[None]:
    """Hold the weights of convolutions and linear layers in the precision of `autocast` inside the block.

    The values are those that autocast would use; without this it casts frozen weights anew at every call, which costs
    as much as the layer where the layer is wide and the batch small.
    """
    layers = [module for module in model.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    held = [(weight, weight.data) for layer in layers for weight in layer.parameters(recurse=False)]
    if not is_mixed(precision, device):
        held = []
    for weight, values in held:
        weight.data = values.to(torch.bfloat16)
    try:
        yield
    finally:
        for weight, values in held:
            weight.data = values


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep `model` in eval mode and its weights out of gradients inside the block; restore both after it.

    Batch statistics and dropout never take part, and a backward pass reaches the images only.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval()
    for weight, _ in wanted:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in wanted:
            weight.requires_grad_(requires_grad)


@contextmanager
def counted_images(models: Iterable[nn.Module]) -> Iterator[Callable[[], int]]:
    """Count the images that go through any of these models inside the block, by a function that says how many did."""
    total = 0

    def add(*call: Any) -> None:
        nonlocal total
        total += len(call[-1])

    hooks = [model.register_forward_hook(add) for model in models]
    try:
        yield lambda: total
    finally:
        for hook in hooks:
            hook.remove()


def as_channels_last(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in channels-last memory, the faster layout for convolutions here."""
    return images.contiguous(memory_format=torch.channels_last)


def pixels_of(images: Tensor, device: torch.device) -> Tensor:
    """Return images (B, 3, H, W), uint8 in 0..255 or float in [0, 1], as float32 in [0, 1] on `device`."""
    return as_channels_last(images.to(device, torch.float32) / (255.0 if images.dtype == torch.uint8 else 1.0))


def images_at_once(image_size: int, device: torch.device, *, most: int) -> int:
    """Return how many images to differentiate at a time: `most`, and fewer on a CPU if they are larger than 32 pixels.

    What a network keeps of each image for the way back then stays in the cache, and 224 pixels fit a laptop's memory.
    Below 16 the weights are read too often.

    >>> cpu = torch.device("cpu")
    >>> [images_at_once(side, cpu, most=250) for side in (28, 32, 64, 224)]
    [250, 250, 62, 16]
    """
    if device.type != "cpu":
        return most
    return min(most, max(16, most * 32**2 // image_size**2))


def progress(
    items: Iterable[Item], label: str, *, unit: str = "it", total: int | None = None, quiet: bool = False
) -> tqdm[Item]:
    """Return a bar over `items` with rate and end on standard error; silent when `quiet` or not on a terminal."""
    hidden = True if quiet else None  # tqdm's own rule for None: hide where standard error is no terminal
    return tqdm(items, desc=label, unit=unit, total=total, disable=hidden, dynamic_ncols=True, leave=False)


def make_folder(path: Path) -> None:
    """Make a folder for results, and those above it, unless it is there.

    Raises:
        ArgumentError: it cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        found = f"{path} cannot be {'written to' if path.is_dir() else 'made'}: {error.strerror}"
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                found = f"{part} is no folder"
        raise ArgumentError(f"`out` is a folder that can be written to; {found}") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` only when the block ends well: the old or the new, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # who may read it is the user's umask to say
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())
