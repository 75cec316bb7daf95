from copy import deepcopy

import pytest
import torch
from torch import nn

from saat.attacks.gradient import PGD
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.defenses.inner import InnerAttack
from saat.defenses.semantic import SaatStep, alignment_loss, quantization_loss
from saat.losses.catalog import LOSSES, build_loss
from saat.models.hash_model import HashModel
from saat.types import Batch

ITEMS, CODE_LENGTH = 12, 16
LABELS = torch.eye(3).repeat(4, 1)
IMAGES = torch.rand(ITEMS, 3, 10, 10, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([3, 0, 7, 10])


@pytest.fixture
def model() -> HashModel:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
    return HashModel(nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2)), nn.Linear(32, 16), code_length=16)


def make_step(
    name: str = "dph", labels: torch.Tensor = LABELS, *, mode: str = "eval", seed: int = 0, **options
) -> SaatStep:
    bank = CodeBank(torch.ones(ITEMS, CODE_LENGTH, dtype=torch.int8), labels)
    attack = PGD(ThreatModel("linf", 8 / 255), steps=2, step_size=4 / 255, keep_best=False)
    loss = build_loss(name, labels=labels, code_length=CODE_LENGTH)
    return SaatStep(loss, bank, InnerAttack(attack, mode=mode, seed=seed), **options)


def batch(labels: torch.Tensor = LABELS) -> Batch:
    return Batch(IMAGES[ROWS], labels[ROWS], ROWS)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_weight(name, model):
    step = make_step(name, adversarial_weight=0.5, quantization_weight=2.0)
    output = step(model.train(), batch())
    assert list(output.parts) == ["hashing", "alignment", "quantization"]
    total = output.parts["hashing"] + 0.5 * output.parts["alignment"] + 2.0 * output.parts["quantization"]
    assert output.loss.item() == pytest.approx(total, rel=1e-5)
    output.loss.backward()
    weights = dict(model.named_parameters())
    del weights["backbone.0.bias"]  # batch normalization takes it off again
    assert all(bool(weight.grad.any()) and bool(torch.isfinite(weight.grad).all()) for weight in weights.values())


def test_only_the_clean_and_the_adversarial_pass_move_the_batch_statistics(model):
    make_step()(model.train(), batch())
    assert int(model.backbone[1].num_batches_tracked) == 2  # the inner attack has none
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())


def test_in_train_mode_the_inner_attack_moves_them_too(model):
    make_step(mode="train")(model.train(), batch())
    assert int(model.backbone[1].num_batches_tracked) == 4  # two steps more
    assert all(weight.requires_grad for weight in model.parameters())


def test_in_train_mode_it_is_the_published_loop(model):
    """Two batches of that, written down plainly, lead to the same weights and batch statistics."""
    model.backbone[5].p = 0.0  # whose draws would not be the same
    plain = deepcopy(model)
    step = make_step(mode="train")
    step.inner.attack.random_start = False
    loss = build_loss("dph", labels=LABELS, code_length=CODE_LENGTH)
    codes = torch.ones(ITEMS, CODE_LENGTH, dtype=torch.int8)
    optimizers = [torch.optim.SGD(each.train().parameters(), lr=0.05) for each in (model, plain)]
    for _ in range(2):
        optimizers[0].zero_grad()
        step(model, batch()).loss.backward()
        optimizers[0].step()

        images, mainstay, change = IMAGES[ROWS], mainstay_codes(CodeBank(codes, LABELS), LABELS[ROWS]), 0.0
        for _ in range(2):
            moved = (images + change).requires_grad_()
            (gradient,) = torch.autograd.grad((torch.tanh(plain(moved)) * mainstay).mean(), moved)
            change = (moved - images - 4 / 255 * gradient.sign()).clamp(-8 / 255, 8 / 255).detach()
            change = (images + change).clamp(0.0, 1.0) - images
        optimizers[1].zero_grad()
        adversarial = torch.tanh(plain(images + change))
        clean = plain(images)
        codes[ROWS] = torch.where(clean >= 0.0, 1, -1).to(torch.int8)
        mainstay = mainstay_codes(CodeBank(codes, LABELS), LABELS[ROWS])
        quantization = (adversarial - adversarial.detach().sign()).square().mean()
        alignment = -(adversarial * mainstay).mean()
        (loss(clean, LABELS[ROWS], ROWS) + alignment + 1e-4 * quantization).backward()
        optimizers[1].step()
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_new_clean_codes_are_in_the_bank_before_the_mainstay_codes_of_the_loss(model):
    step = make_step(adversarial_weight=1.0)
    before = step.bank.codes.clone()
    step(model.eval(), batch())
    output = step(model, batch())  # whose inner attack has the codes of now, too
    others = [row for row in range(ITEMS) if row not in ROWS]
    assert torch.equal(step.bank.codes[ROWS], model.encode(IMAGES[ROWS]))
    assert torch.equal(step.bank.codes[others], before[others])
    assert torch.equal(step.bank.set_sums, CodeBank(step.bank.codes, LABELS).set_sums)
    # With no room to move, the alignment is that of the clean codes to the mainstay codes of the updated bank.
    step.inner.attack = PGD(ThreatModel("linf", 0.0), steps=1)
    still = step(model, batch()).parts["alignment"]
    relaxed = torch.tanh(model(IMAGES[ROWS]))
    assert still == pytest.approx(alignment_loss(relaxed, mainstay_codes(step.bank, LABELS[ROWS])).item(), abs=1e-6)
    assert output.parts["alignment"] > still  # the attack does harm


def test_rows_without_a_label_take_part_in_the_hashing_loss_only(model):
    labels = LABELS.clone()
    labels[[3, 7]] = 0.0
    step = make_step(labels=labels)
    output = step(model.eval(), batch(labels))
    assert step.inner.attack.cost.model_evaluations == 2 * 2  # two steps of the two rows with a label
    assert bool(torch.isfinite(output.loss))
    assert torch.equal(step.bank.codes[ROWS], model.encode(IMAGES[ROWS]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_has_the_hashing_loss_alone(name, model):
    labels = torch.zeros_like(LABELS)
    output = make_step(name, labels=labels)(model, batch(labels))
    assert list(output.parts) == ["hashing"]
    output.loss.backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in model.parameters())


def test_a_saved_step_goes_on_as_if_nothing_had_happened(model, tmp_path):
    step = make_step()
    step(model.eval(), batch())
    torch.save(step.state_dict(), tmp_path / "step.pt")
    again = make_step()
    again.load_state_dict(torch.load(tmp_path / "step.pt", weights_only=True))
    assert torch.equal(again.bank.codes, step.bank.codes)
    assert torch.equal(again.bank.set_sums, step.bank.set_sums)
    assert torch.equal(again.loss.memory, step.loss.memory)
    outputs = [each(deepcopy(model), batch()) for each in (step, again)]
    assert outputs[0].parts == outputs[1].parts
    assert outputs[0].parts != make_step()(model, batch()).parts


def test_each_batch_and_each_seed_have_a_start_of_their_own(model):
    model.eval()
    step = make_step()
    first, second = step(model, batch()).parts, step(model, batch()).parts
    assert first["alignment"] != second["alignment"]
    assert make_step(seed=0)(model, batch()).parts == make_step(seed=0)(model, batch()).parts
    assert make_step(seed=0)(model, batch()).parts != make_step(seed=1)(model, batch()).parts


def test_terms_worked_by_hand():
    relaxed = torch.tensor([[0.5, -0.25], [0.0, 1.0]])
    # -(0.5 + 0.25 + 0 - 1) / 4 and (0.25 + 0.5625 + 1 + 0) / 4, with sign(0) = +1.
    assert alignment_loss(relaxed, torch.tensor([[1, -1], [1, -1]])).item() == pytest.approx(0.0625)
    assert quantization_loss(relaxed).item() == pytest.approx(0.453125)


def test_the_inner_attack_leaves_the_code_of_before_and_the_loss_holds_to_that_of_now(model, monkeypatch):
    """As released: the bank takes in the batch's codes between the two."""
    step, seen = make_step(), []
    monkeypatch.setattr(step, "goal", lambda *_: seen.append(step.bank.codes.clone()) or (lambda logits: logits.sum(1)))
    monkeypatch.setattr(
        step, "semantic_codes", lambda bank, labels: seen.append(bank.codes.clone()) or bank.codes[ROWS]
    )
    step(model.train(), batch())
    before, after = seen
    assert bool((before == 1).all())
    assert not bool((after[ROWS] == 1).all())


def test_a_memory_begins_with_the_codes_of_the_model_before():
    codes = torch.ones(ITEMS, CODE_LENGTH, dtype=torch.int8)
    loss = build_loss("dph", labels=LABELS, code_length=CODE_LENGTH, codes=codes)
    assert bool((loss.memory == 1.0).all())
    logits = torch.zeros(4, CODE_LENGTH, requires_grad=True)
    loss(logits, LABELS[ROWS], ROWS).backward()
    assert bool(logits.grad.any())  # with a memory of zeros the items not yet visited would not move anything
    build_loss("csq", labels=LABELS, code_length=CODE_LENGTH, codes=codes)  # has none
