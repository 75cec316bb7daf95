import pytest
import torch
from torch import nn

from saat.attacks.generative import GENERATORS, GeneratorAttack, GeneratorOptions, fit_generator
from saat.attacks.generator_networks import Discriminator, Generator
from saat.attacks.threat import PatchThreat, ThreatModel
from saat.errors import ArgumentError, SaatError
from saat.hamming import hamming_distances, sign_codes

THREAT = ThreatModel(epsilon=16 / 255)
CODES = torch.tensor([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]], dtype=torch.int8)
TARGETS = torch.eye(2)


def tiny_model() -> nn.Sequential:
    """An untrained net of 16 px images with batch statistics, in train mode, with one frozen weight."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 8)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model[-1].weight.mul_(10.0)  # logits of about 1, as of trained nets
    model[0].bias.requires_grad_(False)
    return model.train()


def pixels(count: int, *, seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def fit(model: nn.Module, threat: ThreatModel = THREAT, *, seed: int = 0, **options) -> GeneratorAttack:
    images, labels = pixels(32), torch.eye(2).repeat(16, 1)
    how = GeneratorOptions(**{"epochs": 1, "batch_size": 16, **options})
    return fit_generator(model, images, labels, TARGETS, CODES, threat, how, seed=seed, quiet=True)


@pytest.fixture(scope="module")
def attack() -> GeneratorAttack:
    return fit(tiny_model(), epochs=30, learning_rate=3e-3)


def no_aim(logits: torch.Tensor) -> torch.Tensor:
    return logits.sum(1)


def test_unseen_images_come_nearer_to_their_target_codes_and_stay_in_budget(attack):
    model, images, wanted = tiny_model().eval(), pixels(20, seed=1), torch.tensor([0, 1] * 10)
    found = attack.toward(TARGETS[wanted])(model, images, no_aim)
    assert 0 < float((found - images).abs().max()) <= THREAT.epsilon + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert not found.requires_grad

    def mean_distance(x: torch.Tensor, targets: torch.Tensor) -> float:
        with torch.no_grad():
            return hamming_distances(sign_codes(model(x)), CODES[targets]).diag().float().mean().item()

    assert mean_distance(found, wanted) < mean_distance(images, wanted) - 1
    # The generator minds its targets: the images lie nearer to theirs than to the others.
    assert mean_distance(found, wanted) < mean_distance(found, 1 - wanted) - 1


def test_one_look_an_image_counts_for_the_attack_that_was_bound(attack):
    before = attack.cost.model_evaluations
    bound = attack.toward(TARGETS)
    assert torch.equal(bound(tiny_model(), pixels(2), no_aim), bound(tiny_model(), pixels(2), no_aim, seed=1))
    assert attack.cost.model_evaluations - before == 4
    assert attack.cost.gradients == 0


@pytest.mark.parametrize("size", [8, 12, 32])
def test_a_trained_generator_takes_other_sizes(attack, size):
    shape_free = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = pixels(2, size=size)
    assert attack.toward(TARGETS)(shape_free, images, no_aim).shape == images.shape


def test_the_model_and_the_global_generator_are_left_as_they_were():
    model, state = tiny_model(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [weight.requires_grad for weight in model.parameters()]
    fit(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert wanted == [weight.requires_grad for weight in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_generator():
    first, again, other = (
        fit(tiny_model(), seed=seed).toward(TARGETS)(tiny_model(), pixels(2), no_aim) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bytes_are_pixels_over_255():
    images = (pixels(8) * 255).to(torch.uint8)
    labels = torch.eye(2).repeat(4, 1)
    how = GeneratorOptions(epochs=1)
    attacks = [
        fit_generator(tiny_model(), x, labels, TARGETS, CODES, THREAT, how, quiet=True)
        for x in (images, images / 255.0)
    ]
    found = [attack.toward(TARGETS)(tiny_model(), pixels(2), no_aim) for attack in attacks]
    assert torch.equal(*found)


def test_an_empty_batch_stays_empty(attack):
    assert attack.toward(TARGETS[:0])(tiny_model(), pixels(0), no_aim).shape == (0, 3, 16, 16)


def test_the_discriminator_scores_each_label_and_one_more():
    assert Discriminator(classes=5)(pixels(2, size=4)).shape == (2, 6)
    assert Discriminator(classes=5, width=4, halvings=5)(pixels(2, size=8)).shape == (2, 6)


def test_the_rate_falls_in_a_line_over_the_second_half(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def recorded(optimizer, *arguments, **options):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    fit(tiny_model(), epochs=4, learning_rate=0.1, falling=True)  # of 8 steps each third has two updates
    assert rates == pytest.approx([0.1] * 7 + [0.075, 0.05, 0.05, 0.025], abs=1e-12)
    rates.clear()
    fit(tiny_model(), epochs=4, learning_rate=0.1)
    assert rates == [0.1] * 11


def test_within_an_epsilon_of_1_the_penalty_alone_holds_the_change():
    model, images = tiny_model().eval(), pixels(8, seed=1)
    found = fit(model, ThreatModel(epsilon=1.0), epochs=30, learning_rate=3e-3).toward(TARGETS.repeat(4, 1))
    change = (found(model, images, no_aim) - images).abs()
    assert float(change.max()) > 2 * THREAT.epsilon
    assert float(change.square().mean().sqrt()) < 0.2  # of two random images it would be 0.4


def test_the_published_generator_is_larger():
    options = vars(GENERATORS["published-generator"]) | {"epochs": 1}
    attack = fit(tiny_model(), **options)
    assert attack.toward(TARGETS)(tiny_model(), pixels(2), no_aim).shape == (2, 3, 16, 16)
    blocks = [layer for layer in attack.generator.body if hasattr(layer, "body")]
    assert len(blocks) == 6
    assert blocks[0].body[1].weight.shape == (256, 256, 3, 3)


def test_wrong_targets_are_named(attack):
    model = tiny_model()
    with pytest.raises(ArgumentError, match="a row for each of 3 images; got 2"):
        attack.toward(TARGETS)(model, pixels(3), no_aim)
    with pytest.raises(ArgumentError, match="a row for each of 3 images; got none"):
        attack(model, pixels(3), no_aim)
    with pytest.raises(ArgumentError, match=r"C = 2; got \(2, 3\)"):
        attack.toward(torch.ones(2, 3))
    with pytest.raises(ArgumentError, match="a row without one, which is no target"):
        attack.toward(torch.zeros(2, 2))
    for size in (4, 18):
        with pytest.raises(ArgumentError, match=f"divisible by 4, at least 8; got {size} x {size}"):
            attack.toward(TARGETS)(model, pixels(2, size=size), no_aim)


def test_wrong_norms_are_named():
    with pytest.raises(ArgumentError, match="is linf, since its tanh bounds each pixel; got ThreatModel\\(norm='l2'"):
        fit(tiny_model(), ThreatModel("l2", 1.0))
    for threat in (ThreatModel("l2", 1.0), PatchThreat()):
        with pytest.raises(ArgumentError, match="is linf"):
            GeneratorAttack(Generator(classes=2, width=4), threat)


def test_wrong_training_data_are_named():
    images, labels = pixels(4), torch.eye(2).repeat(2, 1)
    cases = [
        ((pixels(4, size=18), labels, TARGETS, CODES), "divisible by 4, at least 8; got 18 x 18"),
        ((images * 255, labels, TARGETS, CODES), r"`images` lie in \[0, 1\]"),
        ((images[:0], labels[:0], TARGETS, CODES), r"as many rows, at least 1; got \(0, 3, 16, 16\) and \(0, 2\)"),
        ((images, labels[:3], TARGETS, CODES), r"as many rows, at least 1; got \(4, 3, 16, 16\) and \(3, 2\)"),
        ((images, labels, torch.eye(3), CODES), r"`target_labels` is .* with C = 2; got \(3, 3\)"),
        ((images, labels, TARGETS[:0], CODES[:0]), r"with at least one row; got \(0, 8\)"),
        ((images, labels, TARGETS, CODES[:1]), r"\(T, K\) = \(2, 8\) as in .* and the model.*; got \(1, 8\)"),
        ((images, labels, TARGETS, CODES[:, :4]), r"got \(2, 4\)"),
    ]
    for arguments, message in cases:
        with pytest.raises(ArgumentError, match=message):
            fit_generator(tiny_model(), *arguments, THREAT, quiet=True)


def test_options_out_of_range_are_named():
    for name in ("epochs", "batch_size", "width", "halvings"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 1; got 0"):
            GeneratorOptions(**{name: 0})
    for name in ("learning_rate", "residual_blocks"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 0.*; got -1"):
            GeneratorOptions(**{name: -1})


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(SaatError, match="no longer finite"):
        fit(tiny_model(), learning_rate=1e30, epochs=3)
