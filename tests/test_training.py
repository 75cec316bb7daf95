"""The training loop: averaged weights, schedules, and going on after a stop."""

from pathlib import Path

import pytest
import torch
from torch import nn

from saat.data.splits import ImageSplit
from saat.errors import ArgumentError, SaatError
from saat.losses.catalog import build_loss
from saat.runtime import counted_images
from saat.training import SCHEDULES, FitOptions, HashingStep, WeightAverage, cost_of, fit
from saat.types import Batch, StepOutput

ITEMS = 10
SPLIT = ImageSplit(
    name="train",
    images=torch.randint(0, 256, (ITEMS, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
    labels=torch.eye(2, dtype=torch.uint8).repeat(5, 1),
    item_names=tuple(map(str, range(ITEMS))),
    digests=tuple(map(str, range(ITEMS))),
)


def tiny_model() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 8)
    return nn.Sequential(*layers)


class StoppedStep(HashingStep):
    """Stops as Ctrl-C does, at the batch number `stop`."""

    def __init__(self, loss: nn.Module, *, stop: int) -> None:
        super().__init__(loss)
        self.stop = stop

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        if self.stop == 0:
            raise KeyboardInterrupt
        self.stop -= 1
        return super().forward(model, batch)


def run(folder: Path, options: FitOptions, *, stop: int = -1) -> tuple[nn.Module, list[dict[str, float]]]:
    model = tiny_model()
    step = StoppedStep(build_loss("dph", labels=SPLIT.labels, code_length=8), stop=stop)
    history = fit(model, step, SPLIT, options, folder=folder, run={"name": "test"}, quiet=True)
    return model, history


def test_the_average_worked_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("count", torch.tensor(0))
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, keep=0.15)
    model.weight.data.fill_(1.0)
    model.count += 7
    average.update(model)  # keeps (1 + 0) / (10 + 0) = 0.1: 0.1 * 0 + 0.9 * 1
    assert average.state["weight"].item() == pytest.approx(0.9)
    assert int(average.state["count"]) == 7  # whole numbers have no mean
    model.weight.data.fill_(2.0)
    average.update(model)  # (1 + 1) / (10 + 1) is above 0.15, so 0.15: 0.15 * 0.9 + 0.85 * 2
    assert average.state["weight"].item() == pytest.approx(1.835)
    assert model.weight.item() == 2.0  # the model itself goes its own way


def test_the_schedules_are_these_lines():
    done = (0.0, 0.15, 0.3, 0.65, 0.99)
    one_cycle = [SCHEDULES["one-cycle"](share) for share in done]
    assert one_cycle == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.01 / 0.7])
    assert [SCHEDULES["linear"](share) for share in (0.0, 0.25)] == [1.0, 0.75]
    assert [SCHEDULES["thirds"](share) for share in (0.33, 0.34, 0.66, 0.67)] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    assert [SCHEDULES["multistep"](share) for share in (0.49, 0.5, 0.74, 0.75)] == [1.0, 0.1, 0.1, 0.01]


def test_the_rate_of_each_step_follows_the_schedule(tmp_path):
    options = FitOptions(epochs=2, batch_size=5, learning_rate=0.4, schedule="one-cycle")  # 2 epochs of 2 steps
    _, history = run(tmp_path, options)
    # The last step of each epoch begins after 1/4 and 3/4 of all: 0.25 / 0.3 and 0.25 / 0.7 of the rate.
    assert [row["learning_rate"] for row in history] == pytest.approx([0.4 * 0.25 / 0.3, 0.4 * 0.25 / 0.7])


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("stop", [3, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(average, stop, tmp_path):
    """3 batches an epoch: one stop at the first batch of the second epoch, and one within it."""
    options = FitOptions(epochs=2, batch_size=4, schedule="one-cycle", average=average)
    whole, history = run(tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", options, stop=stop)
    assert len((tmp_path / "stopped" / "train.jsonl").read_text().splitlines()) == 1
    resumed, again = run(tmp_path / "stopped", options)
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert [row["hashing"] for row in again] == [row["hashing"] for row in history]
    assert cost_of(again)["model_evaluations"] == 2 * ITEMS
    assert not whole.training


def test_the_model_ends_as_the_average_and_a_finished_run_gives_it_again(tmp_path):
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 0.2}
    last, _ = run(tmp_path / "last", FitOptions(**options))
    averaged, _ = run(tmp_path / "averaged", FitOptions(**options, average=0.9))
    state = torch.load(tmp_path / "averaged" / "resume.pt", weights_only=True)
    assert all(torch.equal(value, state["model"][name]) for name, value in last.state_dict().items())
    assert not torch.equal(averaged[0].weight, last[0].weight)
    again, _ = run(tmp_path / "averaged", FitOptions(**options, average=0.9), stop=0)  # no batch is left to do
    assert torch.equal(again[0].weight, averaged[0].weight)


@pytest.mark.parametrize("average", [-0.1, 1.0, float("nan")])
def test_an_average_is_a_share_below_one(average):
    with pytest.raises(ArgumentError, match=r"`fit\.average` is a share, at least 0 and below 1"):
        FitOptions(average=average)


def test_other_bad_options_are_named():
    with pytest.raises(ArgumentError, match="did you mean 'one-cycle'"):
        FitOptions(schedule="onecycle")
    with pytest.raises(ArgumentError, match=r"`fit\.epochs` is at least 1; got 0"):
        FitOptions(epochs=0)


def test_statistics_that_overflow_are_an_error(tmp_path):
    class Overflowing(HashingStep):
        def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
            model[1].running_var.fill_(torch.inf)
            return super().forward(model, batch)

    step = Overflowing(build_loss("csq", labels=SPLIT.labels, code_length=8))
    with pytest.raises(SaatError, match=r"the training broke: .*running_var is no longer finite"):
        fit(tiny_model(), step, SPLIT, FitOptions(epochs=1), folder=tmp_path, run={}, quiet=True)


def test_infinities_of_the_users_own_stay(tmp_path):
    model = tiny_model()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    step = HashingStep(build_loss("csq", labels=SPLIT.labels, code_length=8))
    fit(model, step, SPLIT, FitOptions(epochs=1), folder=tmp_path, run={}, quiet=True)
    assert model.mask[0, 1] == -torch.inf


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    class Broken(HashingStep):
        def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
            return StepOutput(super().forward(model, batch).loss * float("nan"), {"hashing": float("nan")})

    step = Broken(build_loss("csq", labels=SPLIT.labels, code_length=8))
    with pytest.raises(SaatError, match=r"try a lower `fit\.learning_rate`"):
        fit(tiny_model(), step, SPLIT, FitOptions(), folder=tmp_path, run={}, quiet=True)


def test_passes_of_a_teacher_count_and_nothing_stays_on_the_models(tmp_path):
    class Taught(HashingStep):
        def __init__(self, teacher: nn.Module) -> None:
            super().__init__(build_loss("csq", labels=SPLIT.labels, code_length=8))
            self.teachers = (teacher,)

        def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
            self.teachers[0](batch.images)
            found = super().forward(model, batch)
            return found if batch.indices.min() > 0 else StepOutput(found.loss * float("nan"), found.parts)

    model, teacher = tiny_model(), tiny_model()
    with pytest.raises(SaatError):
        fit(model, Taught(teacher), SPLIT, FitOptions(epochs=1), folder=tmp_path, run={}, quiet=True)
    assert not model._forward_hooks
    assert not teacher._forward_hooks
    with counted_images([model, teacher]) as count:
        model(SPLIT.images[:3] / 255)
        teacher(SPLIT.images[:2] / 255)
    assert count() == 5


def test_logits_that_are_not_finite_from_the_start_are_the_models(tmp_path):
    model = nn.Sequential(tiny_model(), nn.Threshold(torch.inf, torch.nan))
    step = HashingStep(build_loss("csq", labels=SPLIT.labels, code_length=8))
    with pytest.raises(ArgumentError, match="finite logits before it is trained; got others for 10 of 10"):
        fit(model, step, SPLIT, FitOptions(), folder=tmp_path, run={}, quiet=True)


def test_a_folder_of_a_model_with_other_weights_is_refused(tmp_path):
    run(tmp_path, FitOptions(epochs=1))
    step = HashingStep(build_loss("csq", labels=SPLIT.labels, code_length=8))
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    with pytest.raises(ArgumentError, match=r"`out` is a new folder; .* has a run of a model with other weights"):
        fit(other, step, SPLIT, FitOptions(epochs=1), folder=tmp_path, run={"name": "test"}, quiet=True)


def test_a_state_that_is_no_tensor_is_named(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    step = HashingStep(build_loss("csq", labels=SPLIT.labels, code_length=8))
    model = nn.Sequential(nn.Flatten(), Counting(192, 8))
    with pytest.raises(ArgumentError, match=r"a state of tensors, as files keep it; 1\._extra_state is dict"):
        fit(model, step, SPLIT, FitOptions(epochs=1, average=0.9), folder=tmp_path, run={}, quiet=True)
