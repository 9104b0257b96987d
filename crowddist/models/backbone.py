"""Backbones: encoders from normalised images to features."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from crowddist.models.config import CounterConfig
from crowddist.models.initialisation import init_kaiming
from crowddist.models.norm import SyncBatchNorm2d, sync_batch_norms
from crowddist.models.vgg import VGG_LAYERS, VGG_WHOLE_LAYERS
from crowddist.models.weights import load_weights

COMPACT_STEM = 24  # ours
COMPACT_WIDTHS = ((32,), (64, 64), (96, 96))  # ours: max-pooling by 2 before the second and the third group.


class Encoder(nn.Module):
    """Layers, how many channels they give, and how many pixels of the image lie along a side of their cells."""

    def __init__(self, layers: nn.Module, *, channels: int, stride: int = 8) -> None:
        super().__init__()
        self.layers = layers
        self.channels, self.stride = channels, stride

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images, H and W multiples of the stride -> (N, channels, H/stride, W/stride)."""
        return self.layers(images)


def build_encoder(config: CounterConfig) -> Encoder:
    """The encoder that `config` names, with its weights loaded.

    Raises:
        InputError: the weights cannot be had, or are of another architecture.
        FileNotFoundError: there is no file of weights at the place given.
    """
    return ENCODERS[config.backbone](config)


def compact_encoder(config: CounterConfig) -> Encoder:
    """A small encoder to train from scratch: stem 5x5 of stride 2, then 3x3 convolutions with batch normalisation (ours)."""
    layers: list[nn.Module] = [nn.Conv2d(3, COMPACT_STEM, 5, stride=2, padding=2, bias=False)]
    layers += [SyncBatchNorm2d(COMPACT_STEM), nn.ReLU(inplace=True)]
    channels = COMPACT_STEM
    for index, widths in enumerate(COMPACT_WIDTHS):
        if index > 0:
            layers.append(nn.MaxPool2d(2))
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            layers += [SyncBatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    encoder = nn.Sequential(*layers)
    load_weights(encoder, weights=config.weights, backbone=config.backbone)
    return Encoder(encoder, channels=channels)


def vgg16_encoder(config: CounterConfig) -> Encoder:
    """The first ten convolutions of VGG-16, with or without batch normalisation; torchvision's names of parameters in files."""
    return _vgg16(config, VGG_LAYERS, batch_norm=config.backbone == "vgg16_bn")


def vgg16_stride16_encoder(config: CounterConfig) -> Encoder:
    """All thirteen convolutions of VGG-16 with batch normalisation, four poolings between them.

    Source: the released SE+FD of Han et al., ICASSP 2020, which cuts torchvision's features before the last pooling.
    """
    return _vgg16(config, VGG_WHOLE_LAYERS, batch_norm=True, stride=16)


def _vgg16(config: CounterConfig, num_layers: int, *, batch_norm: bool, stride: int = 8) -> Encoder:
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"][:num_layers], batch_norm=batch_norm)
    init_kaiming(features)
    load_weights(nn.ModuleDict({"features": features}), weights=config.weights, backbone="vgg16_bn" if batch_norm else "vgg16")
    return Encoder(sync_batch_norms(features), channels=512, stride=stride)


def resnet101_encoder(config: CounterConfig) -> Encoder:
    """ResNet-101 to its third layer, which keeps stride 8.

    Source: the released SFCN (C-3-Framework), which sets the stride of `layer3` to 1 and leaves its convolutions undilated.
    """
    from torchvision.models import resnet101

    network = resnet101(weights=None)
    del network.layer4, network.fc
    block = network.layer3[0]
    block.conv2.stride = block.downsample[0].stride = (1, 1)
    load_weights(network, weights=config.weights, backbone=config.backbone)
    layers = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2, network.layer3)
    return Encoder(sync_batch_norms(layers), channels=1024)


ENCODERS: dict[str, Callable[[CounterConfig], Encoder]] = {
    "compact": compact_encoder,
    "vgg16": vgg16_encoder,
    "vgg16_bn": vgg16_encoder,
    "vgg16_bn_stride16": vgg16_stride16_encoder,
    "resnet101": resnet101_encoder,
}
