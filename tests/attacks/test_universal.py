import pytest
import torch
from torch import nn

from saat.attacks.goals import OwnCodeGoal
from saat.attacks.threat import PatchThreat, Threat, ThreatModel
from saat.attacks.universal import UniversalPerturbation, fit_universal
from saat.attacks.views import SearchView
from saat.errors import ArgumentError
from saat.types import CodeObjective

THREATS: dict[str, tuple[Threat, float]] = {
    "linf": (ThreatModel("linf", 16 / 255), 4 / 255),
    "l2": (ThreatModel("l2", 1.5), 0.3),
    "patch": (PatchThreat(share=0.1), 0.2),
}


def tiny_model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Linear(8 * 25, 16)).train()


def pixels(seed: int, batch: int = 24) -> torch.Tensor:
    """Images of one kind: the same picture, with noise."""
    picture = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(99))
    noise = torch.rand(batch, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return 0.7 * picture + 0.3 * noise


def fit(name: str, model: nn.Module, **options) -> UniversalPerturbation:
    threat, step_size = THREATS[name]
    options = {"epochs": 5, "batch_size": 8, "step_size": step_size, "quiet": True, **options}
    images = options.pop("images", pixels(0))
    return fit_universal(model, images, torch.zeros(len(images), 2), OwnCodeGoal(), threat, **options)


class LowLogits:
    """A goal that wants the sum of the logits low."""

    targeted = False

    def __call__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> CodeObjective:
        return lambda logits: logits.sum(1)


@pytest.mark.parametrize("name", THREATS)
def test_one_change_lowers_the_mean_objective_of_seen_and_unseen_images(name):
    model = tiny_model()
    attack = fit(name, model)
    threat = THREATS[name][0]
    model.eval()
    for seed in (0, 1):
        images = pixels(seed)
        aim = OwnCodeGoal()(model, images, torch.empty(0))
        found = attack(model, images, aim)
        assert not bool(threat.violation(found, images).any())
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        with torch.no_grad():
            before, after = (aim(model(shown)).mean() for shown in (images, found))
        assert float(after) < float(before) - 0.1
    assert attack.cost.model_evaluations == 48  # each image once
    assert attack.cost.gradients == 0


@pytest.mark.parametrize("name", THREATS)
def test_the_change_is_the_same_for_every_image(name):
    model = tiny_model()
    attack = fit(name, model, epochs=1)
    images = 0.25 + 0.5 * pixels(2, 5)  # away from the edges of the box
    aim = OwnCodeGoal()(model, images, torch.empty(0))
    found = attack(model, images, aim, seed=7)
    assert attack.change.shape == (1, 3, 12, 12)
    if name == "patch":
        region = THREATS[name][0].region(images)
        assert torch.equal(found, torch.where(region, attack.change, images))
    else:
        assert torch.allclose(found - images, attack.change.expand_as(images), atol=1e-6)
    assert torch.equal(attack(model, images[2:3], lambda logits: logits.sum(1)), found[2:3])


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_the_edges_of_the_box_cut_the_change(name):
    threat = THREATS[name][0]
    attack = UniversalPerturbation(threat, torch.full((1, 3, 12, 12), 1.0))
    found = attack(nn.Flatten(), torch.ones(2, 3, 12, 12), lambda logits: logits.sum(1))
    assert torch.equal(found, torch.ones(2, 3, 12, 12))
    assert float(threat.violation(0.5 + attack.change, torch.full((1, 3, 12, 12), 0.5))) == 0.0  # bounded at once


def test_one_step_worked_by_hand():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    images, labels = torch.full((6, 3, 2, 2), 0.5), torch.zeros(6, 2)
    gradient = linear[1].weight.detach().sum(0).view(1, 3, 2, 2)  # of the mean of the sums of logits
    options = {"epochs": 1, "batch_size": 6, "step_size": 0.05}
    linf = fit_universal(linear, images, labels, LowLogits(), ThreatModel("linf", 0.1), **options)
    assert torch.allclose(linf.change, -0.05 * gradient.sign())
    l2 = fit_universal(linear, images, labels, LowLogits(), ThreatModel("l2", 0.1), **options)
    assert torch.allclose(l2.change, -0.05 * gradient / gradient.norm())
    options["batch_size"] = 2  # three steps of 0.05 within 0.1
    linf = fit_universal(linear, images, labels, LowLogits(), ThreatModel("linf", 0.1), **options)
    assert torch.allclose(linf.change, -0.1 * gradient.sign())
    patch = fit_universal(linear, images, labels, LowLogits(), PatchThreat(share=0.25, row=0, column=0), **options)
    expected = torch.zeros(1, 3, 2, 2)
    expected[:, :, 0, 0] = torch.where(gradient[:, :, 0, 0] < 0, 0.15, 0.0)  # from black
    assert torch.allclose(patch.change, expected)


def test_the_change_is_projected_after_every_step():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    signs = iter([1.0, 1.0, 1.0, -1.0])

    class TurnsBack(LowLogits):
        def __call__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> CodeObjective:
            sign = next(signs)
            return lambda logits: sign * logits.sum(1)

    images, threat = torch.full((4, 3, 2, 2), 0.5), ThreatModel("linf", 0.1)
    options = {"epochs": 1, "batch_size": 1, "step_size": 0.05}
    attack = fit_universal(linear, images, torch.zeros(4, 2), TurnsBack(), threat, **options)
    # 0.05, 0.1, 0.1 (not 0.15), and back by 0.05.
    assert torch.allclose(attack.change.abs(), torch.full((), 0.05))


@pytest.mark.parametrize("name", THREATS)
def test_epsilon_or_step_zero_changes_nothing(name):
    attack = fit(name, tiny_model(), epochs=1, step_size=0.0)
    assert not bool(attack.change.any())
    if name != "patch":
        images = pixels(3)
        zero = fit_universal(
            tiny_model(), images, torch.zeros(24, 2), OwnCodeGoal(), ThreatModel(name, 0.0), epochs=1, quiet=True
        )
        assert torch.equal(zero(tiny_model(), images, lambda logits: logits.sum(1)), images)


@pytest.mark.parametrize("name", THREATS)
def test_the_model_is_left_as_it_was_and_the_seed_decides(name):
    model, images = tiny_model(), pixels(0)
    model[5].bias.requires_grad_(False)
    model[1].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes, wanted = ([m.training for m in model.modules()], [w.requires_grad for w in model.parameters()])
    random_state, kept = torch.get_rng_state(), images.clone()
    changes = [fit(name, model, images=images, seed=seed).change for seed in (0, 0, 1)]
    assert torch.equal(changes[0], changes[1])
    assert not torch.equal(changes[0], changes[2])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert wanted == [weight.requires_grad for weight in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images, kept)
    assert not changes[0].requires_grad


def test_bytes_and_floats_are_the_same_images():
    stored = (pixels(0) * 255).round().to(torch.uint8)
    changes = [fit("linf", tiny_model(), images=images).change for images in (stored, stored.float() / 255)]
    assert torch.equal(*changes)


def test_errors_name_what_was_found():
    model, images = tiny_model(), pixels(0)
    for name in ("epochs", "batch_size"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 1; got 0"):
            fit("linf", model, **{name: 0})
    with pytest.raises(ArgumentError, match="at least 1; got 0 and 0"):
        fit("linf", model, images=images[:0])
    with pytest.raises(ArgumentError, match="got 24 and 3"):
        fit_universal(model, images, torch.zeros(3, 2), OwnCodeGoal(), ThreatModel())
    view = SearchView(lambda batch: torch.zeros(len(batch), 2, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="cuts the graph"):
        fit_universal(view, images, torch.zeros(24, 2), LowLogits(), ThreatModel(), quiet=True)
    with pytest.raises(ArgumentError, match=r"`change` is float32 \(1, 3, H, W\); got torch.float32 \(3, 12, 12\)"):
        UniversalPerturbation(ThreatModel(), torch.zeros(3, 12, 12))
    with pytest.raises(ArgumentError, match=r"got \(12, 12\) and \(8, 8\)"):
        UniversalPerturbation(ThreatModel(), torch.zeros(1, 3, 8, 8))(model, images, lambda logits: logits.sum(1))
