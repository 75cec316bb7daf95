from collections.abc import Callable

import pytest
import torch
from torch import nn

from saat.bits import pack_codes
from saat.errors import ArgumentError, DataError
from saat.models.checkpoint import weights_checksum
from saat.models.folding import folded
from saat.models.hash_model import (
    HashModel,
    build_model,
    check_trainable,
    encode_logits,
    encode_packed,
    import_model,
    packed_codes,
    wrap_module,
)


def tiny_model() -> HashModel:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)
    return HashModel(nn.Sequential(*layers), nn.Linear(8, 16), code_length=16)


def test_normalization_lives_inside():
    model = HashModel(nn.Flatten(), nn.Identity(), code_length=24, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    logits = model(torch.ones(1, 3, 2, 4))
    assert logits[0].tolist() == [1.0] * 8 + [0.75] * 8 + [0.5] * 8
    assert {"mean", "std"} <= set(model.state_dict())


def test_codes_are_those_of_eval_mode():
    model = tiny_model().train()
    images = torch.rand(4, 3, 8, 8)
    codes = model.encode(images)
    assert codes.dtype == torch.int8
    assert model.training
    assert int(model.backbone[1].num_batches_tracked) == 0
    with torch.no_grad():
        assert torch.equal(codes, torch.where(model.eval()(images) >= 0, 1, -1).to(torch.int8))


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_bytes_and_floats_give_the_same_logits(batch_size):
    model = tiny_model().train()
    images = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8)
    logits = encode_logits(model, images, batch_size=batch_size, quiet=True)
    assert (logits.shape, logits.dtype, logits.requires_grad) == ((7, 16), torch.float32, False)
    assert torch.equal(logits, encode_logits(model, images / 255, batch_size=batch_size, quiet=True))
    with torch.no_grad():
        assert torch.allclose(logits, model.eval()(images / 255), atol=1e-5)


def test_no_images_have_no_logits():
    assert len(encode_logits(tiny_model(), torch.zeros(0, 3, 8, 8), quiet=True)) == 0


def test_packed_codes_are_those_of_the_model():
    model = tiny_model().train()
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    packed, coded = encode_packed(model, images.numpy())
    assert (packed == pack_codes(model.encode(images / 255).numpy())).all()
    assert coded.tolist() == [True] * 5
    assert [part.shape for part in encode_packed(model, images[:0].numpy())] == [(0, 2), (0,)]


def test_logits_that_are_not_finite_are_no_code():
    class Standardized(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return ((images - images.mean((1, 2, 3), True)) / images.std((1, 2, 3), keepdim=True)).flatten(1)[:, :8]

    model = wrap_module(Standardized(), image_size=8)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    images[1] = 0
    assert encode_packed(model, images.numpy())[1].tolist() == [True, False, True]
    with pytest.raises(DataError, match="the model gives no finite logits for this image"):
        packed_codes(model, images.numpy())


def test_build_model_checks_the_code_length_first():
    model, weights = build_model("resnet8", code_length=24, weights="random")
    assert (model.code_length, weights) == (24, "random")
    assert model.encode(torch.rand(1, 3, 32, 32)).shape == (1, 24)
    with pytest.raises(ArgumentError, match=r"positive multiple of 8; got 50 \(the nearest are 48 and 56\)"):
        build_model("resnet8", code_length=50)


def test_any_module_becomes_a_model():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 32))
    images = torch.rand(2, 3, 8, 8)
    model = wrap_module(module, image_size=8)
    assert model.code_length == 32
    assert torch.equal(model(images), module(images))
    assert module.training


class Returns(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: torch.Tensor) -> object:
        return self.value


class Squeezed(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :8].squeeze()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Flatten(), "multiple of 8; got 12"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 8)), r"\(2, 3, 2, 2\).*it raised: mat1 and mat2"),
        (Returns([1]), r"float logits \(2, K\); got list"),
        (Squeezed(), r"images \(1, 3, 2, 2\) to float logits \(1, K\); got \(8,\) torch.float32"),
        (Returns(torch.zeros(2, 8, 1)), r"got \(2, 8, 1\) torch\.float32"),
        (Returns(torch.zeros(1, 8)), r"got \(1, 8\)"),
        (Returns(torch.zeros(2, 8, dtype=torch.int8)), r"got \(2, 8\) torch\.int8"),
    ],
)
def test_modules_that_are_no_models_are_named(module, message):
    with pytest.raises(ArgumentError, match=message):
        wrap_module(module, image_size=2)


class Trained(nn.Module):
    """Eight logits, with another answer in train mode."""

    def __init__(self, change: Callable[[nn.Module, torch.Tensor], object]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(12, 8), change

    def forward(self, images: torch.Tensor) -> object:
        logits = self.layer(images.flatten(1))
        return self.change(self, logits) if self.training else logits


def raises(*_: object) -> object:
    raise RuntimeError("labels, please")


def grows(model: nn.Module, logits: torch.Tensor) -> object:
    model.register_buffer("seen", torch.zeros(3))
    return logits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, logits: (logits, logits), r"float logits \(2, 8\) in train mode too; got tuple"),
        (lambda _, logits: logits[:, :4], r"in train mode too; got \(2, 4\) torch\.float32"),
        (lambda _, logits: logits.detach(), "in train mode too, with a gradient; got some without"),
        (raises, "in train mode too; it raised: labels, please"),
        (grows, "has all weights and buffers before it is trained; seen came or went then"),
    ],
)
def test_what_only_train_mode_shows_is_named_before_training(change, message):
    model = Trained(change)
    with pytest.raises(ArgumentError, match=message):
        check_trainable(model, torch.rand(2, 3, 2, 2))
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]


def test_a_trial_moves_no_statistic():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_trainable(model, torch.rand(2, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


SOURCE = """
import threading

from torch import nn

def good():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8))

def no_module():
    return 3

def broken():
    raise RuntimeError("no weights here")

def leaving():
    raise SystemExit("no data here")

def locked():
    module = good()
    module.lock = threading.Lock()
    return module
"""


def test_factories_are_called_by_name(tmp_path, monkeypatch):
    (tmp_path / "factories.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert import_model("factories:good", image_size=2).code_length == 8
    for name, message in {
        "factories": "is package.module:factory; got 'factories'",
        ":good": "is package.module:factory",
        "factories:": "is package.module:factory",
        "no_such_package:good": "cannot be built: ModuleNotFoundError",
        "factories:bad": "cannot be built: AttributeError",
        "factories:broken": "cannot be built: RuntimeError: no weights here",
        "factories:leaving": "cannot be built: SystemExit: no data here",
        "factories:no_module": "returns a torch.nn.Module; got int",
        "factories:locked": "returns a module that copy.deepcopy copies; it raised: cannot pickle",
    }.items():
        with pytest.raises(ArgumentError, match=message):
            import_model(name, image_size=2)


def test_a_mirroring_model_takes_the_mean_over_each_image_and_its_mirror_image():
    torch.manual_seed(0)
    model, _ = build_model("resnet8", code_length=8, weights="random")
    model.eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = (model(images) + model(images.flip(3))) / 2.0
        plain = weights_checksum(model)
        model.mirror = True
        torch.testing.assert_close(model(images), expected)
        torch.testing.assert_close(folded(model)(images), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(model(images.flip(3)), expected)
    assert weights_checksum(model) != plain
