from itertools import product

import pytest
import torch
from torch import nn

from saat.attacks.annealed import AnnealedPGD
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.evaluation import guides, ranking
from saat.evaluation.deployment import Deployment, soft_average_precision
from saat.evaluation.guides import LEAST_GAIN, RankingGoal, cheapest_clusters, flip_costs, worst_codes
from saat.hamming import sign_codes

EVERY_CODE = torch.tensor(list(product([-1, 1], repeat=8)), dtype=torch.int8)


def small_database(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """40 codes of 8 bits around three centers, with three labels of which some items have two."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 8, generator=generator)
    kind = torch.arange(40) % 3
    labels = torch.eye(3)[kind]
    labels[::7, 0] = 1
    return sign_codes(centers[kind] + 0.7 * torch.randn(40, 8, generator=generator)), labels


def exact(codes: torch.Tensor, labels: torch.Tensor, database: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return ranking.average_precision(ranking.count_by_distance(codes, labels, *database))


QUERY_LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]])


def test_costs_are_one_for_the_usual_bit():
    assert flip_costs(torch.tensor([[3.0, -1.0], [0.0, 0.0]])).tolist() == [[1.5, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_values_after_each_flip_are_those_of_a_naive_recount(seed):
    database = small_database(seed)
    deployment = Deployment(CodeBank(*database))
    for labels in QUERY_LABELS:
        every = labels.expand(len(EVERY_CODE), -1)
        after = guides._values_after_flips(deployment, EVERY_CODE.float(), deployment.relevant(every))
        assert after.shape == (256, 8)
        for bit in range(8):
            flipped = EVERY_CODE.clone()
            flipped[:, bit] *= -1
            assert torch.allclose(after[:, bit], exact(flipped, every, database), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_worst_codes_are_a_local_minimum_and_no_lower_than_the_best_of_all_codes(seed):
    database = small_database(seed)
    deployment = Deployment(CodeBank(*database))
    start = EVERY_CODE[:: 256 // 16]
    for labels in QUERY_LABELS:
        every = labels.expand(len(EVERY_CODE), -1)
        values = exact(EVERY_CODE, every, database)
        codes, found = worst_codes(deployment, start, every[: len(start)])
        assert codes.dtype == torch.int8
        assert torch.allclose(found, exact(codes, every[: len(start)], database), atol=1e-9)
        assert bool((found >= values.min() - 1e-9).all())
        assert bool((found <= exact(start, every[: len(start)], database) + 1e-9).all())
        for bit in range(8):
            neighbors = codes.clone()
            neighbors[:, bit] *= -1
            assert bool((exact(neighbors, every[: len(start)], database) >= found - LEAST_GAIN - 1e-9).all())
        assert found.min().item() == pytest.approx(values.min().item(), abs=1e-9)  # of 16 starts, one gets there


def test_the_first_flip_has_the_largest_gain_for_its_cost():
    # From ++: one relevant item there, one irrelevant at +- and two at -+, so AP is 1. After a flip of the first bit
    # two items lie before the relevant one, and AP is 1/3; after one of the second, one, and it is 1/2.
    codes = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, 1]], dtype=torch.int8)
    database = codes, torch.tensor([[1, 0], [0, 1], [0, 1], [0, 1]])
    deployment = Deployment(CodeBank(*database))
    after = guides._values_after_flips(deployment, torch.ones(1, 2), deployment.relevant(torch.tensor([[1, 0]])))
    assert after[0].tolist() == pytest.approx([1 / 3, 1 / 2])  # gains 2/3 and 1/2
    steps = [_first_flip(deployment, torch.tensor([costs])) for costs in ([1.0, 1.0], [2.0, 1.0])]
    assert steps == [0, 1]  # 2/3 against 1/2, then 1/3 against 1/2


def _first_flip(deployment: Deployment, costs: torch.Tensor) -> int:
    """Return the bit that is flipped first: the one whose codes are looked at the second time."""
    seen, original = [], guides._values_after_flips

    def spy(deployment: Deployment, codes: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
        seen.append(codes.clone())
        return original(deployment, codes, relevant)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guides, "_values_after_flips", spy)
        worst_codes(deployment, torch.ones(1, 2), torch.tensor([[1, 0]]), costs=costs)
    return int((seen[0] != seen[1])[0].int().argmax())


def test_the_start_is_left_as_it_was():
    database = small_database()
    start = torch.ones(4, 8)
    codes, _ = worst_codes(Deployment(CodeBank(*database)), start, QUERY_LABELS)
    assert bool((codes != 1).any())
    assert torch.equal(start, torch.ones(4, 8))


@pytest.mark.parametrize("floats", [1, 1 << 25])
def test_blocks_do_not_change_the_codes(floats, monkeypatch):
    deployment = Deployment(CodeBank(*small_database()))
    start = EVERY_CODE[[0, 77, 130, 255]]
    whole = worst_codes(deployment, start, QUERY_LABELS)
    monkeypatch.setattr("saat.evaluation.guides.BLOCK_FLOATS", floats)
    parts = worst_codes(deployment, start, QUERY_LABELS)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert worst_codes(deployment, start[:0], QUERY_LABELS[:0])[0].shape == (0, 8)


def test_a_query_without_a_relevant_item_keeps_its_code():
    deployment = Deployment(CodeBank(small_database()[0], torch.eye(4)[torch.zeros(40, dtype=torch.long)]))
    codes, values = worst_codes(deployment, EVERY_CODE[:2], torch.eye(4)[[1, 2]])
    assert torch.equal(codes, EVERY_CODE[:2])
    assert values.tolist() == [0.0, 0.0]


def clusters() -> tuple[CodeBank, Deployment]:
    """Three single labels, each with one code of its own that is its mainstay code, and a database of these."""
    codes = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]], dtype=torch.int8)
    bank = CodeBank(codes, torch.eye(3))
    return bank, Deployment(bank)


def test_the_cheapest_clusters_by_hand():
    # Costs |logit| / mean: with logits (4, 1, 2, 1), mean 2: (2, 0.5, 1, 0.5); own code ++++.
    # To cluster 1 (++--): 1 + 0.5 = 1.5; to cluster 2 (----): 4. Cluster 0 is the query's own.
    # Average precision, 1 where it is, is (1/2 + 1/3) / 2 at cluster 1 and 1/3 at cluster 2.
    logits = torch.tensor([[4.0, 1.0, 2.0, 1.0]])
    found = cheapest_clusters(*clusters(), logits, torch.tensor([[1, 0, 0]]), count=2)
    assert found.tolist() == [[[1, 1, -1, -1], [-1, -1, -1, -1]]]
    # Where there are fewer than asked for, the cheapest come again.
    again = cheapest_clusters(*clusters(), logits, torch.tensor([[1, 0, 0]]), count=5)[0]
    assert torch.equal(again[[0, 2, 4]], again[[0, 0, 0]])
    assert torch.equal(again[[1, 3]], again[[1, 1]])
    # The label set of two leaves one that is wrong.
    only = cheapest_clusters(*clusters(), logits, torch.tensor([[1, 1, 0]]), count=2)
    assert only.tolist() == [[[-1, -1, -1, -1]] * 2]
    # Own code --+-: to cluster 0 costs 2 + 0.5 + 0.5 = 3, to cluster 1 2 + 0.5 + 1 = 3.5.
    other = cheapest_clusters(*clusters(), logits * torch.tensor([-1, -1, 1, -1]), torch.tensor([[0, 0, 1]]), count=2)
    assert other.tolist() == [[[1, 1, 1, 1], [1, 1, -1, -1]]]


def test_a_cluster_next_to_the_query_that_takes_nothing_comes_last():
    # From ++++ with equal costs: label 1 is one flip away, and there label 0's item still comes first of the two that
    # matter; label 2 is four flips away and has it last.
    codes = torch.tensor([[1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1]], dtype=torch.int8)
    database = torch.cat([codes[[0, 2]], -codes[:1]])
    deployment = Deployment(CodeBank(database, torch.eye(3)[[0, 2, 1]]))
    found = cheapest_clusters(CodeBank(codes, torch.eye(3)), deployment, torch.ones(1, 4), torch.eye(3)[:1], count=2)
    assert found.tolist() == [[[-1, -1, -1, -1], [1, 1, 1, -1]]]


def test_label_sets_with_one_code_are_one_cluster():
    codes = torch.tensor([[1, 1, 1, 1], [-1, 1, 1, 1], [-1, 1, 1, 1], [-1, -1, -1, -1]], dtype=torch.int8)
    bank = CodeBank(codes, torch.eye(4))
    found = cheapest_clusters(bank, Deployment(bank), torch.ones(1, 4), torch.eye(4)[:1], count=2)
    assert sorted(found[0].tolist()) == [[-1, -1, -1, -1], [-1, 1, 1, 1]]


def test_a_query_that_shares_a_label_with_every_set_goes_away_from_them():
    # The negated codes are ----, --++ and ++++; from ++++ with the costs above they cost 4, 2.5 and 0.
    logits = torch.tensor([[4.0, 1.0, 2.0, 1.0]])
    found = cheapest_clusters(*clusters(), logits, torch.tensor([[1, 1, 1]]), count=3)
    assert found.tolist() == [[[1, 1, 1, 1], [-1, -1, 1, 1], [-1, -1, -1, -1]]]
    both = cheapest_clusters(*clusters(), logits.expand(2, -1), torch.tensor([[1, 1, 1], [1, 0, 0]]), count=3)
    assert torch.equal(both[0], found[0])  # rows do not depend on each other
    assert both[1, 0].tolist() == [1, 1, -1, -1]


def test_label_sets_without_a_label_are_no_cluster():
    codes = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1]], dtype=torch.int8)
    bank = CodeBank(codes, torch.tensor([[1, 0], [0, 0]]))
    found = cheapest_clusters(bank, Deployment(bank), torch.ones(1, 4), torch.tensor([[0, 1]]), count=2)
    assert bool((found == found[:, :1]).all())  # the one labeled set, twice


def linear_model(scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 16))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(model[1].weight.shape, generator=generator))
        model[1].bias.copy_(-scale * model[1].weight.sum(1) / scale / 2)
    return model


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.eye(4)[torch.arange(80) % 4]
    images = 0.5 + 0.3 * torch.randn(4, 3, 6, 6, generator=generator).repeat(20, 1, 1, 1)
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1), labels


def codes_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return sign_codes(model(images))


def test_the_ranking_goal_lowers_average_precision_whatever_the_scale_of_the_logits():
    images, labels = pictures()
    found, threat = {}, ThreatModel("linf", 16 / 255)
    for scale in (1.0, 1024.0):  # a power of two, so that every product is the same number but for its exponent
        model = linear_model(scale)
        database = codes_of(model, images[20:]), labels[20:]
        goal = RankingGoal(Deployment(CodeBank(*database)))
        assert not goal.targeted
        objective = goal(model, images[:20], labels[:20])
        found[scale] = AnnealedPGD(threat, steps=20)(model, images[:20], objective)
        before, after = (exact(codes_of(model, x), labels[:20], database) for x in (images[:20], found[scale]))
        assert after.mean().item() < before.mean().item() - 0.3
    assert torch.equal(found[1.0], found[1024.0])


def test_the_ranking_objective_softens_nothing_where_no_gradient_is_wanted():
    asked = []

    class Asked(Deployment):
        def soft_counts(self, relaxed, relevant):
            asked.append(relaxed)
            return super().soft_counts(relaxed, relevant)

    deployment = Asked(CodeBank(torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8), torch.eye(2)))
    model, image = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), torch.rand(1, 3, 1, 1)
    objective = RankingGoal(deployment)(model, image, torch.tensor([[1, 0]]))
    logits = torch.tensor([[0.1, -0.2]])
    value = objective(logits)
    assert [codes.tolist() for codes in asked] == [[[1.0, -1.0]]]
    assert torch.equal(objective(logits.requires_grad_()).detach(), value)
    assert len(asked) == 3


def test_the_ranking_objective_has_exact_values_and_the_gradient_of_the_softened_ranking():
    # One item at ++ that is relevant, one at -- that is not: the first one at ++ is first, at -- last, and at +- both
    # lie at distance 1, so that AP is (1 + 1/2) / 2.
    codes = torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8)
    deployment = Deployment(CodeBank(codes, torch.eye(2)))
    model, image = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), torch.rand(1, 3, 1, 1)
    objective = RankingGoal(deployment)(model, image, torch.tensor([[1, 0]]))
    scale = model(image).abs().mean().item() / 2.0
    for logits, value in (([0.1, 0.2], 1.0), ([0.1, -0.2], 0.75), ([-0.1, -0.2], 0.5)):
        given = torch.tensor([logits], requires_grad=True)
        assert objective(given).item() == value
        relaxed = torch.tanh(given / scale)
        soft = soft_average_precision(*deployment.soft_counts(relaxed, torch.tensor([[0.0, 1.0]])))
        wanted, found = (torch.autograd.grad(x.sum(), given)[0] for x in (soft, objective(given)))
        assert torch.allclose(found, wanted, rtol=1e-4)
        assert bool((found != 0).all())
