"""Gradient searches made to transfer: adversarial images of one model that also fool another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saat.attacks.base import Attack, Probe, Transform
from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError, check_at_least

# The DI paper shrinks an input of 330 pixels to as little as 299.
SMALLEST_SHARE = 0.9

TRANSFER_RULES: Mapping[str, dict[str, Any]] = {
    "mi": {"momentum": 1.0},
    "ni": {"momentum": 1.0, "lookahead": True},
    "si-ni": {"momentum": 1.0, "lookahead": True, "scale_copies": 5},
    "vmi": {"momentum": 1.0, "variance_samples": 20, "variance_radius": 1.5},
    "di": {"momentum": 1.0, "diversity": 0.5},
    "ti": {"momentum": 1.0, "kernel_size": 15},
}
"""The published settings by name, as options of `TransferPGD`; they agree on every option that they share."""


def joined_rules(name: str) -> dict[str, Any]:
    """Return the options of `TransferPGD` for one of `TRANSFER_RULES`, or for several joined by `+`.

    Raises:
        ArgumentError: a part is no transfer rule, or is there twice.

    >>> joined_rules("di+ti")
    {'momentum': 1.0, 'diversity': 0.5, 'kernel_size': 15}
    """
    return {option: value for part in _parts(name) for option, value in TRANSFER_RULES[part].items()}


def joined_name(name: str) -> str:
    """Return the one name of rules joined by `+`: in the order of `TRANSFER_RULES`, without what others contain.

    Raises:
        ArgumentError: a part is no transfer rule, or is there twice.

    >>> joined_name("ti+mi+di")
    'di+ti'
    """
    parts = _parts(name)
    contained = [one for one in parts for other in parts if TRANSFER_RULES[one].items() < TRANSFER_RULES[other].items()]
    return "+".join(rule for rule in TRANSFER_RULES if rule in parts and rule not in contained)


def _parts(name: str) -> list[str]:
    parts = name.split("+")
    if len(set(parts)) < len(parts) or not TRANSFER_RULES.keys() >= set(parts):
        rule = f"joins only {', '.join(TRANSFER_RULES)} by +, each once"
        raise ArgumentError(f"`search` {rule}; got {name!r}")
    return parts


def normalize_gradient(gradient: Tensor) -> Tensor:
    """Return gradients (B, 3, H, W) divided by the mean absolute value of the same image; zero stays zero.

    >>> normalize_gradient(torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1)).flatten()
    tensor([ 0.5000, -1.0000,  1.5000])
    """
    scale = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / scale.clamp(min=torch.finfo(gradient.dtype).tiny)


def blur_gradient(gradient: Tensor, *, kernel_size: int) -> Tensor:
    """Return gradients (B, 3, H, W) convolved with a gaussian kernel, channel by channel, with zeros around.

    The kernel sums to 1 and ends at three standard deviations, as in the published code of the TI paper.

    Args:
        gradient: float (B, 3, H, W).
        kernel_size: width of the kernel in pixels, odd; 1 changes nothing.

    >>> pixel = torch.tensor([0.0, 1.0, 0.0]).diag_embed().expand(1, 3, 3, 3)
    >>> blur_gradient(pixel, kernel_size=3)[0, 0, 1]  # (a, 1, a) / (1 + 2 a) with a = exp(-4.5), times its middle
    tensor([0.0106, 0.9570, 0.0106])
    """
    if kernel_size == 1:
        return gradient
    radius = kernel_size // 2
    places = torch.arange(-radius, radius + 1, dtype=gradient.dtype, device=gradient.device)
    kernel = torch.exp(-0.5 * (3.0 * places / radius).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    down = F.conv2d(gradient, kernel[:, :, :, None], padding=(radius, 0), groups=3)
    return F.conv2d(down, kernel[:, :, None, :], padding=(0, radius), groups=3)


def shrink(images: Tensor, *, heights: Tensor, widths: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """Return each image resized to its own size (nearest neighbor) and put in its place on black; differentiable.

    Args:
        images: (B, 3, H, W).
        heights: int64 (B,), 1 to H.
        widths: int64 (B,), 1 to W.
        tops: int64 (B,), rows of black above, 0 to H - height.
        lefts: int64 (B,), columns of black to the left, 0 to W - width.

    Returns:
        (B, 3, H, W).

    >>> row = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 3, 1, 4)
    >>> one, two = torch.tensor([1]), torch.tensor([2])
    >>> shrink(row, heights=one, widths=two, tops=one - 1, lefts=one)[0, 0]
    tensor([[0., 1., 3., 0.]])
    """
    rows = _sources(images.shape[2], sizes=heights, starts=tops).to(images.dtype)
    columns = _sources(images.shape[3], sizes=widths, starts=lefts).to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _sources(length: int, *, sizes: Tensor, starts: Tensor) -> Tensor:
    """Return bool (B, length, length): whether the place of the row shows the pixel of the column."""
    places = torch.arange(length, device=sizes.device)
    offsets = places - starts[:, None]
    inside = (offsets >= 0) & (offsets < sizes[:, None])
    return inside[:, :, None] & ((offsets * length // sizes[:, None])[:, :, None] == places)


def shrink_randomly(images: Tensor, *, probability: float, generator: torch.Generator) -> Tensor:
    """Return images (B, 3, H, W), each with `probability` shrunk by up to a tenth and put at a random place on black.

    Args:
        images: (B, 3, H, W).
        probability: in [0, 1].
        generator: on the device of the images.
    """
    height, width = images.shape[2:]
    chance, share, down, right = torch.rand(4, len(images), generator=generator, device=images.device)
    share = torch.where(chance < probability, SMALLEST_SHARE + (1.0 - SMALLEST_SHARE) * share, 1.0)
    heights, widths = ((share * length).long().clamp(min=1) for length in (height, width))
    tops, lefts = (down * (height - heights + 1)).long(), (right * (width - widths + 1)).long()
    return shrink(images, heights=heights, widths=widths, tops=tops, lefts=lefts)


class TransferPGD(Attack):
    """Projected gradient descent from the clean image, with the means that make its images transfer to other models.

    Each is a switch, and all of them compose; `TRANSFER_RULES` has the published settings.

    * `momentum`: MI. Dong et al., *Boosting Adversarial Attacks with Momentum*, CVPR 2018. The step follows
      v = momentum * v + g / mean |g|, for each image.
    * `lookahead`: NI, and `scale_copies`: SI. Lin et al., *Nesterov Accelerated Gradient and Scale Invariance for
      Adversarial Attacks*, ICLR 2020. The gradient is taken where momentum alone would lead, and it is the mean of
      those at images / 2^i, i = 0, 1, ...
    * `variance_samples`: VMI. Wang and He, *Enhancing the Transferability of Adversarial Attacks through Variance
      Tuning*, CVPR 2021. To the gradient is added the mean gradient of the last step's neighbors less that step's own.
    * `diversity`: DI. Xie et al., *Improving Transferability of Adversarial Examples with Input Diversity*, CVPR 2019.
      The model sees images shrunk and put on black at random.
    * `kernel_size`: TI. Dong et al., *Evading Defenses to Transferable Adversarial Examples by Translation-Invariant
      Attacks*, CVPR 2019. The gradient is convolved with a gaussian.

    *Differs from the papers*: places ahead and neighbors are projected to the threat model, since they may be returned;
    after the last step no neighbors are looked at, since nothing would use them; DI draws for each image, not for the
    batch, and keeps the size of the images. NI divides by the mean of |g|, as the authors' code does, and not by its l1
    norm, beside which no place would lie ahead. In l2, the place ahead is one step of momentum * step_size away.

    Args:
        threat: how far images may move.
        steps: gradient steps, at least 1.
        step_size: length of a step, in pixel units and the threat's norm.
        momentum: share of the last step's direction that is kept, at least 0.
        lookahead: take the gradient ahead of the current images, where momentum leads.
        scale_copies: darker copies of the current images whose gradients are averaged, themselves included, at least 1.
        variance_samples: neighbors whose gradients tune the next step; 0 for none.
        variance_radius: how far neighbors lie away, in units of epsilon.
        diversity: probability with which the model sees an image shrunk, in [0, 1].
        kernel_size: width of the gaussian in pixels, odd; 1 for none.
        precision: of the search; see `runtime.autocast`.
        keep_best: return the best of the clean image and all images looked at unchanged, not the last iterate. With
            `diversity` these are the clean image and the last iterate only.

    Raises:
        ArgumentError: an option is out of range.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        step_size: float = 1 / 255,
        momentum: float = 1.0,
        lookahead: bool = False,
        scale_copies: int = 1,
        variance_samples: int = 0,
        variance_radius: float = 1.5,
        diversity: float = 0.0,
        kernel_size: int = 1,
        precision: str = "float32",
        keep_best: bool = True,
    ) -> None:
        super().__init__(threat, precision=precision, keep_best=keep_best)
        check_at_least("steps", steps, 1)
        check_at_least("step_size", step_size, 0.0)
        check_at_least("momentum", momentum, 0.0)
        check_at_least("scale_copies", scale_copies, 1)
        check_at_least("variance_samples", variance_samples, 0)
        check_at_least("variance_radius", variance_radius, 0.0)
        if not 0.0 <= diversity <= 1.0:
            raise ArgumentError(f"`diversity` is a probability in [0, 1]; got {diversity}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ArgumentError(f"`kernel_size` is odd and at least 1; got {kernel_size}")
        self.steps, self.step_size, self.momentum, self.lookahead = steps, step_size, momentum, lookahead
        self.scale_copies, self.diversity, self.kernel_size = scale_copies, diversity, kernel_size
        self.variance_samples, self.variance_radius = variance_samples, variance_radius
        radius = variance_radius * threat.epsilon
        # In linf, a change of 1 already reaches every value that a pixel can have.
        self._neighborhood = ThreatModel(threat.norm, min(radius, 1.0) if threat.norm == "linf" else radius)

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Take every step; return the last iterate."""
        if self.keep_best and self.diversity > 0.0:
            probe.values(images)  # every gradient looks at changed images, the first one too
        current, velocity, variance = images, torch.zeros_like(images), torch.zeros_like(images)
        for step in range(1, self.steps + 1):
            place = self._place_ahead(current, velocity, images) if self.lookahead else current
            gradient = self._gradient(probe, place, generator)
            tuned = blur_gradient(gradient + variance, kernel_size=self.kernel_size)
            velocity = self.momentum * velocity + normalize_gradient(tuned)
            current = self.threat.project(self.threat.descend(current, velocity, self.step_size), images)
            if self.variance_samples and step < self.steps:
                variance = self._neighbor_gradient(probe, place, images, generator) - gradient
        if self.keep_best:
            probe.values(current)
        return current

    def _place_ahead(self, current: Tensor, velocity: Tensor, images: Tensor) -> Tensor:
        """Return where momentum alone would lead, projected."""
        reach = self.momentum * self.step_size
        # The entries of a velocity are near 1, so that in linf it is a step already; its l2 length is none.
        linf = self._neighborhood.norm == "linf"
        moved = current - reach * velocity if linf else self.threat.descend(current, velocity, reach)
        return self.threat.project(moved, images)

    def _gradient(self, probe: Probe, places: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean gradient over the scale copies, each of them seen with input diversity."""
        total = torch.zeros_like(places)
        for copy in range(self.scale_copies):
            total = total + probe.gradient(places, transform=self._transform(copy, generator))[1]
        return total / self.scale_copies

    def _transform(self, copy: int, generator: torch.Generator) -> Transform | None:
        """Return how the model sees a scale copy; None where it sees the images as they are."""
        if self.diversity > 0.0:
            return lambda images: shrink_randomly(images / 2**copy, probability=self.diversity, generator=generator)
        return (lambda images: images / 2**copy) if copy else None

    def _neighbor_gradient(self, probe: Probe, places: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean gradient over random neighbors, projected."""
        total = torch.zeros_like(places)
        for _ in range(self.variance_samples):
            neighbors = self._neighborhood.random_start(places, generator=generator)
            total = total + self._gradient(probe, self.threat.project(neighbors, images), generator)
        return total / self.variance_samples
