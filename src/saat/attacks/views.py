"""Views: modules that stand in place of the model, so that any search attacks several, or one from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saat.attacks.base import evaluations_an_image
from saat.attacks.goals import clean_logits_of
from saat.errors import ArgumentError, check_at_least
from saat.hamming import hamming_distances, sign_codes
from saat.runtime import derive_seed, make_generator
from saat.types import CodeObjective

MAX_ID = 2**24  # float32, in which objectives see ids, holds every integer up to here


class EnsembleView(nn.Module):
    """Several models at once: images (B, 3, H, W) -> their logits side by side, (B, sum of K).

    Liu, Chen, Liu, Song, *Delving into Transferable Adversarial Examples and Black-box Attacks*, ICLR 2017.
    *Differs from the paper*: objectives are summed (`split_objective`), not probabilities averaged, since code lengths
    may differ.

    Args:
        models: images -> logits, one or more.

    Raises:
        ArgumentError: there is no model.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ArgumentError("`models` holds at least one model; got none")
        self.models = nn.ModuleList(models)

    @property
    def evaluations_an_image(self) -> int:
        """How many images the models see for one."""
        return sum(map(evaluations_an_image, self.models))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, sum of K)."""
        return torch.cat([model(images) for model in self.models], dim=1)


def split_objective(objectives: Sequence[CodeObjective], lengths: Sequence[int]) -> CodeObjective:
    """Return the objective of an `EnsembleView`: the sum of each model's objective on its own part of the logits.

    Args:
        objectives: one a model, made with that model.
        lengths: the code length of each model.

    Raises:
        ArgumentError: there are not as many lengths as objectives; later, the logits have another length in all.

    >>> both = split_objective([lambda logits: logits.sum(1), lambda logits: logits.amax(1)], [1, 2])
    >>> both(torch.tensor([[5.0, 1.0, 2.0]]))  # 5 + 2
    tensor([7.])
    """
    if not objectives or len(objectives) != len(lengths):
        raise ArgumentError(f"`lengths` has one entry an objective; got {len(lengths)} for {len(objectives)}")

    def objective(logits: Tensor) -> Tensor:
        if logits.shape[1] != sum(lengths):
            raise ArgumentError(f"`lengths` sum to the logits of the ensemble, {logits.shape[1]}; got {list(lengths)}")
        parts = torch.split(logits, list(lengths), dim=1)
        return torch.stack([each(part) for each, part in zip(objectives, parts, strict=True)]).sum(0)

    return objective


class SearchView(nn.Module):
    """A search service seen from outside: images (B, 3, H, W) -> the ids it returns, (B, k) float64, no gradient.

    `Probe` hands float32 to objectives, which is exact for ids up to 2^24: number a larger collection anew, from 0.

    Args:
        search: images -> integer ids (B, k), best first; -1 pads.
    """

    def __init__(self, search: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.search = search

    def forward(self, images: Tensor) -> Tensor:
        """Search for images (B, 3, H, W) in [0, 1].

        Raises:
            ArgumentError: the service returns no integers (B, k), or an id beyond 2^24.
        """
        ids = self.search(images.detach())
        if ids.ndim != 2 or len(ids) != len(images) or ids.is_floating_point():
            raise ArgumentError(f"`search` returns integer ids ({len(images)}, k); got {ids.dtype} {tuple(ids.shape)}")
        if ids.numel() and int(ids.abs().max()) > MAX_ID:
            raise ArgumentError(f"`search` returns ids of at most {MAX_ID}; got {int(ids.abs().max())}")
        return ids.double()


def nearest_ids(model: nn.Module, database: Tensor, *, k: int) -> Callable[[Tensor], Tensor]:
    """Return the search of a service: images (B, 3, H, W) -> the rows of the k nearest codes, equal ones by row.

    Args:
        model: images -> logits (B, K).
        database: int8 (N, K) in {-1, +1}.
        k: how many rows a search returns, at most N of them.
    """
    rows = torch.arange(len(database), device=database.device)

    def search(images: Tensor) -> Tensor:
        distances = hamming_distances(sign_codes(model(images)), database)
        order = distances.long() * len(database) + rows  # one number that sorts by distance, then by row
        return order.topk(min(k, len(database)), dim=1, largest=False).values % len(database)

    return search


def returned_share(clean_ids: Tensor, ids: Tensor) -> Tensor:
    """Return how much of the clean result is still returned, weighted by rank.

    With the discount d(r) = 1 / log2(r + 2) of rank r from 0: the sum of d(r) d(r') over the clean ids at rank r that
    are found at rank r', over the sum of d(r)^2. 1 for the same result, 0 for a disjoint one, and between them for
    the same ids in another order.

    Args:
        clean_ids: (B, k), best first; -1 pads.
        ids: (B, k'), best first; -1 pads.

    Returns:
        float32 (B,) in [0, 1].

    >>> clean = torch.tensor([[7, 8]])  # discounts 1 and 1 / log2(3) = 0.6309
    >>> returned_share(clean, torch.tensor([[9, 7]]))  # 1 * 0.6309 / (1 + 0.6309^2)
    tensor([0.4513])
    """
    discounts, new_discounts = (
        1.0 / torch.log2(torch.arange(part.shape[1], device=part.device, dtype=torch.float32) + 2.0)
        for part in (clean_ids, ids)
    )
    weights = discounts * (clean_ids >= 0)
    again = (clean_ids.unsqueeze(2) == ids.unsqueeze(1)).float()
    kept = (weights * (again @ new_discounts)).sum(1)
    return kept / weights.square().sum(1).clamp(min=1e-12)


@dataclass(frozen=True)
class ReturnedIdsGoal:
    """Away from the result of the clean image, for a `SearchView`: a decision-based goal that sees ids only.

    Li et al., *QAIR: Practical Query-efficient Black-Box Attacks for Image Retrieval*, CVPR 2021.
    *Differs from the paper*: the overlap of the two results is weighted as in `returned_share`; no substitute model is
    stolen, so that any search on values serves.
    """

    targeted = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:  # noqa: ARG002
        """Return the objective of images (B, 3, H, W), with `model` a `SearchView`; labels take no part."""
        clean_ids = clean_logits_of(model, images)
        return lambda ids: returned_share(clean_ids, ids)


class BpdaView(nn.Module):
    """A model behind a preprocessing that has no useful gradient: exact forward, a stand-in backward.

    Athalye, Carlini, Wagner, *Obfuscated Gradients Give a False Sense of Security: Circumventing Defenses to
    Adversarial Examples*, ICML 2018: backward pass differentiable approximation.

    Args:
        model: preprocessed images -> logits.
        preprocess: images -> preprocessed images; it runs without a graph.
        stand_in: a differentiable map of the same shapes whose gradient is used in its place; the identity if None.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Tensor], Tensor],
        *,
        stand_in: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.preprocess, self.stand_in = model, preprocess, stand_in

    @property
    def evaluations_an_image(self) -> int:
        """How many images the model sees for one."""
        return evaluations_an_image(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, K).

        Raises:
            ArgumentError: `preprocess` and its stand-in return different shapes.
        """
        with torch.no_grad():
            exact = self.preprocess(images)
        soft = images if self.stand_in is None else self.stand_in(images)
        if exact.shape != soft.shape:
            raise ArgumentError(
                f"`stand_in` (or the identity) and `preprocess` return the same shape; "
                f"got {tuple(soft.shape)} and {tuple(exact.shape)}"
            )
        logits: Tensor = self.model(_ExactForward.apply(exact, soft))
        return logits


class _ExactForward(torch.autograd.Function):
    """The first tensor forward, the gradient of the second backward."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, soft: Tensor) -> Tensor:  # noqa: ARG004
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        return None, gradients[0]


class EotView(nn.Module):
    """The expectation of a model over random transforms of its images: mean logits over draws.

    Athalye, Engstrom, Ilyas, Kwok, *Synthesizing Robust Adversarial Examples*, ICML 2018.
    *Differs from the paper*: the mean is of logits, not of the objective, since an objective sees one code an image.
    Every pass draws anew; the passes of a new view follow from its seed. `SearchCost` counts every draw.

    Args:
        model: images -> logits.
        transform: (images, generator) -> images, differentiable, that draws from the generator only.
        samples: draws in each pass, at least 1.
        seed: of all draws.

    Raises:
        ArgumentError: there are fewer than 1 samples.
    """

    def __init__(
        self,
        model: nn.Module,
        transform: Callable[[Tensor, torch.Generator], Tensor],
        *,
        samples: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_at_least("samples", samples, 1)
        self.model, self.transform = model, transform
        self.samples, self.seed = samples, seed
        self.passes = 0

    @property
    def evaluations_an_image(self) -> int:
        """How many images the model sees for one."""
        return self.samples * evaluations_an_image(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to mean logits (B, K)."""
        generator = make_generator(self.seed, "EotView", self.passes, device=images.device)
        self.passes += 1
        draws = [self.model(self.transform(images, generator)) for _ in range(self.samples)]
        return torch.stack(draws).mean(0)


def restart_draws(model: nn.Module, *parts: int | str) -> None:
    """Let every `EotView` in `model` draw from now on as a new one does whose seed follows from `parts`."""
    for module in model.modules():
        if isinstance(module, EotView):
            module.seed, module.passes = derive_seed(*parts), 0
