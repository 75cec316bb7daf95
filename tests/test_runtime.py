from pathlib import Path

import pytest
import torch
from torch import nn

from saat.errors import ArgumentError
from saat.runtime import (
    RunOptions,
    as_channels_last,
    atomic_write,
    autocast,
    available_cores,
    choose_device,
    derive_seed,
    frozen,
    make_folder,
    make_generator,
    progress,
    set_threads,
    weights_cast,
    write_text,
)

CPU = torch.device("cpu")


def test_seeds_depend_on_every_part_and_its_place():
    uses = [(seed, use, epoch) for seed in range(10) for use in ("train", "inner", "start") for epoch in range(10)]
    seeds = {derive_seed(*parts) for parts in uses}
    assert len(seeds) == len(uses)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 12) != derive_seed(11, 2)
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert derive_seed(0, "train") == 1382848523564605726  # `printf 0/train | sha256sum`: 8 bytes, halved


def test_generators_are_private():
    state = torch.get_rng_state()
    draws = [torch.rand(3, generator=make_generator(*parts)) for parts in ((0, "a"), (0, "a"), (0, "b"))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_finished_write_takes_the_name(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    write_text(path, "second\n")
    assert path.read_text() == "second\n"
    assert [other.name for other in path.parent.iterdir()] == ["note.txt"]


def test_a_broken_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def half():
        with atomic_write(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert [other.name for other in tmp_path.iterdir()] == ["note.txt"]


def test_frozen_restores_modes_and_gradients_even_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [weight.requires_grad for weight in model.parameters()]

    def fail_inside():
        with frozen(model):
            assert not any(module.training for module in model.modules())
            assert not any(weight.requires_grad for weight in model.parameters())
            images = torch.rand(3, 2, requires_grad=True)
            model(images).sum().backward()
            assert images.grad is not None
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert modes == [module.training for module in model.modules()]
    assert wanted == [weight.requires_grad for weight in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())


def test_devices_by_name():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ArgumentError, match="`device` is auto, cpu, cuda or cuda:N; got 'gpu'"):
        choose_device("gpu")


def test_a_device_that_is_not_here_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ArgumentError, match="got 'cuda:1', which is not here"):
        choose_device("cuda:1")


def test_precision_changes_the_type_of_products():
    a = torch.rand(4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (a @ a).dtype == dtype
    with pytest.raises(ArgumentError, match="`precision` is one of auto, bfloat16, float32"), autocast("half", CPU):
        pass


def test_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        set_threads(0)
        assert torch.get_num_threads() == available_cores() >= 1
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        set_threads(0)
        assert torch.get_num_threads() == 3
    finally:
        set_threads(before)
    with pytest.raises(ArgumentError, match="`threads` is at least 0; got -1"):
        set_threads(-1)


def test_a_start_sets_the_global_seed():
    before = torch.get_num_threads()
    try:
        draws = []
        for _ in range(2):
            assert RunOptions(seed=5, device="cpu", threads=1).start() == CPU
            draws.append(torch.rand(3))
        assert torch.equal(*draws)
    finally:
        set_threads(before)
    with pytest.raises(ArgumentError, match="`precision` is one of"):
        RunOptions(precision="half").start()


def test_channels_last_keeps_the_values():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(as_channels_last(images), images)
    assert as_channels_last(images).is_contiguous(memory_format=torch.channels_last)


def test_progress_gives_every_item_and_is_silent_when_quiet(capfd):
    assert list(progress([1, 2, 3], "count", quiet=True)) == [1, 2, 3]
    assert capfd.readouterr().err == ""


def test_weights_are_cast_inside_the_block_only_and_give_what_autocast_gives() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(288, 4)
    )
    model.eval()
    images, device = torch.rand(2, 3, 8, 8), torch.device("cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen(model), autocast("bfloat16", device):
        expected = model(images)
        with weights_cast(model, "bfloat16", device):
            assert model[0].weight.dtype == model[3].bias.dtype == torch.bfloat16
            assert model[1].weight.dtype == torch.float32
            assert torch.equal(model(images), expected)
    with weights_cast(model, "float32", device):
        assert model[0].weight.dtype == torch.float32
    with pytest.raises(ZeroDivisionError), weights_cast(model, "bfloat16", device):
        raise ZeroDivisionError
    assert all(
        torch.equal(before[name], value) and value.dtype == before[name].dtype
        for name, value in model.state_dict().items()
    )


def test_a_folder_that_cannot_be_made_is_told_by_what_is_in_its_way(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(ArgumentError, match=r"`out` is a folder that can be written to; .*/file is no folder$"):
            make_folder(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_place_that_takes_no_folder_is_named():
    with pytest.raises(ArgumentError, match="; /proc/x cannot be made: "):
        make_folder(Path("/proc/x"))
