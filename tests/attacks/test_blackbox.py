import pytest
import torch
from torch import nn

from saat.attacks.base import Attack
from saat.attacks.blackbox import NesAttack, SquareAttack, _move_l2, _tiles, square_share, two_bumps
from saat.attacks.goals import OwnCodeGoal
from saat.attacks.threat import PatchThreat, ThreatModel
from saat.errors import ArgumentError

BATCH = 4
LINF, L2, PATCH = ThreatModel("linf", 16 / 255), ThreatModel("l2", 1.5), PatchThreat(share=0.1)
# name -> (attack, passes through the model for each image)
ATTACKS: dict[str, tuple[Attack, int]] = {
    "square linf": (SquareAttack(LINF, queries=60), 60),
    "square l2": (SquareAttack(L2, queries=60), 60),
    "nes linf": (NesAttack(LINF, steps=3, step_size=4 / 255, samples=8), 1 + 3 * (2 * 8 + 1)),
    "nes l2": (NesAttack(L2, steps=3, step_size=0.5, samples=8), 1 + 3 * (2 * 8 + 1)),
    "nes patch": (NesAttack(PATCH, steps=3, step_size=0.2, samples=8), 1 + 3 * (2 * 8 + 1)),
}
SQUARES = {"linf": SquareAttack(LINF, queries=40), "l2": SquareAttack(L2, queries=40)}


def tiny_model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Linear(8 * 49, 16)).train()


def pixels(seed: int, batch: int = BATCH, side: int = 16) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Spy(nn.Module):
    """A model that remembers what it was shown, and whose logits are the sums of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images.clone())
        return images.sum((2, 3))


class CutGraph(nn.Module):
    """A model as a service gives it: numbers without a graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not images.requires_grad
        return torch.tensor(self.model(images).tolist())


@pytest.mark.parametrize("name", ATTACKS)
def test_every_search_keeps_its_promises_and_lowers_the_objective(name):
    attack, passes = ATTACKS[name]
    model, images = tiny_model(), pixels(1)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    aim = OwnCodeGoal()(model, images, torch.empty(0))
    kept, random_state = images.clone(), torch.get_rng_state()
    before, gradients = attack.cost.model_evaluations, attack.cost.gradients
    found = attack(model, images, aim, seed=3)
    assert attack.cost.model_evaluations - before == passes * BATCH
    assert attack.cost.gradients == gradients == 0
    assert not bool(attack.threat.violation(found, images).any())
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert (found.shape, found.dtype, found.requires_grad) == (images.shape, torch.float32, False)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(attack(model, images, aim, seed=3), found)
    assert not torch.equal(attack(model, images, aim, seed=4), found)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    model.eval()
    assert bool((aim(model(found)) < aim(model(images))).all())


@pytest.mark.parametrize("name", ATTACKS)
def test_no_search_needs_a_graph(name):
    attack, _ = ATTACKS[name]
    model, images = tiny_model().eval(), pixels(1)
    aim = OwnCodeGoal()(model, images, torch.empty(0))
    assert torch.equal(attack(CutGraph(model), images, aim), attack(model, images, aim))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_probe_sees_the_clean_image_first_and_then_the_threat_model_only(name):
    attack, _ = ATTACKS[name]
    spy, images = Spy(), pixels(2)
    attack(spy, images, lambda logits: logits.sum(1))
    assert torch.equal(spy.shown[0], images)
    assert not any(bool(attack.threat.violation(shown, images).any()) for shown in spy.shown)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [lambda threat: SquareAttack(threat, queries=20), lambda threat: NesAttack(threat)])
def test_epsilon_zero_is_the_clean_image(make, norm):
    images = pixels(3, 2, 6)
    attack = make(ThreatModel(norm, 0.0))
    assert torch.equal(attack(Spy(), images, lambda logits: logits.sum(1)), images)


def test_the_share_halves_at_the_scaled_places():
    # Of 100 moves the 50th stands for 5,000 of 10,000, which has passed seven halvings: 10 to 4,000.
    assert square_share(50, moves=100, initial=0.8) == pytest.approx(0.8 / 2**7)
    assert square_share(0, moves=100, initial=0.8) == 0.8


def test_a_linf_search_starts_from_stripes_and_changes_one_square_an_image():
    images, spy = torch.full((BATCH, 3, 16, 16), 0.5), Spy()
    SQUARES["linf"](spy, images, lambda logits: logits[:, 0] * 0.0)  # nothing is better, so nothing is accepted
    start, *proposals = spy.shown[1:]
    change = (start - images) / LINF.epsilon
    assert torch.allclose(change.abs(), torch.ones(()), atol=1e-5)
    assert torch.equal(start, start[:, :, :1].expand_as(start))  # the same in every row
    assert len(start[0, 0, 0].unique()) == 2
    tops = set()
    for number, proposal in enumerate(proposals):
        side = max(1, round(16 * square_share(number, moves=38, initial=0.8) ** 0.5))
        assert torch.allclose((proposal - images).abs(), torch.full((), LINF.epsilon), atol=1e-6)
        for row in range(BATCH):
            places = (proposal[row] != start[row]).any(0).nonzero()
            if len(places):
                top, left = places.amin(0).tolist()
                bottom, right = places.amax(0).tolist()
                assert max(bottom - top, right - left) < side
                tops.add((number, top, left))
    assert len(tops) > 3 * len(proposals)  # the images of a batch have places of their own


def test_an_l2_search_always_spends_the_whole_radius():
    images, spy = torch.full((BATCH, 3, 16, 16), 0.5), Spy()
    SQUARES["l2"](spy, images, lambda logits: logits.sum(1))
    for shown in spy.shown[1:]:
        assert L2.size(shown, images).tolist() == pytest.approx([L2.epsilon] * BATCH, rel=1e-4)


@pytest.mark.parametrize("spent", [0.5, 1.0])
def test_an_l2_move_empties_one_window_fills_another_and_keeps_the_rest(spent):
    clean = torch.full((BATCH, 3, 16, 16), 0.5)
    change = pixels(5) - 0.5
    change *= spent * L2.epsilon / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    # 4 % of 256 places are 10.24, whose root rounds to 3.
    moved = _move_l2(clean + change, clean, L2.epsilon, 0.04, torch.Generator().manual_seed(0)) - clean
    places = ((moved - change).abs() > 1e-6).any(1)
    emptied = (moved == 0).all(1)
    assert bool((emptied <= places).all())
    assert int(emptied.sum()) > 9
    for row in range(BATCH):
        assert 9 <= int(places[row].sum()) <= 18  # two windows, which may overlap
        assert int(places[row].sum() - emptied[row].sum()) == 9  # the whole first window
    # A channel keeps its energy, and gets a third of what is left of the radius.
    before, after = (part.square().sum((2, 3)) for part in (change, moved))
    unused = (1 - spent**2) * L2.epsilon**2 / 3
    assert torch.allclose(after, before + unused, atol=1e-5)


@pytest.mark.parametrize("norm", SQUARES)
def test_each_image_accepts_its_own_improvements_only(norm):
    images, spy = pixels(4, 2), Spy()
    calls = iter(range(100))

    def first_falls_second_rises(logits: torch.Tensor) -> torch.Tensor:
        number = float(next(calls))
        return torch.tensor([-number, number])

    found = SQUARES[norm](spy, images, first_falls_second_rises)
    assert torch.allclose(found[0], spy.shown[-1][0], atol=1e-6)
    assert torch.equal(found[1], images[1])
    # The first image is built up move by move, the second always from its start.
    first, second = ((spy.shown[-1][row] != spy.shown[1][row]).any(0).sum() for row in (0, 1))
    assert int(first) > int(second)


@pytest.mark.parametrize("norm", SQUARES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 9)])
def test_squares_fit_small_and_oblong_images(norm, shape):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    found = SQUARES[norm](Spy(), images, lambda logits: logits.sum(1))
    assert bool((found.sum((1, 2, 3)) < images.sum((1, 2, 3))).all())


def test_bumps_worked_by_hand():
    # Left: a column of rings 1, 0, 1; right: rows of rings 1 1, 1 0 and 1 1. Ring 0 is 1 + 1/4, ring 1 is 1/4.
    values = torch.tensor([[0.25, -0.25, -0.25], [1.25, -0.25, -1.25], [0.25, -0.25, -0.25]])
    lengths = torch.tensor([27 / 16, 30 / 16, 30 / 16]).sqrt()  # of the bumps, which are of equal length
    assert torch.allclose(two_bumps(3), values / lengths / 2**0.5)


def test_tiles_of_the_l2_start_lie_both_ways_in_every_image():
    change = _tiles(torch.full((8, 3, 20, 20), 0.5), 1.0, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.linalg.vector_norm(change, dim=(1, 2, 3)), torch.ones(8))
    tiles = change.unfold(2, 4, 4).unfold(3, 4, 4)  # (8, 3, 5, 5, 4, 4)
    side_by_side = (tiles[..., :2].sum((-2, -1)).abs() > 1e-3).float()  # else one above the other
    assert torch.equal(side_by_side, side_by_side[:, :1].expand_as(side_by_side))  # the same in all channels
    assert 0.3 < float(side_by_side.mean()) < 0.7
    assert 0.0 < float(side_by_side[0].mean()) < 1.0


def test_nes_looks_from_both_sides_and_finds_the_gradient_of_a_linear_objective():
    images, spy = torch.full((2, 3, 2, 2), 0.5), Spy()
    weights = torch.tensor([3.0, -1.0, 0.5])
    attack = NesAttack(ThreatModel("l2", 0.4), steps=1, step_size=0.1, samples=500, sigma=0.01)
    found = attack(spy, images, lambda logits: logits @ weights)
    assert torch.allclose(spy.shown[1] + spy.shown[2], 2 * images, atol=1e-6)
    gradient = weights.view(1, 3, 1, 1).expand_as(images).flatten(1)
    change = (spy.shown[-1] - images).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(-gradient, change)
    assert cosines.tolist() == pytest.approx([1.0, 1.0], abs=0.03)  # 500 directions in 12 dimensions
    assert change.norm(dim=1).tolist() == pytest.approx([0.1, 0.1], rel=1e-4)
    assert torch.allclose(found, spy.shown[-1], atol=1e-6)  # far longer than sigma, so the best


def test_bad_options_are_named():
    with pytest.raises(ArgumentError, match="`queries` is at least 2; got 1"):
        SquareAttack(LINF, queries=1)
    for name in ("steps", "samples"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 1; got 0"):
            NesAttack(LINF, **{name: 0})
    with pytest.raises(ArgumentError, match="`sigma` is at least"):
        NesAttack(LINF, sigma=0.0)
    with pytest.raises(ArgumentError, match="`step_size` is at least 0"):
        NesAttack(LINF, step_size=-0.1)
