import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import Constant, Linear, Masked, Randomized, Scene, scene

from saat.attacks.goals import SemanticGoal
from saat.evaluation import sanity
from saat.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from saat.evaluation.suite import BLACK_BOX, MEMBERS, round_to_8_bits
from saat.evaluation.trials import run_trials
from saat.hamming import sign_codes


def measured(noise: float, *, classes: int = 4, rows: int = 400, constant: bool = False) -> RetrievalMetrics:
    """Measure noisy class codes: noise 0 is perfect search, large noise is chance."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(classes, 32, generator=generator)
    labels = torch.arange(rows) % classes
    codes = sign_codes(centers[labels] + noise * torch.randn(rows, 32, generator=generator))
    if constant:
        codes = torch.ones_like(codes)
    multi_hot = torch.nn.functional.one_hot(labels, classes).to(torch.uint8)
    return evaluate_retrieval(codes[:100], multi_hot[:100], codes[100:], multi_hot[100:])


CALM = torch.linspace(-5, 5, 64).reshape(2, 32)


def names(flags: list[sanity.Flag]) -> list[str]:
    return [flag.name for flag in flags]


def test_a_sound_measurement_raises_no_flag():
    assert sanity.find_flags(measured(0.5), measured(2.0), logits=CALM, overlap=0) == []
    assert sanity.find_flags(measured(0.5), None, logits=CALM, overlap=0) == []


def test_one_code_a_class_is_not_a_collapse():
    metrics = measured(0.0, classes=4)
    assert metrics.distinct_codes == 4
    assert sanity.collapsed_codes(metrics) is None


def test_a_constant_code_is_collapsed_and_at_chance():
    constant = measured(0.5, constant=True)
    assert names(sanity.find_flags(constant, constant, logits=CALM, overlap=0)) == [
        "collapsed-codes",
        "clean-at-chance",
    ]


@pytest.mark.parametrize("change", [{"distinct_codes": 1}, {"bit_entropy": 0.01}])
def test_few_codes_or_dead_bits_are_a_collapse(change: dict[str, float]):
    flag = sanity.collapsed_codes(replace(measured(0.5), **change))
    assert flag is not None
    assert flag.name == "collapsed-codes"


def test_queries_collapse_alone():
    """Where another model encodes the database, whose codes are as they should be."""
    metrics = measured(0.5)
    flags = sanity.find_flags(metrics, None, logits=CALM[:1].repeat(20, 1), overlap=0)
    assert names(flags) == ["collapsed-codes"]
    assert "1 distinct query codes" in flags[0].message
    assert sanity.find_flags(metrics, None, logits=CALM[:1], overlap=0) == []  # one query alone says nothing


def test_fewer_codes_than_half_the_classes_are_a_collapse():
    metrics = measured(0.5, classes=20)
    assert sanity.collapsed_codes(replace(metrics, distinct_codes=10)) is None
    flag = sanity.collapsed_codes(replace(metrics, distinct_codes=9))
    assert flag is not None
    assert "9 distinct" in flag.message


def test_no_more_codes_are_asked_for_than_there_are():
    metrics = measured(0.5, classes=20)
    assert sanity.collapsed_codes(replace(metrics, distinct_codes=4, code_length=2)) is None
    many = replace(metrics, relevant_share=1 / 374, database=150)  # 187 for each group, of 150 items
    assert [sanity.collapsed_codes(replace(many, distinct_codes=one)) is None for one in (150, 149)] == [True, False]


def test_one_query_leads_nobody():
    values = torch.tensor([0.9])
    assert sanity.black_box_wins({"apgd": values}, {"square": values - 0.5}) is None


def test_random_codes_are_at_chance():
    flag = sanity.clean_at_chance(measured(1e6))
    assert flag is not None
    assert "chance 0.2" in flag.message


def test_a_lead_is_judged_query_by_query():
    metrics = measured(0.5)
    chance = torch.linspace(0.05, 0.95, 100, dtype=torch.float64)  # differs widely between queries
    assert (
        sanity.clean_at_chance(replace(metrics, chance_average_precision=chance, average_precision=chance + 0.01))
        is None
    )
    noise = 0.5 * (-1.0) ** torch.arange(100)
    leads = replace(metrics, chance_average_precision=chance, average_precision=chance + 0.01 + noise)
    assert sanity.clean_at_chance(leads) is not None


def test_an_attack_that_helps_is_flagged():
    assert names(sanity.find_flags(measured(2.0), measured(0.5), logits=CALM, overlap=0)) == ["attacked-above-clean"]
    assert sanity.attacked_above_clean(measured(2.0), measured(2.0)) is None


def test_logits_are_saturated_when_over_half_lie_beyond_the_flat_end_of_tanh():
    half = torch.tensor([[20.0, -20.0, 1.0, 9.5]])
    assert sanity.saturated_logits(half) is None
    flag = sanity.saturated_logits(torch.tensor([[20.0, -20.0, 9.6, 1.0]]))
    assert flag is not None
    assert flag.name == "saturated-logits"
    assert "75%" in flag.message


def test_overlap_is_flagged_with_its_number():
    flag = sanity.overlapping_splits(3)
    assert flag is not None
    assert "3 queries" in flag.message
    assert sanity.overlapping_splits(0) is None


def flags_of(place: Scene, members: tuple[str, ...] = ("away-from-mainstay", "square")) -> list[str]:
    """The names of all flags of a model under a suite: the worst case of each query counts, as in the recipe."""
    found = {name: place.measure(MEMBERS[name](place.batch)[0]) for name in members}
    clean = place.measure(place.batch.images)
    attacked = min(found.values(), key=lambda metrics: metrics.map)
    values = {name: metrics.average_precision for name, metrics in found.items()}
    flags = sanity.find_flags(
        clean,
        attacked,
        logits=place.logits,
        overlap=0,
        trials=run_trials(place.batch),
        white={name: value for name, value in values.items() if name not in BLACK_BOX},
        black={name: value for name, value in values.items() if name in BLACK_BOX},
    )
    return names(flags)


class Snapping(Linear):
    """Sees a pixel as it is within 0.02 of an eighth, and elsewhere as the nearest eighth, without a gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        eighths = (images * 8.0).round() / 8.0
        return super().forward(torch.where((images - eighths).abs() < 0.02, images, eighths))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.125, 1.0, 2.0])
def test_a_sound_model_raises_no_flag_whatever_the_budget(norm, share):
    assert flags_of(scene(Linear(), norm=norm, epsilon=share * {"linf": 8 / 255, "l2": 0.5}[norm])) == []


def test_grown_logits_are_flagged_and_change_nothing_else():
    plain, grown = scene(Linear()), scene(Linear(scale=100.0))
    assert flags_of(grown) == ["saturated-logits"]
    found = [MEMBERS["away-from-mainstay"](place.batch)[0] for place in (plain, grown)]
    maps = [place.measure(images).map for place, images in zip((plain, grown), found, strict=True)]
    assert maps[0] == pytest.approx(maps[1], abs=0.02)


def test_a_constant_model_is_flagged():
    assert flags_of(scene(Constant())) == ["collapsed-codes", "clean-at-chance", "vanished-gradients"]


def test_masked_gradients_are_flagged_in_four_ways():
    assert flags_of(scene(Masked())) == [
        "black-box-wins",
        "vanished-gradients",
        "more-steps-no-stronger",
        "large-epsilon-above-chance",
    ]


def test_a_randomized_model_is_flagged():
    assert flags_of(scene(Randomized())) == ["unstable-model"]


def test_a_search_that_goes_astray_in_a_large_ball_is_flagged():
    """Pixels of eighths; the model sees changes below 0.02 only. In a small ball attacks work; in a larger one their
    steps, twice epsilon, leave the narrow band at once, and find no gradient outside it."""
    place = scene(Snapping(), epsilon=0.06, levels=8)
    trials, chance = run_trials(place.batch), place.measure(place.batch.images).chance_map
    flag = sanity.weak_radius(trials.radii, epsilon=trials.epsilon, chance=chance)
    assert flag is not None
    assert "at 0.015," in flag.message
    assert "at 0.03" in flag.message
    assert "larger-epsilon-weaker" in flags_of(place)


def test_an_attack_toward_the_own_labels_is_flagged():
    place = scene(Linear(), noise=0.25)
    batch = place.batch
    helped, _ = batch.run(batch.apgd(), SemanticGoal(batch.bank, targeted=True))
    flags = sanity.find_flags(
        place.measure(batch.images), place.measure(helped), logits=place.logits, overlap=2, trials=run_trials(batch)
    )
    assert names(flags) == ["attacked-above-clean", "overlap"]


@pytest.mark.parametrize(
    ("norm", "epsilon", "lost"),
    [("linf", 1 / 255, False), ("linf", 1.9 / 255, True), ("l2", 0.5, False)],
)
def test_a_budget_between_gray_levels_is_lost_to_rounding(norm, epsilon, lost):
    place = scene(Linear(), norm=norm, epsilon=epsilon, noise=0.25)
    images = place.batch.images
    found, _ = MEMBERS["away-from-mainstay"](place.batch)
    saved = round_to_8_bits(found, (images * 255.0).round().to(torch.uint8), place.batch.threat) / 255.0
    clean, exact, rounded = (place.measure(each) for each in (images, found, saved))
    worst = replace(rounded, average_precision=torch.minimum(rounded.average_precision, clean.average_precision))
    flags = sanity.find_flags(clean, worst, logits=place.logits, overlap=0, before_rounding=exact.average_precision)
    assert names(flags) == ["lost-to-rounding"] * lost


def values(*means: float, spread: float = 0.0) -> list[torch.Tensor]:
    """One tensor of 100 queries for each mean; the same noise in all, and a noise of its own in each."""
    shared = torch.linspace(-0.1, 0.1, 100, dtype=torch.float64)
    own = torch.Generator().manual_seed(0)
    return [mean + shared + spread * torch.randn(100, generator=own, dtype=torch.float64) for mean in means]


def test_more_steps_must_take_more_while_there_is_something_to_take():
    few, many = values(0.6, 0.59)
    assert sanity.weak_search({1: few, 20: many}, few, 0.3) is None
    assert sanity.weak_search({1: few, 20: few}, many, 0.3) is None  # a larger epsilon takes more: the search works
    same = sanity.weak_search({1: few, 20: few}, few, 0.3)
    assert same is not None
    assert "0.6000 after 1, 0.6000 after 20" in same.message
    assert sanity.weak_search({1: few, 20: few}, few, 0.61) is None  # nothing is left to take
    noisy = values(0.6, 0.59, spread=0.2)
    assert sanity.weak_search({1: noisy[0], 20: noisy[1]}, noisy[0], 0.3) is not None  # a lead within noise


def test_a_larger_radius_may_not_be_weaker_anywhere():
    a, b, c = values(0.6, 0.4, 0.5)
    assert sanity.weak_radius({1.0: a, 2.0: c, 3.0: b}, epsilon=2.0, chance=0.45) is None
    assert sanity.weak_radius({1.0: a, 2.0: a, 3.0: a}, epsilon=2.0, chance=0.45) is None
    flag = sanity.weak_radius({0.01: a, 0.02: b, 0.04: c}, epsilon=0.02, chance=0.45)
    assert flag is not None
    assert "0.4000 at 0.02, 0.5000 at 0.04" in flag.message
    assert sanity.weak_radius({0.01: a, 0.02: b, 0.04: c}, epsilon=0.02, chance=0.6) is None  # nothing is left to find
    assert sanity.weak_radius({0.01: a, 0.02: b, 0.04: c}, epsilon=0.04, chance=0.6) is not None  # the report's number


def test_black_boxes_win_only_by_more_than_noise():
    white, black = values(0.5, 0.4)
    assert sanity.black_box_wins({"white": black}, {"black": white}) is None
    assert sanity.black_box_wins({}, {"black": black}) is None
    assert sanity.black_box_wins({"white": white}, {}) is None
    flag = sanity.black_box_wins({"weak": white + 0.2, "white": white}, {"black": black, "other": white})
    assert flag is not None
    assert flag.message.endswith("MAP black 0.4000, white 0.5000")


def test_rounding_may_undo_a_tenth_of_what_is_taken():
    clean, before = values(0.8, 0.3)
    assert sanity.lost_to_rounding(clean, before, before + 0.049) is None
    flag = sanity.lost_to_rounding(clean, before, before + 0.1)
    assert flag is not None
    assert "20% of what the attacks take: MAP 0.3000 before, 0.4000 after" in flag.message
    noisy = before + torch.tensor([1.1, -0.9], dtype=torch.float64).repeat(50)  # leads by 0.1, with noise of 0.1
    assert sanity.lost_to_rounding(clean, before, noisy) is None
    assert sanity.lost_to_rounding(clean, clean + 0.1, clean) is None  # clean images count where attacks take nothing


def test_only_the_largest_radius_is_held_against_chance():
    a, b, chance = values(0.6, 0.2, 0.3)
    assert sanity.large_radius_above_chance({1.0: a, 2.0: b}, chance) is None
    flag = sanity.large_radius_above_chance({1.0: b, 2.0: a}, chance)
    assert flag is not None
    assert "MAP 0.6000 at 2, chance 0.3000" in flag.message


def test_thresholds_of_gradients_and_stability():
    assert sanity.vanished_gradients(0.1) is None
    assert "11% of the queries" in sanity.vanished_gradients(0.11).message
    assert sanity.unstable_model(1e-3) is None
    assert sanity.unstable_model(2e-3).name == "unstable-model"
    assert sanity.unstable_model(float("nan")).name == "unstable-model"


def test_every_flag_has_its_section_in_the_documentation():
    raised = set(re.findall(r'Flag\(\s*"([a-z-]+)"', inspect.getsource(sanity)))
    text = (Path(__file__).parents[2] / "docs" / "flags.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([a-z-]+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    assert len(raised) == 12
    assert sections.keys() == raised
    for section in sections.values():
        for part in ("**Raised if**", "**Meaning.**", "**What to do.**"):
            assert section.count(part) == 1
