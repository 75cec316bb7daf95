import pytest
import torch
from torch import nn

from saat.models.folding import DepthwiseConv2d, UnshuffledConv2d, folded
from saat.models.hash_model import HashModel, build_model, wrap_module
from saat.runtime import autocast, frozen, weights_cast


def trained_looking(backbone: str) -> HashModel:
    torch.manual_seed(0)
    model, _ = build_model(backbone, code_length=16, weights="random")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model.eval()


@pytest.mark.parametrize("backbone", ["resnet8", "resnet18", "vgg11_bn", "alexnet", "efficientnet_lite0"])
def test_a_folded_model_has_the_same_logits_and_gradients_without_batch_norms(backbone: str) -> None:
    model = trained_looking(backbone)
    lean = folded(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lean.modules())
    size = 64 if backbone == "alexnet" else 32
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for output, other in ((model(images), lean(images)),):
        torch.testing.assert_close(other, output, rtol=1e-4, atol=1e-5 * output.abs().max().item())
        (theirs,), (ours,) = (torch.autograd.grad(each.sum(), images) for each in (output, other))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_folding_leaves_the_model_as_it_was() -> None:
    model = trained_looking("resnet8")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_of_unknown_layers_and_one_in_training_mode_are_not_folded() -> None:
    own = wrap_module(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), image_size=8
    )
    assert folded(own) is own
    training = trained_looking("resnet8").train()
    assert folded(training) is training


def test_depthwise_convolutions_stay_in_float32_where_the_rest_is_not() -> None:
    model = trained_looking("efficientnet_lite0")
    lean = folded(model)
    depthwise = [module for module in lean.modules() if isinstance(module, DepthwiseConv2d)]
    assert len(depthwise) == 16
    assert not any(isinstance(module, DepthwiseConv2d) for module in model.modules())
    kinds: list[torch.dtype] = []
    for module in depthwise:
        module.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    cpu = torch.device("cpu")
    with frozen(lean), weights_cast(lean, "bfloat16", cpu), autocast("bfloat16", cpu):
        logits = lean(images)
    assert set(kinds) == {torch.float32}
    assert logits.dtype == torch.bfloat16
    exact = model(images)
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(11, 4, 2), (7, 2, 3), (5, 3, 0), (6, 3, 1), (8, 4, 5)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 40), (17, 22)])
def test_a_convolution_of_blocks_is_that_of_pixels(
    kernel: int, stride: int, padding: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, kernel, stride, padding).double()
    other = UnshuffledConv2d(3, 4, kernel, stride, padding).double()
    other.load_state_dict(layer.state_dict())
    images = torch.rand(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    output = layer(images)
    torch.testing.assert_close(other(images), output)
    (theirs,), (ours,) = (torch.autograd.grad(each.square().sum(), images) for each in (output, other(images)))
    torch.testing.assert_close(ours, theirs)


def test_only_wide_plain_convolutions_of_images_are_cut_into_blocks() -> None:
    assert UnshuffledConv2d.fits(nn.Conv2d(3, 8, 7, 2, 3))
    for other in (
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Conv2d(3, 8, 7, 1, 3),
        nn.Conv2d(64, 8, 7, 2, 3),
        nn.Conv2d(3, 3, 7, 2, 3, groups=3),
        nn.Conv2d(3, 8, (7, 5), 2),
        nn.Conv2d(3, 8, 7, (2, 1)),
        nn.Conv2d(3, 8, 7, 2, (3, 2)),
        nn.Conv2d(3, 8, 7, 2, "valid"),
        nn.Conv2d(3, 8, 7, 2, 3, dilation=2),
        nn.Conv2d(3, 8, 7, 2, 3, padding_mode="reflect"),
        nn.Linear(3, 8),
    ):
        assert not UnshuffledConv2d.fits(other)


@pytest.mark.parametrize("backbone", ["alexnet", "resnet18"])
def test_the_first_layer_is_cut_into_blocks_in_the_precision_around_it(backbone: str) -> None:
    lean, cpu = folded(trained_looking(backbone)), torch.device("cpu")
    first = next(module for module in lean.modules() if isinstance(module, nn.Conv2d))
    assert isinstance(first, UnshuffledConv2d)
    assert sum(isinstance(module, UnshuffledConv2d) for module in lean.modules()) == 1
    kinds: list[torch.dtype] = []
    first.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    for precision in ("bfloat16", "float32"):
        with frozen(lean), weights_cast(lean, precision, cpu), autocast(precision, cpu):
            lean(torch.rand(2, 3, 64, 64))
    assert kinds == [torch.bfloat16, torch.float32]
