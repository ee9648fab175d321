"""The benchmark networks of DAM's Table 1, registered as timm models: CIFAR ResNets and DenseNet121, both with ELU.

ResNet: He et al. 2016, section 4.2: a 3x3 stem and three stages of 16, 32, 64 channels, n blocks each (depth 6n + 2),
shortcut of type A (subsampling, zero padding) so that a shortcut has no parameters.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.create_act import create_act_layer
from timm.layers.create_norm_act import create_norm_act_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet, densenet121
from torch import Tensor, nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


_CIFAR_CFG: dict[str, Any] = {
    "url": "",
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "mean": CIFAR_MEAN,
    "std": CIFAR_STD,
    "interpolation": "bilinear",
    "first_conv": "conv1",
    "classifier": "linear",
}
default_cfgs = generate_default_cfgs(
    {name: _CIFAR_CFG for name in ("resnet8_cifar", "resnet20_cifar", "resnet20_cifar_elu")}
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, act: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = create_norm_act_layer("batchnorm2d", channels, act_layer=act)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act = create_act_layer(act, inplace=True)
        self.stride, self.padding = stride, (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.padding:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        out: Tensor = self.act(self.bn2(self.conv2(self.bn1(self.conv1(x)))) + shortcut)
        return out


class ResNetCifar(nn.Module):
    """Scores (N, num_classes) of images (N, in_chans, H, W); depth = 6 * blocks + 2."""

    def __init__(
        self,
        blocks: int = 3,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        act: str = "relu",
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = create_norm_act_layer("batchnorm2d", 16, act_layer=act)
        self.layer1 = self._stage(16, 16, blocks, 1, act)
        self.layer2 = self._stage(16, 32, blocks, 2, act)
        self.layer3 = self._stage(32, 64, blocks, 2, act)
        self.drop = nn.Dropout(drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.linear: nn.Module = nn.Identity()
        self.reset_classifier(num_classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int, act: str) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride, act)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, act) for _ in range(blocks - 1)))

    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        if global_pool not in ("", "avg"):
            raise ValueError(f"ResNetCifar pools by average only, not {global_pool!r}")
        self.num_classes = num_classes
        self.linear = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        out: Tensor = x if pre_logits else self.linear(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _resnet(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> ResNetCifar:
    model: ResNetCifar = build_model_with_cfg(ResNetCifar, variant, pretrained, **kwargs)
    return model


@register_model
def resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """ResNet8 for 32 x 32 images (76 thousand parameters): for small studies on a CPU."""
    return _resnet("resnet8_cifar", pretrained, {"blocks": 1, **kwargs})


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """ResNet20 for 32 x 32 images with ReLU, as in LibAUC's notebooks."""
    return _resnet("resnet20_cifar", pretrained, {"blocks": 3, **kwargs})


@register_model
def resnet20_cifar_elu(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """ResNet20 for 32 x 32 images with ELU, as in DAM's Table 1."""
    return _resnet("resnet20_cifar_elu", pretrained, {"blocks": 3, "act": "elu", **kwargs})


@register_model
def densenet121_elu(pretrained: bool = False, **kwargs: Any) -> DenseNet:
    """timm's DenseNet121 with ELU in place of ReLU, as in DAM's Table 1."""
    model: DenseNet = densenet121(pretrained=pretrained, act_layer="elu", **kwargs)
    return model
