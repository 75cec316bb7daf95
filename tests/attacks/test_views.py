import pytest
import torch
from torch import nn

from saat.attacks.base import Probe
from saat.attacks.blackbox import SquareAttack
from saat.attacks.goals import OwnCodeGoal
from saat.attacks.gradient import PGD
from saat.attacks.threat import ThreatModel
from saat.attacks.views import (
    MAX_ID,
    BpdaView,
    EnsembleView,
    EotView,
    ReturnedIdsGoal,
    SearchView,
    returned_share,
    split_objective,
)
from saat.errors import ArgumentError
from saat.hamming import hamming_distances, sign_codes
from saat.runtime import make_generator

NONE = torch.empty(0)
SECOND = 0.6309297535714575  # 1 / log2(3), the discount of rank 1


def tiny_model(code_length: int = 16, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 25, code_length)).eval()


def pixels(seed: int, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def eight_levels(images: torch.Tensor) -> torch.Tensor:
    return (images * 7).round() / 7


def test_an_ensemble_puts_logits_side_by_side_and_one_search_lowers_every_part():
    models, images = [tiny_model(16, 0), tiny_model(24, 1)], pixels(0)
    view = EnsembleView(models)
    assert torch.equal(view(images), torch.cat([model(images) for model in models], 1))
    aims = [OwnCodeGoal()(model, images, NONE) for model in models]
    both = split_objective(aims, [16, 24])
    parts = [aim(model(images)) for aim, model in zip(aims, models, strict=True)]
    assert torch.allclose(both(view(images)), parts[0] + parts[1])
    found = PGD(ThreatModel("linf", 8 / 255), steps=10)(view, images, both)
    for aim, model, before in zip(aims, models, parts, strict=True):
        assert bool((aim(model(found)) < before).all())


def test_an_ensemble_says_what_does_not_fit():
    with pytest.raises(ArgumentError, match="`models` holds at least one"):
        EnsembleView([])
    with pytest.raises(ArgumentError, match="one entry an objective; got 1 for 2"):
        split_objective([torch.sum, torch.sum], [3])
    with pytest.raises(ArgumentError, match=r"the logits of the ensemble, 8; got \[16\]"):
        split_objective([lambda logits: logits.sum(1)], [16])(torch.zeros(2, 8))


def test_shares_worked_by_hand():
    clean = torch.tensor([[7, 8]] * 6 + [[7, -1]])
    new = torch.tensor([[7, 8], [8, 7], [1, 2], [7, 2], [8, 2], [-1, -1], [7, -1]])
    whole = 1 + SECOND**2
    expected = [1, 2 * SECOND / whole, 0, 1 / whole, SECOND / whole, 0, 1]
    assert returned_share(clean, new).tolist() == pytest.approx(expected)
    assert returned_share(clean[:1], torch.tensor([[7]])).tolist() == pytest.approx([1 / whole])
    assert returned_share(torch.tensor([[-1, -1]]), torch.tensor([[-1, -1]])).tolist() == [0.0]


def test_any_order_of_the_same_ids_lies_between_and_loses_more_at_the_front():
    clean = torch.arange(10).view(1, -1)
    swapped = [clean.clone() for _ in range(9)]
    for place, ids in enumerate(swapped):
        ids[0, [place, place + 1]] = clean[0, [place + 1, place]]
    shares = torch.cat([returned_share(clean, ids) for ids in swapped])
    assert bool((shares < 1).all())
    assert bool((shares.diff() > 0).all())  # the swap at the first places costs most


def test_a_search_view_returns_ids_that_survive_the_probe_and_have_no_gradient():
    ids = torch.tensor([[MAX_ID, 3, -1]])
    view = SearchView(lambda images: ids.expand(len(images), -1))
    images = pixels(0, 2).requires_grad_()
    returned = view(images)
    assert returned.dtype == torch.float64
    assert not returned.requires_grad
    assert returned.float().long().tolist() == [[MAX_ID, 3, -1]] * 2
    probe = Probe(view, images, ReturnedIdsGoal()(view, images, NONE), precision="float32", keep_best=True)
    values, gradient = probe.gradient(images)
    assert values.tolist() == pytest.approx([1.0, 1.0])
    assert not bool(gradient.any())


def test_a_search_view_says_what_it_cannot_use():
    images = pixels(0, 1)
    for answer, message in (
        (torch.tensor([[MAX_ID + 1]]), f"at most {MAX_ID}; got {MAX_ID + 1}"),
        (torch.tensor([[1.0]]), r"integer ids \(1, k\); got torch.float32 \(1, 1\)"),
        (torch.tensor([1]), r"got torch.int64 \(1,\)"),
        (torch.tensor([[1], [2]]), r"got torch.int64 \(2, 1\)"),
    ):
        with pytest.raises(ArgumentError, match=message):
            SearchView(lambda _, answer=answer: answer)(images)


def test_square_attack_displaces_a_result_by_looking_at_ids_only():
    model, database, images = tiny_model(32), pixels(5, 300), pixels(6)
    with torch.no_grad():
        database_codes = sign_codes(model(database))

    def search(queries: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        distances = hamming_distances(sign_codes(model(queries)), database_codes).long()
        return (distances * len(database) + torch.arange(len(database))).topk(10, largest=False).indices  # ties by id

    view, goal = SearchView(search), ReturnedIdsGoal()
    objective = goal(view, images, NONE)
    attack = SquareAttack(ThreatModel("linf", 32 / 255), queries=150)
    found = attack(view, images, objective)
    assert not goal.targeted
    with torch.no_grad():
        assert objective(view(images).float()).tolist() == pytest.approx([1.0] * 4)
        after = objective(view(found).float())
    assert bool((after < 0.9).all())
    assert float(after.mean()) < 0.5
    assert attack.cost.gradients == 0
    assert torch.equal(attack(view, images, objective), found)


def test_bpda_gets_through_rounding_where_plain_descent_does_not_move():
    model, images = tiny_model(), pixels(1)

    class Rounded(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return model(eight_levels(batch))

    target, view = Rounded(), BpdaView(model, eight_levels)
    aim = OwnCodeGoal()(target, images, NONE)
    attack = PGD(ThreatModel("linf", 0.1), steps=10, step_size=0.02, random_start=False)
    assert torch.equal(attack(target, images, aim), images)
    found = attack(view, images, aim)
    before, after = aim(target(images)), aim(target(found))
    assert bool((after < before - 0.1).all())


def test_bpda_is_exact_forward_and_takes_its_gradient_from_the_stand_in():
    model, images = tiny_model(), pixels(2).requires_grad_()
    kinds = {"identity": None, "tripled": lambda batch: 3.0 * batch}
    gradients = {}
    for name, stand_in in kinds.items():
        logits = BpdaView(model, eight_levels, stand_in=stand_in)(images)
        assert torch.equal(logits, model(eight_levels(images)))
        (gradients[name],) = torch.autograd.grad(logits.sum(), images)
    levels = eight_levels(images).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model(levels).sum(), levels)
    assert torch.allclose(gradients["identity"], expected)
    assert torch.allclose(gradients["tripled"], 3.0 * expected)
    with pytest.raises(ArgumentError, match=r"same shape; got \(4, 3, 12, 12\) and \(4, 3, 12, 6\)"):
        BpdaView(model, lambda batch: batch[..., ::2])(images)


def scaled(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images * torch.rand(1, generator=generator)


def test_eot_averages_logits_and_gradients_over_the_draws():
    weights = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    linear[2].weight.data.copy_(weights)
    images = pixels(3, 2).requires_grad_()
    generator = make_generator(7, "EotView", 0)
    factor = float(torch.cat([torch.rand(1, generator=generator) for _ in range(5)]).mean())
    logits = EotView(linear, scaled, samples=5, seed=7)(images)
    assert torch.allclose(logits, factor * linear(images), atol=1e-6)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    expected = factor * weights.sum(0) / 144  # of the mean over 12 x 12 pixels
    assert torch.allclose(gradient, expected.view(1, 3, 1, 1).expand_as(gradient), atol=1e-7)


class Counted(nn.Module):
    """A model that counts the images it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.model(images)


VIEWS = {
    "plain": lambda model: model,
    "draws": lambda model: EotView(model, scaled, samples=3),
    "draws of draws": lambda model: EotView(EotView(model, scaled, samples=3), scaled, samples=2),
    "draws behind a preprocessing": lambda model: BpdaView(EotView(model, scaled, samples=3), eight_levels),
    "an ensemble": lambda model: EnsembleView([model, EotView(model, scaled, samples=3)]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_cost_of_a_search_is_what_the_models_behind_a_view_see(name):
    model, images = Counted(tiny_model()), pixels(4)
    attack = PGD(ThreatModel(), steps=2)
    attack(VIEWS[name](model), images, lambda logits: logits.sum(1))
    assert attack.cost.model_evaluations == model.seen
    assert model.seen >= {"plain": 1, "draws of draws": 6, "an ensemble": 4}.get(name, 3) * 2 * len(images)


def test_eot_draws_anew_in_every_pass_and_repeats_from_its_seed():
    model, images = tiny_model(), pixels(4)
    runs = []
    for seed in (0, 0, 1):
        view = EotView(model, scaled, samples=2, seed=seed)
        runs.append([view(images) for _ in range(3)])
    assert all(torch.equal(*pair) for pair in zip(runs[0], runs[1], strict=True))
    assert not torch.allclose(runs[0][0], runs[0][1])
    assert not torch.allclose(runs[0][0], runs[2][0])
    random_state = torch.get_rng_state()
    attack, aim = PGD(ThreatModel(), steps=3), OwnCodeGoal()(model, images, NONE)
    found = [attack(EotView(model, scaled, samples=2), images, aim) for _ in range(2)]
    assert torch.equal(*found)
    assert torch.equal(torch.get_rng_state(), random_state)
    with pytest.raises(ArgumentError, match="`samples` is at least 1; got 0"):
        EotView(model, scaled, samples=0)
