import pytest
import torch
from torch import Tensor, nn

from saat.attacks.autopgd import APGD, checkpoints
from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError

THREATS = {"linf": ThreatModel("linf", 0.25), "l2": ThreatModel("l2", 0.5)}


def first_pixel() -> nn.Module:
    """One logit: the value of the first of three pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0, 0.0]])
    return model


def wide_model(scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8, bias=False))
    model[1].weight.data = scale * torch.randn(8, 48, generator=torch.Generator().manual_seed(0))
    return model


def pictures(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_checkpoints_come_in_ever_shorter_intervals():
    # Shares 0.22, 0.41 (+ 0.19), 0.57 (+ 0.16), 0.70, 0.80, 0.87, 0.93 (+ 0.06 at the least), 0.99, rounded up.
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(5) == [2, 3, 4]  # 1.1, 2.05, 2.85, 3.5, 4.0, then 4.35: each step at most once
    assert checkpoints(2) == [1]
    assert checkpoints(1) == []


def test_a_search_by_hand():
    """|x - 0.45| from 0.5 within 0.25: steps of 0.5 leap over the valley, and are halved at steps 2 and 3.

    1: 0.5 - 0.5 is cut to 0.25, without momentum.
    2: aims at 0.75: 0.25 + 0.75 * 0.5 + 0.25 * (0.25 - 0.5) = 0.5625. One of two steps improved: halve, back to 0.5.
    3: aims at 0.25: 0.5 - 0.75 * 0.25 + 0.25 * (0.5 - 0.25) = 0.375, worse than 0.5: halve, back to 0.5.
    4: aims at 0.375: 0.5 - 0.75 * 0.125 + 0.25 * (0.5 - 0.5) = 0.40625, better than 0.5: goes on.
    5: aims at 0.53125: 0.40625 + 0.75 * 0.125 + 0.25 * (0.40625 - 0.5) = 0.4765625, the best.
    """
    seen = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.item())
        return (logits - 0.45).abs()[:, 0]

    clean = torch.full((1, 3, 1, 1), 0.5)
    found = APGD(THREATS["linf"], steps=5, start=clean)(first_pixel(), clean, objective)
    assert seen == pytest.approx([0.5, 0.5, 0.25, 0.5625, 0.375, 0.40625, 0.4765625])
    assert found.flatten().tolist() == pytest.approx([0.4765625, 0.5, 0.5])


def test_progress_without_a_new_best_halves_the_step_image_by_image(monkeypatch):
    """With 22 steps the first checkpoints are 5 (4.84) and 10 (9.02).

    Image 0 improves in steps 1 to 5; then it leaps up and improves in four of five, enough, but not to a new best.
    Image 1 improves always, and keeps its step. So does image 2: it leaps up first, which the first checkpoint
    forgives, since four of its five steps improve, and comes to a new best before the second.
    """
    sizes: list[list[float]] = []
    descend = ThreatModel.descend

    def spy(self: ThreatModel, perturbed: Tensor, gradient: Tensor, step_size: Tensor) -> Tensor:
        sizes.append(step_size.flatten().tolist())
        return descend(self, perturbed, gradient, step_size)

    monkeypatch.setattr(ThreatModel, "descend", spy)
    falling = [float(-step) for step in range(22)]
    stuck = [10.0, 9, 8, 7, 6, 5, 20, 19, 18, 17, 16] + [50.0] * 11
    leaping = [10.0, 20, 19, 18, 17, 16] + [step - 20 for step in falling[6:]]
    scripts = iter(zip(stuck, falling, leaping, strict=True))

    def objective(logits: Tensor) -> Tensor:
        if not logits.requires_grad:
            return torch.full((3,), 99.0)
        return torch.tensor(next(scripts)) + (logits - logits.detach())[:, 0]

    APGD(THREATS["linf"], steps=22)(first_pixel(), torch.full((3, 3, 1, 1), 0.5), objective)
    assert [size[0] for size in sizes[:13]] == [0.5] * 10 + [0.25] * 3
    assert [size[1] for size in sizes] == [size[2] for size in sizes] == [0.5] * 22


@pytest.mark.parametrize("norm", THREATS)
def test_a_linear_objective_reaches_the_edge_of_the_ball(norm):
    model, clean, threat = wide_model(), 0.4 + 0.2 * pictures(), THREATS[norm]
    total = lambda logits: logits.sum(1)  # noqa: E731
    found = APGD(threat, steps=20)(model, clean, total)
    weight = model[1].weight.detach().sum(0).view(1, 3, 4, 4)
    best = threat.epsilon * (weight.abs().sum() if norm == "linf" else weight.norm())
    with torch.no_grad():
        gain = total(model(clean)) - total(model(found))
    assert gain.tolist() == pytest.approx([best.item()] * 4, rel=1e-3)  # the box [0, 1] bounds nothing here


@pytest.mark.parametrize("norm", THREATS)
def test_it_is_never_worse_than_the_clean_image_or_the_start(norm):
    model, clean, threat = wide_model(5.0), pictures(), THREATS[norm]
    with torch.no_grad():
        aim = model(clean)
    objective = lambda logits: (logits - aim).square().sum(1)  # noqa: E731  # the clean image cannot be beaten
    assert torch.equal(APGD(threat, steps=4)(model, clean, objective), clean)
    start = threat.random_start(clean, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        aim = model(start)
    found = APGD(threat, steps=4, start=start)(model, clean, objective)
    assert torch.allclose(found, start, atol=1e-6)


def test_a_start_outside_the_ball_is_projected_and_restarts_begin_elsewhere():
    clean, seen = torch.full((1, 3, 1, 1), 0.5), []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.item())
        return 0.0 * logits[:, 0]

    APGD(THREATS["linf"], steps=1, restarts=3, start=torch.ones_like(clean))(first_pixel(), clean, objective)
    assert len(seen) == 1 + 3 * 2
    assert seen[:2] == [0.5, 0.75]
    assert len({seen[1], seen[3], seen[5]}) == 3
    assert all(0.25 <= value <= 0.75 for value in seen)


def test_the_start_is_for_a_batch_of_its_size():
    attack = APGD(THREATS["linf"], steps=1, start=pictures(3))
    with pytest.raises(ArgumentError, match=r"`start` has the shape of the images, \(4, 3, 4, 4\); got \(3, 3, 4, 4\)"):
        attack(wide_model(), pictures(4), lambda logits: logits.sum(1))


def test_bad_options_are_named():
    for name in ("steps", "restarts"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 1; got 0"):
            APGD(THREATS["linf"], **{name: 0})
