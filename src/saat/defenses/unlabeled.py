"""Images without labels in training: the images of the database, with the labels that a model would give them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.data.splits import ImageSplit
from saat.errors import ArgumentError
from saat.types import has_label


def pseudo_labels(bank: CodeBank, logits: Tensor) -> Tensor:
    """Return for each image the label set of the bank whose mainstay code its logits are nearest to.

    Lee, *Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks*, ICML 2013
    workshop; for robustness, Carmon et al., *Unlabeled Data Improves Adversarial Robustness*, NeurIPS 2019. Nearest is
    the largest inner product of logits and code, in which sure bits weigh more; the first set wins a tie.

    Args:
        bank: codes and labels of the train split under the model.
        logits: float (N, K), of the images without labels under the same model.

    Returns:
        uint8 (N, C) multi-hot on the device of the logits; no label anywhere if the bank has none.

    >>> bank = CodeBank(torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8), torch.tensor([[1, 0], [0, 1]]))
    >>> pseudo_labels(bank, torch.tensor([[2.0, -1.0], [0.5, -3.0]])).tolist()  # 1 and -1; -2.5 and 2.5
    [[1, 0], [0, 1]]
    """
    sets = bank.set_labels[has_label(bank.set_labels)]
    if not len(sets):
        return torch.zeros(len(logits), bank.set_labels.shape[1], dtype=torch.uint8, device=logits.device)
    codes = mainstay_codes(bank, sets).to(logits)
    labels: Tensor = sets[(logits @ codes.T).argmax(1).to(sets.device)]
    return labels.to(logits.device, torch.uint8)


def unlabeled_images(database: ImageSplit, train: ImageSplit) -> ImageSplit:
    """Return the database images whose content is not in `train`, without their labels.

    Raises:
        ArgumentError: there is none.
    """
    known = set(train.digests)
    rows = [row for row, digest in enumerate(database.digests) if digest not in known]
    if not rows:
        raise ArgumentError("`unlabeled` needs database images that are not in the train split; got none")
    return ImageSplit(
        name=database.name,
        images=database.images[rows],
        labels=torch.zeros(len(rows), database.labels.shape[1], dtype=torch.uint8),
        item_names=tuple(database.item_names[row] for row in rows),
        digests=tuple(database.digests[row] for row in rows),
    )


def join_splits(first: ImageSplit, second: ImageSplit) -> ImageSplit:
    """Return the items of `first`, then those of `second`, under the name of `first`."""
    return replace(
        first,
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
        item_names=first.item_names + second.item_names,
        digests=first.digests + second.digests,
    )
