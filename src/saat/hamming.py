"""Codes as torch tensors: signs of logits, their smooth relaxation, and exact Hamming distances."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.errors import ArgumentError


def sign_codes(logits: Tensor) -> Tensor:
    """Return the code of each row of logits: +1 where the logit is at least 0, else -1.

    `torch.sign` has a third value, 0, which is no bit; here sign(0) = +1.

    Args:
        logits: float (B, K).

    Returns:
        int8 (B, K) in {-1, +1}.

    >>> sign_codes(torch.tensor([[0.3, -2.0, 0.0]])).tolist()
    [[1, -1, 1]]
    """
    return (logits >= 0).to(torch.int8).mul_(2).sub_(1)


def relaxed_codes(logits: Tensor, sharpness: float = 1.0) -> Tensor:
    """Return tanh(sharpness * logits), the differentiable stand-in for the codes.

    In float32 its gradient is exactly zero where |sharpness * logit| is beyond about 9.5.

    Args:
        logits: float (B, K).
        sharpness: the slope of the tanh; larger is nearer to the sign.

    Returns:
        float (B, K) in [-1, 1].

    >>> relaxed_codes(torch.tensor([[0.0, 50.0]]), sharpness=0.5).tolist()
    [[0.0, 1.0]]
    """
    return torch.tanh(sharpness * logits)


def logit_scale(logits: Tensor) -> Tensor:
    """Return the mean absolute logit of each row of logits (B, K), float (B, 1), at least 1e-12 to divide by.

    >>> logit_scale(torch.tensor([[1.0, -3.0]])).tolist()
    [[2.0]]
    """
    return logits.abs().mean(1, keepdim=True).clamp(min=1e-12)


def hamming_distances(codes_a: Tensor, codes_b: Tensor) -> Tensor:
    """Return the exact number of differing bits between each two rows.

    The distance is (K - a . b) / 2. The matrix product runs in float32, which is exact up to K = 2^24.

    Args:
        codes_a: int8 (B, K) in {-1, +1}.
        codes_b: int8 (N, K) in {-1, +1}.

    Returns:
        int16 (B, N) in [0, K].

    Raises:
        TypeError: a code tensor is not int8.
        ArgumentError: the shapes are not (B, K) and (N, K), or K does not fit in int16.

    >>> a = torch.tensor([[1, 1, -1]], dtype=torch.int8)
    >>> hamming_distances(a, torch.tensor([[1, 1, -1], [1, -1, 1]], dtype=torch.int8)).tolist()
    [[0, 2]]
    """
    check_codes("codes_a", codes_a)
    check_codes("codes_b", codes_b)
    code_length = codes_a.shape[1]
    if codes_b.shape[1] != code_length:
        raise ArgumentError(
            f"`codes_a` and `codes_b` have the same code length; got {code_length} and {codes_b.shape[1]}"
        )
    if code_length > torch.iinfo(torch.int16).max:
        raise ArgumentError(f"the code length is at most {torch.iinfo(torch.int16).max}; got {code_length}")
    products = codes_a.float() @ codes_b.float().T
    return products.neg_().add_(code_length).mul_(0.5).to(torch.int16)


def check_codes(name: str, codes: Tensor) -> None:
    """Raise unless `codes` is an int8 matrix; its values, {-1, +1}, are the caller's promise.

    Raises:
        TypeError: `codes` is not int8.
        ArgumentError: `codes` has not two dimensions.
    """
    if codes.dtype != torch.int8:
        raise TypeError(f"`{name}` is int8 in {{-1, +1}}; got {codes.dtype} (make codes with sign_codes)")
    if codes.ndim != 2:
        raise ArgumentError(f"`{name}` has shape (rows, code_length); got {tuple(codes.shape)}")
