"""Searches that see values only, never a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saat.attacks.base import Attack, Probe
from saat.attacks.threat import Threat, ThreatModel
from saat.errors import check_at_least

INITIAL_SHARES: Mapping[str, float] = {"linf": 0.8, "l2": 0.1}
"""Norm -> share of pixels in the first squares: of linf AutoAttack's (Croce, Hein, ICML 2020), of l2 the paper's."""

# Moves, of 10,000, after which the share is halved: those of the authors' experiments.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # the l2 search starts from a grid of 5 x 5 tiles

Window = tuple[Tensor, Tensor, Tensor, Tensor]
"""An index of (B, 3, H, W): the same channels, and a square at a place of its own in each image."""


class SquareAttack(Attack):
    """Random search with square changes, at the edge of the ball: each is kept where it lowers the objective.

    Andriushchenko, Croce, Flammarion, Hein, *Square Attack: a Query-Efficient Black-Box Adversarial Attack via Random
    Search*, ECCV 2020. linf: from vertical stripes, a square takes one of the two extreme changes in each channel.
    l2: from a grid of tiles, the length of the change inside two windows, and what is left of the radius, moves into
    the first window. Squares shrink over the search (`square_share`).
    *Differs from the paper*: all queries are used, since hashing knows no moment of success; the clean image is one,
    beside the look that its goal may take. A square that would change nothing is a query too; the authors' code draws
    it again.

    Args:
        threat: how far images may move.
        queries: evaluations of the model for each image, at least 2: the clean image, the start, and the moves.
        precision: of the search; see `runtime.autocast`.

    Raises:
        ArgumentError: there are fewer than 2 queries.
    """

    def __init__(self, threat: ThreatModel, *, queries: int = 1000, precision: str = "float32") -> None:
        super().__init__(threat, precision=precision)
        check_at_least("queries", queries, 2)
        self.norm, self.epsilon = threat.norm, threat.epsilon
        self.queries = queries

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Search from one start; return the last accepted images."""
        probe.values(images)  # so that no start can end worse than the clean image
        start, move = (_stripes, _move_linf) if self.norm == "linf" else (_tiles, _move_l2)
        current = self.threat.project(images + start(images, self.epsilon, generator), images)
        values = probe.values(current)
        moves = self.queries - 2
        for number in range(moves):
            share = square_share(number, moves=moves, initial=INITIAL_SHARES[self.norm])
            proposal = self.threat.project(move(current, images, self.epsilon, share, generator), images)
            proposed = probe.values(proposal)
            better = proposed < values
            values = torch.where(better, proposed, values)
            current = torch.where(better.view(-1, 1, 1, 1), proposal, current)
        return current


class NesAttack(Attack):
    """Projected descent along a gradient estimated from values.

    Ilyas, Engstrom, Athalye, Lin, *Black-box Adversarial Attacks with Limited Queries and Information*, ICML 2018.
    With normal directions u: the mean of (f(x + sigma u) - f(x - sigma u)) u / (2 sigma).
    *Differs from the paper*: both points are projected before they are looked at, since they may be returned.

    Args:
        threat: how far images may move.
        steps: steps, at least 1.
        step_size: length of a step, in pixel units and the threat's norm.
        samples: directions for each gradient, at least 1; each is looked at from both sides.
        sigma: deviation of a direction, in pixel units; larger for an objective with steps.
        precision: of the search; see `runtime.autocast`.

    Raises:
        ArgumentError: a count is below 1, the step size negative, or sigma not above 0.
    """

    def __init__(
        self,
        threat: Threat,
        *,
        steps: int = 100,
        step_size: float = 1 / 255,
        samples: int = 25,
        sigma: float = 0.001,
        precision: str = "float32",
    ) -> None:
        super().__init__(threat, precision=precision)
        check_at_least("steps", steps, 1)
        check_at_least("step_size", step_size, 0.0)
        check_at_least("samples", samples, 1)
        check_at_least("sigma", sigma, 1e-6)  # below, float32 images do not move
        self.steps, self.step_size = steps, step_size
        self.samples, self.sigma = samples, sigma

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Step from the clean images; return the last iterate."""
        probe.values(images)
        current = images
        for _ in range(self.steps):
            gradient = self._estimate(probe, current, images, generator)
            current = self.threat.project(self.threat.descend(current, gradient, self.step_size), images)
            probe.values(current)
        return current

    def _estimate(self, probe: Probe, current: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        total = torch.zeros_like(current)
        for _ in range(self.samples):
            direction = torch.empty_like(current).normal_(generator=generator)
            ahead, behind = (
                probe.values(self.threat.project(current + sign * self.sigma * direction, images)) for sign in (1, -1)
            )
            total += (ahead - behind).view(-1, 1, 1, 1) * direction
        return total / (2 * self.sigma * self.samples)


def square_share(number: int, *, moves: int, initial: float) -> float:
    """Return the share of the pixels in a square at a move: the paper's schedule for 10,000, scaled to `moves`.

    >>> [square_share(number, moves=10_000, initial=0.8) for number in (0, 10, 11, 51, 9_999)]
    [0.8, 0.8, 0.4, 0.2, 0.0015625]
    """
    scaled = number * 10_000 / moves
    return initial / float(2 ** sum(scaled > halving for halving in HALVINGS))


def _stripes(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return vertical stripes, one pixel wide, of +epsilon or -epsilon in each channel."""
    batch, channels, _, width = images.shape
    return (epsilon * _signs((batch, channels, 1, width), images, generator)).expand_as(images)


def _move_linf(current: Tensor, clean: Tensor, epsilon: float, share: float, generator: torch.Generator) -> Tensor:
    """Return images with one square in each moved by +epsilon or -epsilon from the clean image, by channel."""
    batch, channels, height, width = clean.shape
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    window = _window(clean, side, generator)
    moved = current.clone()
    moved[window] = clean[window] + epsilon * _signs((batch, channels, 1, 1), clean, generator)
    return moved


def _tiles(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return a change of length epsilon: a grid of tiles of two bumps, turned and, by channel, signed at random."""
    batch, channels, height, width = images.shape
    count = min(TILES, height, width)
    side = min(height, width) // count
    signs = _signs((batch, channels, count, count), images, generator)
    bumps = two_bumps(side).to(images.device)
    upright = torch.randint(0, 2, (batch, 1, count, count), generator=generator, device=images.device)
    grid = torch.kron(signs * upright, bumps) + torch.kron(signs * (1 - upright), bumps.T.contiguous())
    change = torch.zeros_like(images)
    top, left = (height - count * side) // 2, (width - count * side) // 2
    change[:, :, top : top + count * side, left : left + count * side] = grid
    length: Tensor = torch.linalg.vector_norm(grid, dim=(1, 2, 3), keepdim=True)
    return epsilon * change / length


def _move_l2(current: Tensor, clean: Tensor, epsilon: float, share: float, generator: torch.Generator) -> Tensor:
    """Return images whose change has moved from two windows into the first, and has grown to the whole radius."""
    batch, channels, height, width = clean.shape
    side = min(max(round((share * height * width) ** 0.5), 3) // 2 * 2 + 1, height, width)  # odd, from 3 on
    first, second = (_window(clean, side, generator) for _ in range(2))
    bumps = two_bumps(side).to(clean.device)
    upright = torch.randint(0, 2, (batch, 1, 1, 1), generator=generator, device=clean.device).bool()
    shape = torch.where(upright, bumps, bumps.T) * _signs((batch, channels, 1, 1), clean, generator)

    change = current - clean
    kept = change.clone()
    kept[first], kept[second] = 0.0, 0.0
    lengths, kept_lengths = _channel_norms(change), _channel_norms(kept)
    unused = (epsilon**2 - lengths.square().sum(1, keepdim=True)).clamp(min=0.0)
    available = (lengths.square() - kept_lengths.square()).clamp(min=0.0) + unused / channels
    shape = shape + change[first] / _channel_norms(change[first]).clamp(min=1e-12)
    kept[first] = available.sqrt() * shape / _channel_norms(shape).clamp(min=1e-12)
    return clean + kept


def two_bumps(side: int) -> Tensor:
    """Return a pattern (side, side) of length 1: a bump beside an equal negative one, each falling in rings.

    Ring d of a bump whose longer side is L has the value sum of 1 / j^2 for j from d + 1 to L // 2 + 1, over the
    length of the bump.

    >>> two_bumps(2) * 2  # d is 1, 0 from top to bottom: 1 / 4 and 1 + 1 / 4, over the root of 13 / 4, twice
    tensor([[ 0.2774, -0.2774],
            [ 1.3868, -1.3868]])
    """
    pattern = torch.cat([_bump(side, side // 2), -_bump(side, side - side // 2)], dim=1)
    length: Tensor = torch.linalg.vector_norm(pattern)
    return pattern / length


def _bump(height: int, width: int) -> Tensor:
    """Return a bump (height, width) of length 1 that is highest in the middle; the height is the longer side."""
    rows, columns = (torch.arange(length).sub(length // 2).abs() for length in (height, width))
    rings = torch.maximum(rows.view(-1, 1), columns.view(1, -1))
    inverse_squares = torch.arange(1, height // 2 + 2, dtype=torch.float32) ** -2
    bump = inverse_squares.flip(0).cumsum(0).flip(0)[rings]
    length: Tensor = torch.linalg.vector_norm(bump)
    return bump / length


def _channel_norms(change: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(change, dim=(2, 3), keepdim=True)
    return norms


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2.0 - 1.0


def _window(images: Tensor, side: int, generator: torch.Generator) -> Window:
    """Return the index of a square of `side` pixels at a random place of its own in each image."""
    batch, channels, height, width = images.shape
    device = images.device
    offsets = torch.arange(side, device=device)
    top, left = (
        torch.randint(0, length - side + 1, (batch, 1, 1, 1), generator=generator, device=device)
        for length in (height, width)
    )
    return (
        torch.arange(batch, device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        top + offsets.view(1, 1, -1, 1),
        left + offsets.view(1, 1, 1, -1),
    )
