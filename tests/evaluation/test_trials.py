from dataclasses import replace

import pytest
import torch
from planted import Constant, Linear, Masked, Randomized, scene
from torch import nn

from saat.attacks.goals import SemanticGoal
from saat.evaluation.suite import SuiteBatch
from saat.evaluation.trials import (
    RADII,
    SWEEP_STEPS,
    Trials,
    instability,
    run_trials,
    vanished_share,
)

SWEEPS = ("radii", "steps")


def test_a_sound_model_falls_as_radius_and_steps_grow():
    batch = scene(Linear()).batch
    trials = run_trials(batch)
    assert trials.vanished_gradients == trials.instability == 0.0
    assert list(trials.radii) == [0.0, *(share * 8 / 255 for share in RADII), 0.5]
    assert list(trials.steps) == list(SWEEP_STEPS)
    for sweep in (trials.radii, trials.steps):
        means = [values.mean().item() for values in sweep.values()]
        assert means == sorted(means, reverse=True)
        assert means[0] > means[-1] + 0.2
        assert all(values.shape == (40,) for values in sweep.values())
    assert trials.radii[8 / 255] is trials.steps[20]  # one attack, which runs once
    assert torch.equal(trials.radii[0.0], batch.average_precision(batch.images))
    assert trials.radii[2 / 255].mean() < trials.radii[0.0].mean()


def test_json_holds_the_means():
    trials = run_trials(scene(Linear(), norm="l2", epsilon=0.5).batch)
    found = trials.to_json()
    assert found.keys() == {"vanished_gradients", "instability", "map_by_epsilon", "map_by_steps"}
    by_epsilon = found["map_by_epsilon"]
    assert isinstance(by_epsilon, dict)
    assert list(by_epsilon) == ["0", "0.125", "0.25", "0.5", "1", "2", "6.9282"]  # 0.5 * sqrt(3 * 8 * 8)
    assert by_epsilon["0.5"] == pytest.approx(trials.radii[0.5].mean().item())
    assert list(found["map_by_steps"]) == ["1", "5", "20"]


def test_trials_come_back_from_their_tensors():
    trials = run_trials(scene(Randomized()).batch)
    again = Trials.of(trials.tensors())
    assert again.to_json() == trials.to_json()
    assert torch.equal(again.beyond_epsilon(), trials.beyond_epsilon())
    assert (list(again.radii), list(again.steps), again.epsilon) == (
        list(trials.radii),
        list(trials.steps),
        trials.epsilon,
    )


def test_trials_of_batches_are_joined_query_by_query():
    one, other = run_trials(scene(Linear()).batch), run_trials(scene(Masked()).batch)
    one = replace(one, instability=0.25)
    few = replace(other, **{name: {key: value[:10] for key, value in getattr(other, name).items()} for name in SWEEPS})
    joined = Trials.joined([one, few])
    assert joined.vanished_gradients == pytest.approx((40 * one.vanished_gradients + 10 * few.vanished_gradients) / 50)
    assert few.vanished_gradients > one.vanished_gradients
    assert (joined.instability, joined.epsilon) == (0.25, one.epsilon)
    for name in SWEEPS:
        for key, values in getattr(joined, name).items():
            assert torch.equal(values, torch.cat([getattr(one, name)[key], getattr(few, name)[key]]))
    assert Trials.joined([one]).to_json() == one.to_json()


def test_no_radius_is_beyond_that_of_plain_gray():
    radii = list(run_trials(scene(Linear(), epsilon=0.2).batch).radii)
    assert radii == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.4, 0.5])


def test_best_and_steps_take_no_part():
    batch = scene(Linear(), steps=1).batch
    other = replace(batch, steps=50, best=1 - batch.images)
    assert run_trials(batch).to_json() == run_trials(other).to_json()


def test_beyond_epsilon_is_the_next_radius():
    trials = run_trials(scene(Linear()).batch)
    assert trials.beyond_epsilon() is trials.radii[16 / 255]
    widest = run_trials(scene(Linear(), epsilon=0.5).batch)
    assert widest.beyond_epsilon() is widest.radii[0.5]


def share_of(batch: SuiteBatch) -> float:
    objective = SemanticGoal(batch.bank)(batch.model, batch.images, batch.labels)
    return vanished_share(batch.model, batch.images, objective)


def test_gradients_that_vanish_are_counted_image_by_image():
    assert share_of(scene(Masked()).batch) == share_of(scene(Constant()).batch) == 1.0

    class HalfMasked(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return torch.where((images[:, :1, 0, 0] > 0.5), logits, logits.detach())

    batch = scene(HalfMasked()).batch
    expected = (batch.images[:, 0, 0, 0] <= 0.5).float().mean().item()
    assert 0 < expected < 1
    assert share_of(batch) == pytest.approx(expected)


def test_instability_is_measured_in_mean_logits_and_in_eval_mode():
    class Growing(nn.Module):
        """Logits 2, then 3: they differ by 1, half of the first."""

        def __init__(self) -> None:
            super().__init__()
            self.value = 1.0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.value += 1.0
            return images.flatten(1)[:, :4] * 0 + self.value

    images = torch.rand(3, 3, 2, 2)
    assert instability(Growing(), images) == pytest.approx(0.5)
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    assert instability(dropout, images) == 0.0
    assert dropout.training
    assert instability(Randomized(), scene(Linear()).batch.images) > 0.1
