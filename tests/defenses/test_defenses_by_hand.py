"""Losses worked by hand on a model of two bits.

The logit of bit k is 4 (x_k - 1/2), with x_k the value of channel k of a one-pixel image. The image (3/4, 1/4, 1/2) has
the logits (1, -1). Within epsilon = 1/8 each logit can move by 1/2, and an attack goes to the corner of the ball.
"""

import math

import pytest
import torch
from torch import nn

from saat.attacks.gradient import PGD
from saat.attacks.objectives import agreement_objective
from saat.attacks.prototype import PrototypeNet
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.codes.semantic import center_codes
from saat.defenses.catalog import DEFENSES, DefenseOptions
from saat.defenses.distillation import DistillationStep
from saat.defenses.inner import InnerAttack
from saat.defenses.own_code import PgdStep, TradesStep
from saat.defenses.prototype import AtrdhStep
from saat.defenses.query_side import QuerySideStep
from saat.defenses.semantic import SaatStep
from saat.losses.central import CSQLoss
from saat.models.hash_model import HashModel
from saat.types import Batch

LABELS = torch.tensor([[0.0, 1.0]])  # of the class whose center is (1, -1)
BATCH = Batch(torch.tensor([0.75, 0.25, 0.5]).view(1, 3, 1, 1), LABELS, torch.tensor([0]))
UNLABELED = Batch(BATCH.images, torch.zeros(1, 2), BATCH.indices)


class TwoBits(nn.Module):
    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.sign * 4.0 * (images[:, :2, 0, 0] - 0.5)


def attack() -> InnerAttack:
    return InnerAttack(PGD(ThreatModel("linf", 1 / 8), steps=3, step_size=1 / 8, keep_best=False))


def csq() -> CSQLoss:
    return CSQLoss(labels=LABELS, code_length=2, quantization_weight=0.0)


def cross_entropy(*agreements: float) -> float:
    """The bitwise cross entropy at logits that agree with the target by so much: mean of log(1 + exp(-2 a))."""
    return sum(math.log1p(math.exp(-2.0 * value)) for value in agreements) / len(agreements)


def bank() -> CodeBank:
    return CodeBank(torch.tensor([[1, 1]], dtype=torch.int8), LABELS)


def test_pgd_at_is_the_hashing_loss_half_way_to_the_other_code():
    output = PgdStep(csq(), attack())(TwoBits(), BATCH)
    assert output.loss.item() == pytest.approx(cross_entropy(0.5, 0.5))
    assert PgdStep(csq(), attack())(TwoBits(), UNLABELED).loss.item() == 0.0


def test_trades_adds_the_squared_way_of_the_codes():
    output = TradesStep(csq(), attack(), adversarial_weight=3.0)(TwoBits(), BATCH)
    way = (math.tanh(1.0) - math.tanh(0.5)) ** 2
    assert output.parts == pytest.approx({"hashing": cross_entropy(1.0, 1.0), "divergence": way})
    assert output.loss.item() == pytest.approx(cross_entropy(1.0, 1.0) + 3.0 * way)
    unlabeled = TradesStep(csq(), attack(), adversarial_weight=3.0)(TwoBits(), UNLABELED)
    assert unlabeled.loss.item() == pytest.approx(3.0 * way)


def test_trades_learns_through_both_codes():
    model = nn.Sequential(TwoBits(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    TradesStep(csq(), attack())(model, UNLABELED).loss.backward()
    # Of bit 0: 2 (tanh a - tanh c) (a (1 - tanh^2 a) - c (1 - tanh^2 c)) / 2, with a = 1/2 and c = 1.
    adversarial, clean = math.tanh(0.5), math.tanh(1.0)
    wanted = (adversarial - clean) * (0.5 * (1.0 - adversarial**2) - 1.0 * (1.0 - clean**2))
    assert model[1].weight.grad[0, 0].item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("batch", [BATCH, UNLABELED])
@pytest.mark.parametrize(("sign", "agreement"), [(1.0, 0.5), (-1.0, -1.5)])
def test_distillation_holds_to_the_code_of_the_teacher_whatever_the_label(batch, sign, agreement):
    """A teacher of the opposite code: the attack leaves that code, toward logits of 1.5 of the wrong sign."""
    output = DistillationStep(TwoBits(sign), attack())(TwoBits(), batch)
    assert output.loss.item() == pytest.approx(cross_entropy(agreement, agreement))


def test_distillation_holds_to_the_features_of_the_teacher_too():
    """Features are the image's channels, (3, 1, 2) / 4, the student's in the other order: a cosine of 13 / 14."""
    order = nn.Linear(3, 3, bias=False)
    hash_layer = nn.Linear(3, 8)
    with torch.no_grad():
        order.weight.copy_(torch.eye(3).flip(0))
        hash_layer.weight.zero_()
        hash_layer.bias.fill_(1.0)
    unchanged = {"code_length": 8, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    teacher = HashModel(nn.Flatten(), hash_layer, **unchanged)
    student = HashModel(nn.Sequential(nn.Flatten(), order), hash_layer, **unchanged)
    still = InnerAttack(PGD(ThreatModel("linf", 0.0), steps=1, step_size=0.0, keep_best=False))
    output = DistillationStep(teacher, still)(student, BATCH)
    assert output.parts == pytest.approx({"distillation": cross_entropy(1.0), "features": 1.0 / 14.0}, rel=1e-5)
    assert output.loss.item() == pytest.approx(cross_entropy(1.0) + 1.0 / 14.0)
    output.loss.backward()
    assert order.weight.grad.abs().sum() > 0  # through the features, since no logit depends on them


def test_query_side_training_leaves_the_mainstay_code_of_the_database_and_is_held_to_it():
    codes = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)  # mainstay codes: (1, 1) and (1, -1)
    output = QuerySideStep(CodeBank(codes, torch.eye(2)), attack())(TwoBits(), BATCH)
    # Products with these at the logits (1/2, -1/2): 0 and 2 tanh(1/2), over the root of 2 bits.
    similarity = math.log1p(math.exp(-2.0 * math.tanh(0.5) / math.sqrt(2.0)))
    assert output.parts == pytest.approx({"bits": cross_entropy(0.5, 0.5), "similarity": similarity})
    assert output.loss.item() == pytest.approx(cross_entropy(0.5, 0.5) + similarity)


def test_query_side_training_knows_no_center_of_a_label_that_no_item_has():
    codes, labels = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8), torch.eye(3)[[0, 2]]
    step = QuerySideStep(CodeBank(codes, labels), attack())
    assert step.centers.tolist() == [[1, 1], [1, -1]]
    output = step(TwoBits(), Batch(BATCH.images, torch.tensor([[0.0, 0.0, 1.0]]), BATCH.indices))
    known = QuerySideStep(CodeBank(codes, torch.eye(2)), attack())(TwoBits(), BATCH)
    assert output.parts == known.parts


def prototype_net() -> PrototypeNet:
    """A network that says (1, 1), and little else."""
    net = PrototypeNet(classes=2, code_length=2, widths=(4, 4))
    with torch.no_grad():
        net.layers[3].weight.zero_()
        net.layers[3].bias.fill_(1.0)
    return net


def test_the_prototypes_of_atrdh_follow_the_codes_of_the_model():
    step = AtrdhStep(csq(), attack(), net=prototype_net(), bank=bank())
    labels, before = step._targets(1), step.net(LABELS).detach()
    assert step._prototypes(labels).tolist() == [[1, 1]]
    assert bool((step.net(LABELS) > before).all())  # toward the code (1, 1) of the one item
    step(TwoBits(), BATCH)
    assert step.bank.codes.tolist() == [[1, -1]]
    before = step.net(LABELS).detach()
    for _ in range(3):
        step(TwoBits(), BATCH)
    assert step.net(LABELS)[0, 1] < before[0, 1]


def test_atrdh_goes_toward_a_prototype_and_is_held_to_the_similarities():
    step = AtrdhStep(csq(), attack(), net=prototype_net(), bank=bank(), adversarial_weight=2.0)
    assert step.memory.tolist() == [[1.0, 1.0]]  # the code before hardening, until the item is visited
    output = step(TwoBits(), BATCH)
    # Toward (1, 1): logits (1.5, -0.5). The memory holds the clean code tanh (1, -1); an item is similar to itself.
    agreement = math.tanh(1.0) * (math.tanh(1.5) + math.tanh(0.5)) / 2.0
    parts = {"hashing": cross_entropy(1.0, 1.0), "similarity": (agreement - 1.0) ** 2}
    assert output.parts == pytest.approx(parts)
    assert output.loss.item() == pytest.approx(parts["hashing"] + 2.0 * parts["similarity"])
    assert step.memory.tolist() == [pytest.approx([math.tanh(1.0), -math.tanh(1.0)])]


def test_atrdh_draws_every_label_set_and_another_one_each_time():
    labels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    several = CodeBank(torch.ones(4, 2, dtype=torch.int8), labels)
    step = AtrdhStep(csq(), attack(), net=prototype_net(), bank=several)
    drawn = step._targets(100)
    assert len(torch.unique(drawn, dim=0)) == 3  # no image has a prototype for no label
    assert torch.equal(step._targets(100), drawn)
    step(TwoBits(), BATCH)
    assert not torch.equal(step._targets(100), drawn)


def test_saat_with_other_semantic_codes_leaves_them_and_is_held_to_them():
    codes = torch.tensor([[1, 1]], dtype=torch.int8)
    step = SaatStep(csq(), bank(), attack(), semantic_codes=lambda bank, labels: codes, quantization_weight=0.0)
    output = step(TwoBits(), BATCH)
    # Away from (1, 1): logits (0.5, -1.5).
    alignment = -(math.tanh(0.5) - math.tanh(1.5)) / 2.0
    assert output.parts["alignment"] == pytest.approx(alignment)
    assert output.loss.item() == pytest.approx(cross_entropy(1.0, 1.0) + alignment)


def options(bank: CodeBank) -> DefenseOptions:
    return DefenseOptions(
        model=TwoBits(),
        loss=csq(),
        bank=bank,
        inner=attack(),
        make_objective=agreement_objective,
        adversarial_weight=1.0,
        quantization_weight=1.0,
        precision="float32",
        seed=0,
        quiet=True,
    )


def test_cgat_weighs_by_jaccard_as_written_and_counts_alike_as_released():
    labels = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 1]])
    codes = torch.tensor([[1, 1], [-1, 1], [-1, 1]], dtype=torch.int8)
    bank = CodeBank(codes, labels)
    # For the label set {0}, Jaccard 1, 1/3, 1/3: the first bit is 1 - 2/3 > 0. Counted alike: 1 - 2 < 0.
    assert center_codes(bank, labels[:1]).tolist() == [[1, 1]]
    steps = {name: DEFENSES[name](options(bank)) for name in ("cgat", "cgat-mean")}
    assert steps["cgat"].semantic_codes(bank, labels[:1]).tolist() == [[1, 1]]
    assert steps["cgat-mean"].semantic_codes(bank, labels[:1]).tolist() == [[-1, 1]]


def test_cgat_has_no_quantization_term_and_saat_has_one():
    both = {name: DEFENSES[name](options(bank()))(TwoBits(), BATCH) for name in ("saat", "cgat")}
    # Single labels: mainstay and center codes agree, so all else is equal. The attack leaves (1, 1), the bank's code of
    # before: the adversarial code is tanh (0.5, -1.5). It is held to (1, -1), that of the clean image.
    alignment = -(math.tanh(0.5) + math.tanh(1.5)) / 2.0
    assert both["cgat"].loss.item() == pytest.approx(cross_entropy(1.0, 1.0) + alignment)
    quantization = ((1.0 - math.tanh(0.5)) ** 2 + (1.0 - math.tanh(1.5)) ** 2) / 2.0
    assert (both["saat"].loss - both["cgat"].loss).item() == pytest.approx(quantization, rel=1e-5)
