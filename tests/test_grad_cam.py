"""Grad-CAM: a map worked out by hand, and which networks have one."""

import cv2
import numpy as np
import pytest
import timm
import torch
from torch import nn

from helpers.models.classifier import Classifier, grad_cam


def brightness_classifier() -> Classifier:
    """Two channels, the mean of red and of green in each 8 x 8 pixels; class ``a`` is red, ``b`` the opposite."""
    network = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 2, 1, bias=False))
    network[1].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1)
    network.num_features = 2
    model = Classifier("by hand", (0.0,) * 3, (1.0,) * 3, ("a", "b"), hidden=2, network=network)
    model.hidden[1].weight.data, model.hidden[1].bias.data = torch.eye(2), torch.zeros(2)
    model.head.weight.data = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    model.head.bias.data = torch.zeros(2)
    return model


def test_map_by_hand():
    model = brightness_classifier()
    blocks = np.random.default_rng(0).integers(20, 240, (3, 4, 6, 3), dtype=np.uint8)
    photos = list(blocks.repeat(8, axis=1).repeat(8, axis=2))
    maps = grad_cam(model, photos, [0, 1, 0])
    assert maps.shape == (3, 32, 48) and maps.dtype == np.float32
    for found, block in ((maps[0], blocks[0]), (maps[2], blocks[2])):
        # every pixel of the red channel has the same gradient: the map is that channel, as a share of its maximum
        red = block[..., 0].astype(np.float32)
        np.testing.assert_allclose(found, cv2.resize(red / red.max(), (48, 32)), atol=1e-5)
    assert not maps[1].any(), "nothing speaks for b"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_photo_that_speaks_for_its_class_all_over_has_no_place_that_stands_out():
    photo = np.full((32, 32, 3), 200, np.uint8)
    photo[:16] = 196
    found = grad_cam(brightness_classifier(), [photo], [0])
    assert found.min() == pytest.approx(0.98, abs=1e-4) and found.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [("resnet18", {}, 32), ("vit_tiny_patch16_224", {"depth": 1}, 224), ("swin_tiny_patch4_window7_224", {}, 224)],
)
def test_networks_without_a_map_are_refused(name, options, side):
    network = timm.create_model(name, pretrained=False, num_classes=0, **options)
    model = Classifier(name, (0.5,) * 3, (0.25,) * 3, ("a", "b"), network=network)
    with pytest.raises(ValueError, match=f"{name} has no feature map"):
        grad_cam(model, [np.zeros((side, side, 3), np.uint8)], [0])
