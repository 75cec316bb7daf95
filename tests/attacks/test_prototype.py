import math

import pytest
import torch
from torch import nn

from saat.attacks.gradient import PGD
from saat.attacks.prototype import PrototypeGoal, PrototypeNet, circle_loss, fit_prototypes, prototype_codes
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError
from saat.hamming import hamming_distances, sign_codes

SMALL = {"widths": (64, 32), "learning_rate": 1e-2, "quiet": True}
# Every bit that splits four classes in two, once: each two classes differ in 8 of the 14 bits.
CLASS_CODES = torch.tensor([[1 - 2 * (bit >> row & 1) for bit in range(1, 15)] for row in range(4)], dtype=torch.int8)
LABELS = torch.eye(4)


def noisy_bank(flips: float) -> CodeBank:
    """40 codes a class: the class code with a share of its bits flipped."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(4).repeat(40)
    flipped = torch.rand(160, 14, generator=generator) < flips
    return CodeBank(torch.where(flipped, -CLASS_CODES[rows], CLASS_CODES[rows]), LABELS[rows])


def test_the_circle_loss_of_two_pairs_by_hand():
    similarity = torch.tensor([[0.5, 0.25]], requires_grad=True)
    loss = circle_loss(similarity, torch.tensor([[True, False]]), torch.ones(2))
    # -(2 - 0.5) 0.5 + (2 + 0.25) 0.25 = -0.75 + 0.5625
    assert loss.item() == pytest.approx(-0.1875)
    loss.backward()  # each pair is alone in its sum: minus and plus its factor, which takes no gradient
    assert torch.allclose(similarity.grad, torch.tensor([[-1.5, 2.25]]))


def test_the_circle_loss_sums_over_all_rows_and_counts_equal_items():
    similarity = torch.tensor([[0.5, 0.0], [-0.5, 1.0]])
    relevant = torch.tensor([[True, False], [False, True]])
    # Relevant: 3 exp(-1.5 * 0.5) + exp(-1); others: exp(2 * 0) + 3 exp(1.5 * -0.5).
    by_hand = math.log(3 * math.exp(-0.75) + math.exp(-1)) + math.log(1 + 3 * math.exp(-0.75))
    counted = circle_loss(similarity, relevant, torch.tensor([3.0, 1.0]))
    assert counted.item() == pytest.approx(by_hand)
    columns = [0, 0, 0, 1]
    assert circle_loss(similarity[:, columns], relevant[:, columns], torch.ones(4)).item() == pytest.approx(by_hand)


def test_a_term_without_a_pair_drops_out():
    similarity = torch.tensor([[0.5]], requires_grad=True)
    only_relevant = circle_loss(similarity, torch.tensor([[True]]), torch.ones(1))
    only_others = circle_loss(similarity, torch.tensor([[False]]), torch.ones(1))
    assert (only_relevant.item(), only_others.item()) == pytest.approx((-0.75, 1.25))


@pytest.mark.parametrize("flips", [0.0, 0.15])
def test_prototypes_of_separable_classes_are_the_class_codes(flips):
    net = fit_prototypes(noisy_bank(flips), steps=100, **SMALL)
    assert torch.equal(prototype_codes(net, LABELS), CLASS_CODES)


def test_the_paper_widths_and_the_default_rate_do_it_in_few_steps():
    net = fit_prototypes(noisy_bank(0.15), steps=60, quiet=True)
    assert [layer.out_features for layer in net.layers if isinstance(layer, nn.Linear)] == [4096, 512, 14]
    assert torch.equal(prototype_codes(net, LABELS), CLASS_CODES)


def test_a_set_of_two_labels_lies_nearer_to_both_of_its_classes_than_to_others():
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    codes = torch.cat([CLASS_CODES[[0, 2]], CLASS_CODES])
    bank = CodeBank(codes, labels)
    distances = hamming_distances(prototype_codes(fit_prototypes(bank, steps=100, **SMALL), labels[:2]), CLASS_CODES)
    assert int(distances[0, :2].max()) < int(distances[0, 2:].min())
    assert int(distances[1, 2:].max()) < int(distances[1, :2].min())


def test_the_same_seed_gives_the_same_net_and_no_global_draw():
    bank, state = noisy_bank(0.15), torch.get_rng_state()
    first, again, other = (fit_prototypes(bank, steps=5, batch_size=2, seed=seed, **SMALL) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(LABELS), again(LABELS))
    assert not torch.equal(first(LABELS), other(LABELS))
    assert not first.training
    assert not any(weight.requires_grad for weight in first.parameters())


def test_items_without_a_label_are_irrelevant_to_all():
    codes = torch.cat([CLASS_CODES, torch.ones(1, 14, dtype=torch.int8)])
    bank = CodeBank(codes, torch.cat([LABELS, torch.zeros(1, 4)]))
    assert torch.equal(prototype_codes(fit_prototypes(bank, steps=100, **SMALL), LABELS), CLASS_CODES)
    with pytest.raises(ArgumentError, match="`bank` has items with a label; got none among 5"):
        fit_prototypes(CodeBank(codes, torch.zeros(5, 4)), quiet=True)


def test_the_goal_leads_toward_the_prototype():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 14))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(14, 192, generator=torch.Generator().manual_seed(0)) / 14)
        model[1].bias.zero_()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = fit_prototypes(noisy_bank(0.0), steps=100, **SMALL)
    goal = PrototypeGoal(net)
    assert goal.targeted
    objective = goal(model, images, LABELS)
    assert bool((objective(CLASS_CODES.float()) < objective(-CLASS_CODES.float())).all())
    found = PGD(ThreatModel(epsilon=0.2), steps=20, step_size=0.02)(model, images, objective)
    before, after = (
        hamming_distances(sign_codes(model(x)), CLASS_CODES).diag().float().mean() for x in (images, found)
    )
    assert after < before - 2


def test_bad_arguments_are_named():
    net = PrototypeNet(classes=4, code_length=16, widths=(8, 8))
    with pytest.raises(ArgumentError, match=r"C = 4 as in the net; got \(2, 3\)"):
        prototype_codes(net, torch.ones(2, 3))
    with pytest.raises(ArgumentError, match="has no prototype code"):
        prototype_codes(net, torch.zeros(2, 4))
    for name in ("steps", "batch_size"):
        with pytest.raises(ArgumentError, match=f"`{name}` is at least 1; got 0"):
            fit_prototypes(noisy_bank(0.0), **{name: 0})
