import pytest
import torch

from saat.losses.pairwise import DPHLoss, dph_loss, pairwise_similarity


def test_items_that_share_a_label_are_similar():
    labels = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert pairwise_similarity(labels, labels[:2]).tolist() == [[1, -1], [-1, 1], [-1, -1]]


def test_a_value_worked_by_hand():
    # Agreements 0 and (0.5 + 0.5) / 2 = 0.5 against +1 and -1: (1 + 2.25) / 2.
    relaxed, memory = torch.tensor([[0.5, -0.5]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert dph_loss(relaxed, memory, torch.tensor([[1.0, -1.0]])).item() == pytest.approx(1.625)


def test_the_memory_starts_at_zero_and_keeps_the_last_codes():
    labels = torch.eye(2)
    loss = DPHLoss(labels=labels, code_length=8)
    firm = torch.full((1, 8), 50.0)  # tanh is 1
    # Item 0 agrees with itself, and has agreement 0 with item 1, not seen yet: (0 + (0 + 1)^2) / 2.
    assert loss(firm, labels[:1], torch.tensor([0])).item() == pytest.approx(0.5)
    # Item 1 is the opposite of item 0: all is as it should be.
    assert loss(-firm, labels[1:], torch.tensor([1])).item() == pytest.approx(0.0)
    assert loss.memory.tolist() == [[1.0] * 8, [-1.0] * 8]
    assert list(loss.state_dict()) == ["memory"]  # labels come from the data again


def test_no_gradient_flows_through_the_memory():
    loss = DPHLoss(labels=torch.eye(2), code_length=8)
    logits = torch.full((1, 8), 0.5, requires_grad=True)
    loss(logits, torch.eye(2)[:1], torch.tensor([0])).backward()
    assert not loss.memory.requires_grad
    # One item with t = tanh(0.5) in each bit: the mean of (t m - 1)^2 and (0 + 1)^2, with m = t held fast,
    # has the derivative (t m - 1) m (1 - t^2) / 8 in each of the 8 logits.
    t = torch.tensor(0.5).tanh().item()
    expected = (t * t - 1) * t * (1 - t * t) / 8
    assert logits.grad[0].tolist() == pytest.approx([expected] * 8)


def test_rows_without_a_label_take_no_part() -> None:
    labels = torch.tensor([[1, 0], [0, 0], [0, 1]])
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    DPHLoss(labels=labels, code_length=8)(logits, labels, torch.arange(3)).backward()
    assert logits.grad is not None
    assert logits.grad[1].abs().max() == 0
    assert (logits.grad[[0, 2]].abs().amax(1) > 0).all()


def test_nothing_is_pushed_away_from_an_item_without_a_label() -> None:
    labels = torch.tensor([[1, 0], [0, 0]])
    codes = torch.full((2, 8), 0.3, requires_grad=True)
    both = DPHLoss(labels=labels, code_length=8)(codes, labels, torch.arange(2))
    alone = DPHLoss(labels=labels[:1], code_length=8)(codes[:1], labels[:1], torch.arange(1))
    assert both.item() == pytest.approx(alone.item())
