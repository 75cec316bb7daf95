"""ComDefend: images through a code of twelve bits a pixel, and back."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from saat.defenses.purifiers import Purifier
from saat.errors import ArgumentError, check_at_least
from saat.runtime import derive_seed, make_generator, pixels_of, progress

CHANNELS = 12  # bits a pixel of the code; an image has 24
NOISE = 20.0  # standard deviation, which drives the code far from zero
COMPACTNESS = 1e-4  # weight of the squared code


class ComDefend(Purifier):
    """An encoder to a binary code of 12 channels, and a decoder.

    Jia, Wei, Cao, Foroosh, *ComDefend: An Efficient Image Compression Model to Defend Adversarial Examples*, CVPR 2019.
    Each has nine 3 x 3 convolutions with ELU between them. In use a bit is 1 where the encoder is above 0, so there is
    no gradient; in training it is sigmoid(encoder - noise). *Differs from the released code*: no noise in use.

    Args:
        width: channels of the first layer; the widest has 16 times as many. The paper has 16.

    Raises:
        ArgumentError: `width` is below 1.
    """

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        check_at_least("width", width, 1)
        widths = [width * factor for factor in (1, 2, 4, 8, 16, 8, 4, 2)]
        self.encoder = _convolutions([3, *widths, CHANNELS])
        self.decoder = _convolutions([CHANNELS, *widths[1:], width, 3])

    def forward(self, images: Tensor) -> Tensor:
        """Decode the binary code of images (B, 3, H, W) in [0, 1]."""
        return self._decode(self.binary_code(images).to(images.dtype))

    def binary_code(self, images: Tensor) -> Tensor:
        """Return the code of images, bool (B, 12, H, W)."""
        logits: Tensor = self.encoder(images)
        return logits > 0

    def noisy_code(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the relaxed code that training decodes, float (B, 12, H, W) in [0, 1], with a graph."""
        logits: Tensor = self.encoder(images)
        noise = torch.empty_like(logits).normal_(0.0, NOISE, generator=generator)
        return torch.sigmoid(logits - noise)

    def training_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the reconstruction, plus 1e-4 times the mean squared code."""
        code = self.noisy_code(images, generator)
        return (self._decode(code) - images).square().mean() + COMPACTNESS * code.square().mean()

    def _decode(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(code))


def fit_comdefend(
    images: Tensor,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    width: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> ComDefend:
    """Train a `ComDefend` to reconstruct clean images; it never sees an attack, a label or a model.

    Args:
        images: (N, 3, H, W), uint8 in 0..255, or float in [0, 1].
        epochs: passes over the images.
        batch_size: images a step.
        width: see `ComDefend`.
        learning_rate: of Adam.
        seed: of the first weights, the order and the noise.
        device: where to train.
        quiet: show no bar.

    Raises:
        ArgumentError: an option is out of range, or there is no image.
    """
    check_at_least("epochs", epochs, 1)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("learning_rate", learning_rate, 0.0)
    if not len(images):
        raise ArgumentError("`images` holds at least one image to learn from; got none")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "fit_comdefend"))
        purifier = ComDefend(width=width).to(device)
    order = make_generator(seed, "fit_comdefend", "order")
    noise = make_generator(seed, "fit_comdefend", "noise", device=device)
    optimizer = torch.optim.Adam(purifier.parameters(), lr=learning_rate, betas=(0.5, 0.999))
    for _ in progress(range(epochs), "fit comdefend", unit="epoch", quiet=quiet):
        for rows in torch.split(torch.randperm(len(images), generator=order), batch_size):
            batch = pixels_of(images[rows], torch.device(device))
            loss = purifier.training_loss(batch, noise)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return purifier.eval().requires_grad_(False)


def _convolutions(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU()]
    return nn.Sequential(*layers[:-1])
