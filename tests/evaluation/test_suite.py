from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import QUERIES, Linear, Masked, Randomized, Scene, scene

from saat.attacks.goals import CodesGoal, SemanticGoal
from saat.attacks.objectives import flips_objective
from saat.attacks.threat import ThreatModel
from saat.attacks.universal import fit_universal
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError
from saat.evaluation.suite import BLACK_BOX, EOT_SAMPLES, MEMBERS, SUITES, SuiteBatch, round_to_8_bits
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits, wrap_module


def equipped(place: Scene) -> SuiteBatch:
    """The batch with a surrogate, whose directions are near to the model's, and a universal change."""
    batch = place.batch
    near = Linear()
    near.weight.data += 0.02 * torch.randn(near.weight.shape, generator=torch.Generator().manual_seed(9))
    surrogate = wrap_module(near, image_size=8)
    bank = CodeBank(sign_codes(encode_logits(surrogate, batch.images, quiet=True)), batch.labels)
    goal = SemanticGoal(batch.bank, make_objective=flips_objective)
    change = fit_universal(batch.model, batch.images, batch.labels, goal, batch.threat, epochs=3, quiet=True)
    return replace(batch, surrogates=((surrogate, bank),), universal=lambda: change)


WEAK = ("universal", "hag")  # with ten steps, or one change for four classes


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_stays_in_the_ball_takes_something_and_counts_its_cost(name, norm):
    batch = equipped(scene(Linear(), epsilon={"linf": 8 / 255, "l2": 0.5}[norm], norm=norm))
    found, cost = MEMBERS[name](batch)
    assert found.shape == batch.images.shape
    assert bool((found != batch.images).any())
    assert not bool((batch.threat.violation(found, batch.images) > 0).any())
    clean, attacked = (batch.average_precision(images).mean().item() for images in (batch.images, found))
    assert attacked < clean - (-0.01 if name in WEAK else 0.03)
    searched = 1 if name == "universal" else batch.steps
    assert cost.model_evaluations >= (EOT_SAMPLES if name == "expectation" else searched) * QUERIES
    assert (cost.gradients == 0) == (name in ("square", "universal"))
    spent = cost.model_evaluations
    again, cost_again = MEMBERS[name](batch)
    assert torch.equal(again, found)  # the seed decides
    # The cost is that of this call alone, though a universal change is the same attack each time.
    assert cost_again.model_evaluations == cost.model_evaluations == spent


def test_l2_rounding_keeps_small_changes():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(60, 200, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    threat = ThreatModel("l2", 0.25)  # 1.15 levels a value: toward zero, most of it would be lost
    images = threat.project(clean / 255 + torch.randn(4, 3, 32, 32, generator=generator), clean / 255)
    rounded = round_to_8_bits(images, clean, threat)
    sizes = threat.size(rounded / 255, clean / 255)
    assert not bool(threat.violation(rounded / 255, clean / 255).any())
    assert bool((sizes > 0.999 * 0.25).all())


def test_members_ask_for_what_they_need():
    with pytest.raises(ArgumentError, match="`universal`"):
        MEMBERS["universal"](scene(Linear()).batch)
    with pytest.raises(ArgumentError):
        MEMBERS["transfer"](scene(Linear()).batch)


def test_expectation_beats_single_passes_on_a_model_that_draws_at_random():
    batch = scene(Randomized(), steps=40).batch
    assert MEMBERS["expectation"](batch)[1].gradients == 5 * QUERIES  # as many passes as other members
    torch.manual_seed(0)
    found, _ = MEMBERS["expectation"](batch)
    assert batch.average_precision(found).mean() < batch.average_precision(batch.images).mean() - 0.3


def test_average_precision_is_that_of_the_metrics_in_eval_mode():
    place = scene(Linear())
    noisy = torch.nn.Sequential(torch.nn.Dropout(0.9), place.batch.model).train()
    expected = place.measure(place.batch.images).average_precision
    assert torch.allclose(place.batch.average_precision(place.batch.images), expected, atol=1e-9)
    found = replace(place.batch, model=noisy).average_precision(place.batch.images)
    assert torch.allclose(found, expected, atol=1e-9)
    assert noisy.training


def test_the_lowest_of_several_images_is_chosen_query_by_query():
    batch = scene(Linear()).batch
    found, _ = MEMBERS["away-from-mainstay"](batch)
    mixed = torch.where((torch.arange(QUERIES) % 2 == 0).view(-1, 1, 1, 1), found, batch.images)
    other = torch.where((torch.arange(QUERIES) % 2 == 1).view(-1, 1, 1, 1), found, batch.images)
    best = batch.lowest([batch.images, mixed, other])
    values = batch.average_precision(best)
    for images in (batch.images, mixed, other):
        assert bool((values <= batch.average_precision(images) + 1e-12).all())
    assert torch.equal(values, torch.minimum(batch.average_precision(mixed), batch.average_precision(other)))


def test_the_nearest_clusters_are_the_lowest_of_three_searches():
    batch = scene(Linear()).batch
    found, cost = MEMBERS["nearest-clusters"](batch)
    # Three searches of 5 steps, each with the clean and the last images, and one pass to compare them.
    assert cost.model_evaluations == 3 * (5 + 2) * QUERIES + 3 * QUERIES
    away, _ = MEMBERS["away-from-mainstay"](batch)
    assert batch.average_precision(found).mean() < batch.average_precision(batch.images).mean() - 0.1
    assert not torch.equal(found, away)


def test_soft_ranking_starts_from_the_best_so_far():
    clean = scene(Masked()).batch  # no gradient moves a pixel: what it returns is where it started, or the clean image
    batch = replace(clean, best=(clean.images + 7 / 255).clamp(max=1.0))
    found, _ = MEMBERS["soft-ranking"](batch)
    started, stayed = ((found - images).abs().amax((1, 2, 3)) < 1e-6 for images in (batch.best, batch.images))
    assert bool((started | stayed).all())
    assert bool(started.any())


def test_draws_differ_between_searches_and_seeds():
    batch = scene(Linear(), steps=1).batch
    goal = CodesGoal(torch.ones(QUERIES, 16), flips_objective)
    first, again, other = (batch.run(batch.apgd(), goal, *parts)[0] for parts in (("a", 0), ("a", 0), ("a", 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_suites_name_members_and_soft_ranking_comes_after_those_it_starts_from():
    for members in SUITES.values():
        assert set(members) <= MEMBERS.keys()
        assert len(set(members)) == len(members)
        assert members.index("soft-ranking") > 0 if "soft-ranking" in members else True
        # What starts from the images of a black box would pass for as strong as it.
        seen = members[members.index("soft-ranking") :] if "soft-ranking" in members else ()
        assert set(BLACK_BOX) & set(members) <= set(seen)
    assert set(SUITES["full"]) == MEMBERS.keys()
    assert set(BLACK_BOX) <= MEMBERS.keys()


@pytest.mark.parametrize(("epsilon", "levels"), [(8 / 255, 8), (2.5 / 255, 2), (0.9 / 255, 0), (1.0, 255)])
def test_linf_changes_are_rounded_to_the_whole_gray_levels_in_epsilon(epsilon, levels):
    threat = ThreatModel("linf", epsilon)
    clean = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    for sign in (1, -1):
        rounded = round_to_8_bits(threat.project(clean / 255 + sign * epsilon, clean / 255), clean, threat)
        expected = (clean.int() + sign * levels).clamp(0, 255)
        assert torch.equal(rounded.int(), expected)
    nearest = round_to_8_bits(clean / 255 + 0.4 / 255, clean, threat)
    assert torch.equal(nearest, clean)


@settings(max_examples=60)
@given(st.sampled_from(["linf", "l2"]), st.floats(0.0, 1.0), st.integers(0, 9999))
def test_rounding_never_leaves_the_threat_model(norm, epsilon, seed):
    generator = torch.Generator().manual_seed(seed)
    threat = ThreatModel(norm, epsilon)
    clean = torch.randint(0, 256, (2, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images = threat.project(clean / 255 + torch.randn(2, 3, 4, 4, generator=generator), clean / 255)
    rounded = round_to_8_bits(images, clean, threat)
    assert bool((threat.size(rounded / 255, clean / 255) <= epsilon + 1e-6).all())
    assert float((rounded / 255 - images).abs().max()) < 1.0001 / 255
    assert torch.equal(round_to_8_bits(clean / 255, clean, threat), clean)


def test_l2_rounding_makes_no_change_longer():
    # 48 changes of 0.9995 levels: one level each would be longer than epsilon.
    clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    threat = ThreatModel("l2", 0.9995 * 48**0.5 / 255)
    images = clean / 255 + 0.9995 / 255
    assert not bool(threat.violation(images, clean / 255).any())
    rounded = round_to_8_bits(images, clean, threat)
    assert not bool(threat.violation(rounded / 255, clean / 255).any())
    assert int((rounded - clean).sum()) == 47
    assert torch.equal(round_to_8_bits(clean / 255 - 3.7 / 255, clean, threat), clean - 3)
