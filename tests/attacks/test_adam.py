import pytest
import torch
from torch import Tensor, nn

from saat.attacks.adam import AdamSearch
from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError

THREATS = {"linf": ThreatModel("linf", 8 / 255), "l2": ThreatModel("l2", 0.5)}


def linear_model(pixels: int, code_length: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, code_length))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    return model


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def mean_relaxed(logits: Tensor) -> Tensor:
    return logits.tanh().mean(1)


def test_two_steps_by_hand():
    """Gradients 4 and then -1 in the first pixel, with betas 0.5 and 0.75.

    m = 2, over 1 - 0.5: 4; s = 4, over 1 - 0.75: 16; the step is -0.01 * 4 / 4. Then m = 1 - 0.5 = 0.5, over 1 - 0.25:
    2/3; s = 3 + 0.25 = 3.25, over 1 - 0.5625: 7.428571; the step is -0.01 * 0.666667 / 2.725540 = -0.002446.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0, 0.0]])
    turning = lambda logits: (torch.where(logits.detach() > 0.495, 4.0, -1.0) * logits)[:, 0]  # noqa: E731
    clean = torch.full((1, 3, 1, 1), 0.5)
    for steps, expected in ((1, 0.49), (2, 0.487554)):
        attack = AdamSearch(ThreatModel("linf", 0.25), steps=steps, betas=(0.5, 0.75), keep_best=False)
        found = attack(model, clean, turning).flatten().tolist()
        assert found == pytest.approx([expected, 0.5, 0.5], abs=1e-6)


def test_without_a_bound_it_is_the_adam_of_torch():
    clean, model = 0.4 + 0.2 * images(), linear_model(48, 16)
    pixels = clean.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.01, betas=(0.9, 0.999))
    for _ in range(20):
        optimizer.zero_grad()
        mean_relaxed(model(pixels)).sum().backward()
        optimizer.step()
    pixels = pixels.detach()
    assert float(pixels.min()) > 0  # the box [0, 1] bounds nothing here
    assert float(pixels.max()) < 1
    found = AdamSearch(ThreatModel("linf", 1.0), steps=20, keep_best=False)(model, clean, mean_relaxed)
    assert torch.allclose(found, pixels, atol=1e-5)
    assert float((found - clean).abs().max()) > 0.1


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("norm", THREATS)
def test_it_keeps_the_promises_of_an_attack(norm, keep_best):
    model, clean, threat = linear_model(48, 16), images(), THREATS[norm]
    state = [weight.clone() for weight in model.parameters()]
    random_state = torch.get_rng_state()
    attack = AdamSearch(threat, steps=10, keep_best=keep_best)
    found = attack(model, clean, mean_relaxed)
    assert not bool((threat.violation(found, clean) > 0).any())
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(found, attack(model, clean, mean_relaxed, seed=1))  # nothing is drawn
    assert torch.equal(clean, images())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), state, strict=True))
    assert attack.cost.model_evaluations == 2 * 4 * (10 + keep_best)
    assert attack.cost.gradients == 2 * 4 * 10
    with torch.no_grad():
        assert bool((mean_relaxed(model(found)) < mean_relaxed(model(clean)) - 0.01).all())
    for row in range(4):  # images do not depend on their batch
        alone = attack(model, clean[row : row + 1], mean_relaxed)
        assert torch.allclose(alone, found[row : row + 1], atol=1e-5)
    none = AdamSearch(ThreatModel(norm, 0.0), steps=3, keep_best=keep_best)
    assert torch.equal(none(model, clean, mean_relaxed), clean)


def test_the_best_iterate_is_kept_and_never_worse_than_the_clean_image():
    model, clean = linear_model(48, 1), images()
    with torch.no_grad():
        aim = model(clean)
    objective = lambda logits: (logits - aim[: len(logits)]).square()[:, 0] + 0.1 * logits[:, 0]  # noqa: E731
    best, last = (
        AdamSearch(ThreatModel("linf", 0.5), steps=3, learning_rate=0.2, keep_best=keep_best)(model, clean, objective)
        for keep_best in (True, False)
    )
    with torch.no_grad():
        values = [objective(model(pixels)) for pixels in (best, clean, last)]
    assert bool((values[0] <= values[1] + 1e-6).all())
    assert bool((values[0] < values[2] - 1e-3).all())  # steps of 0.2 leap over the valley


def test_sharpness_follows_the_steps():
    """The gradient is taken at sharpness 1 for two steps of four, then at 3: seen in the logits of the objective."""
    model, clean = linear_model(48, 16), images(1)
    factors = []

    def objective(logits: Tensor) -> Tensor:
        if logits.requires_grad:
            factors.append(logits.detach().norm().item())
        return logits.sum(1)

    AdamSearch(THREATS["linf"], steps=4, learning_rate=0.0, sharpness=(1.0, 3.0), keep_best=False)(
        model, clean, objective
    )
    # at 1 the objective is asked once, else for the value and for the gradient
    assert [factor / factors[0] for factor in factors] == pytest.approx([1, 1, 1, 3, 1, 3])


def test_bad_options_are_named():
    threat = THREATS["linf"]
    with pytest.raises(ArgumentError, match="`steps` is at least 1; got 0"):
        AdamSearch(threat, steps=0)
    with pytest.raises(ArgumentError, match=r"`learning_rate` is at least 0\.0; got -1"):
        AdamSearch(threat, learning_rate=-1.0)
    with pytest.raises(ArgumentError, match=r"`betas` lie in \[0, 1\), 1 excluded; got \(0\.9, 1\.0\)"):
        AdamSearch(threat, betas=(0.9, 1.0))
    with pytest.raises(ArgumentError, match="`sharpness` has at least one slope; got none"):
        AdamSearch(threat, sharpness=())
