"""What the report of an attack says of its queries: of those that were attacked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saat.recipes.outcome import Outcome, encode_subject, measure
from saat.recipes.subject import load_subject


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("targeted", [False, True])
def test_what_the_attack_changed_is_measured_on_queries_that_were_attacked(
    targeted: bool, tiny: Path, tmp_path: Path
) -> None:
    subject = load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True)
    query = subject.splits.query
    spared = torch.arange(len(query)) < 15
    targets = query.labels.clone() if targeted else None
    (query.labels if targets is None else targets)[spared] = 0
    codes = encode_subject(subject, quiet=True)
    clean = codes.query_logits.sign().to(torch.int8)
    clean[clean == 0] = 1
    attacked, images = clean.clone(), query.images.float() / 255
    attacked[~spared] *= -1
    images[~spared] = 1 - images[~spared]
    outcome = Outcome(subject, codes, images, attacked, targets)
    before, after = (measure(subject, codes, each) for each in (clean, attacked))
    report = outcome.write(tmp_path, name="a", attack={}, flags=[], seed=0, clean=before, attacked=after)
    assert report["bit_flip_rate"] == 1.0
    assert report["bit_flip_rate_interval"] == [1.0, 1.0]
    ours = clean[~spared]
    pairs = [(ours[a] != ours[b]).double().mean() for a in range(5) for b in range(a)]
    assert report["bit_flip_rate_chance"] == pytest.approx(sum(pairs).item() / 10)
    assert report["change"]["l2"] == pytest.approx((2 * images[~spared] - 1).flatten(1).norm(dim=1).mean().item())
