"""What both libraries and ours attack: a small net in eval mode, with codes to leave."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.hamming import sign_codes

BATCH, SIDE, CODE_LENGTH = 16, 16, 24


@dataclass(frozen=True)
class Subject:
    """A net, images and the mainstay codes of their labels, float (B, K)."""

    model: nn.Module
    images: Tensor
    mainstay: Tensor


@pytest.fixture(scope="session")
def subject() -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3)),
        *(nn.Flatten(), nn.Linear(216, CODE_LENGTH)),
    )
    model(torch.rand(64, 3, SIDE, SIDE))  # batch statistics that are not those of a new layer
    model.eval()
    with torch.no_grad():
        logits = model(torch.rand(64, 3, SIDE, SIDE))
        model[-1].bias.sub_(logits.mean(0))
        for weight in model[-1].parameters():
            weight.div_(logits.std(0).mean())  # logits of about 1 around 0: images matter, and tanh bends
        train = sign_codes(model(torch.rand(40, 3, SIDE, SIDE)))
    labels = torch.eye(4).repeat(BATCH // 4, 1)
    mainstay = mainstay_codes(CodeBank(train, torch.eye(4).repeat(10, 1)), labels)
    return Subject(model, torch.rand(BATCH, 3, SIDE, SIDE), mainstay.float())
