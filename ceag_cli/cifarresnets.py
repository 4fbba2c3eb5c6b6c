"""ResNets for images of CIFAR's size, in timm's namespace.

He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition* (CVPR 2016), section 4.2:
one 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, 6n + 2 layers. They are
other networks than timm's ``resnet18``, which halves an image five times; a tenth as large or less.

``import ceag_cli.cifarresnets`` registers them: ``cifar_resnet20a``, ``32a``, ``44a``, ``56a`` with
shortcuts of option A, which have no weights, and ``cifar_resnet20b`` to ``56b`` with option B. The
tags ``cifar10`` and ``cifar100`` (``cifar_resnet56b.cifar10``) have the classes, the preprocessing
and, where somebody has published any, the weights of that data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from timm.layers.classifier import create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, register_model
from timm.models._pretrained import PretrainedCfg
from timm.models._registry import generate_default_cfgs
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn

CHANNELS = (16, 32, 64)
"""Of the three stages."""

STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation by channel that published weights were trained with."""

_BY_CHENYAOFO = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet/"
_BY_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


class PaddedIdentity(nn.Module):
    """The shortcut of option A: the input itself, with channels of zeros for those it lacks.

    Of a smaller output, every second pixel. The paper does not say where the zeros go; here half of
    them before and half behind the input's channels, as in the weights that are published.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, ceil(H / stride), ceil(W / stride))``."""
        taken = x[:, :, :: self.stride, :: self.stride]
        return F.pad(taken, (0, 0, 0, 0, self.before, self.behind))


class CifarResNet(nn.Module):
    """A ResNet of three stages, with timm's interface and timm's names of ``ResNet``.

    Args:
        blocks: Residual blocks of each stage, n for 6n + 2 layers.
        shortcut: ``"a"`` (no weights) or ``"b"`` (a 1x1 convolution where the size changes).
        num_classes: Outputs; 0 leaves the classifier out, and the outputs are features.
        in_chans: Channels of the images.
        global_pool: As in timm; empty leaves the pooling out.
        drop_rate: Dropout before the classifier.
        device: As in torch.
        dtype: As in torch.
    """

    def __init__(
        self,
        blocks: int,
        shortcut: Literal["a", "b"],
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        self._placed = {"device": device, "dtype": dtype}
        width = CHANNELS[0]
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False, **self._placed)
        self.bn1 = nn.BatchNorm2d(width, **self._placed)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = self._stage(blocks, width, CHANNELS[0], 1, shortcut)
        self.layer2 = self._stage(blocks, CHANNELS[0], CHANNELS[1], 2, shortcut)
        self.layer3 = self._stage(blocks, CHANNELS[1], CHANNELS[2], 2, shortcut)
        self.feature_info = [
            {"num_chs": width, "reduction": 1, "module": "act1"},
            *(
                {"num_chs": channels, "reduction": 2**stage, "module": f"layer{stage + 1}"}
                for stage, channels in enumerate(CHANNELS)
            ),
        ]
        self.num_features = CHANNELS[-1]
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(
        self, blocks: int, inputs: int, outputs: int, stride: int, shortcut: str
    ) -> nn.Sequential:
        change: nn.Module | None = None
        if stride != 1:
            if shortcut == "a":
                change = PaddedIdentity(inputs, outputs, stride)
            else:
                change = downsample_conv(inputs, outputs, 1, stride, **self._placed)
        first = BasicBlock(inputs, outputs, stride, change, **self._placed)
        others = (BasicBlock(outputs, outputs, **self._placed) for _ in range(blocks - 1))
        return nn.Sequential(first, *others)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters belong together, as timm's layer-wise learning rates ask for it."""
        block = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1|bn1", "blocks": block}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations twice instead of keeping them."""
        self.grad_checkpointing = enable

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The last layer, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new last layer in place of this one; ``None`` keeps the pooling."""
        self.num_classes = num_classes
        kind = self.global_pool.pool_type if global_pool is None else global_pool
        weight = self.conv1.weight
        self.global_pool: Any
        self.fc: nn.Module
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=kind, device=weight.device, dtype=weight.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to features ``(B, 64, ceil(H / 4), ceil(W / 4))``."""
        x = self.act1(self.bn1(self.conv1(x)))
        stages = [self.layer1, self.layer2, self.layer3]
        if self.grad_checkpointing:
            found: Tensor = checkpoint_seq(stages, x, flatten=True)
            return found
        for stage in stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits ``(B, num_classes)``, or to what the last layer sees."""
        x = self.global_pool(x)
        x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.forward_head(self.forward_features(x))


def timm_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a published checkpoint under the names that they have here.

    Those of chenyaofo/pytorch-cifar-models have them already. In akamaster/pytorch_resnet_cifar10
    the last layer is ``linear``, and the shortcut of option B ``shortcut``.
    """
    return {
        key.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): value
        for key, value in state.items()
    }


def checkpoint_filter_fn(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The same for timm, which hands over a file with all that others keep around weights."""
    weights: Mapping[str, Tensor] = state.get("state_dict", state)
    return timm_keys({key.removeprefix("module."): value for key, value in weights.items()})


def _cfg(statistics: str, num_classes: int, url: str = "") -> dict[str, Any]:
    mean, std = STATISTICS[statistics]
    return {
        "url": url,
        "num_classes": num_classes,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": mean,
        "std": std,
        "first_conv": "conv1",
        "classifier": "fc",
        "paper_ids": "arXiv:1512.03385",
    }


def _cfgs(
    depth: int, of_a: str, of_b: str, of_b_100: str
) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Timm's configurations of one depth; the arguments end the names of published files.

    The star marks what a name without a tag means; it has to come last.
    """
    name, file = f"cifar_resnet{depth}", f"resnet{depth}-"
    return {
        # They were trained with the statistics of ImageNet.
        f"{name}a.cifar10": _cfg("imagenet", 10, f"{_BY_AKAMASTER}{file}{of_a}.th"),
        f"{name}a.cifar100*": _cfg("cifar100", 100),
        f"{name}b.cifar10": _cfg("cifar10", 10, f"{_BY_CHENYAOFO}cifar10_{file}{of_b}.pt"),
        f"{name}b.cifar100*": _cfg("cifar100", 100, f"{_BY_CHENYAOFO}cifar100_{file}{of_b_100}.pt"),
    }


default_cfgs = generate_default_cfgs(
    _cfgs(20, "12fca82f", "4118986f", "23dac2f1")
    | _cfgs(32, "d509ac18", "ef93fc4d", "84213ce6")
    | _cfgs(44, "014dd654", "2a3cabcb", "ffe32858")
    | _cfgs(56, "4bfd9763", "187c023a", "f2eff4c8")
)
"""Where timm looks for them."""


def _built(
    name: str, shortcut: Literal["a", "b"], layers: int, pretrained: bool, arguments: dict[str, Any]
) -> CifarResNet:
    model: CifarResNet = build_model_with_cfg(
        CifarResNet,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3)},
        **({"blocks": (layers - 2) // 6, "shortcut": shortcut} | arguments),
    )
    return model


def cifar_resnet20a(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-20 for CIFAR, 0.27 million weights, shortcuts of option A."""
    return _built("cifar_resnet20a", "a", 20, pretrained, arguments)


def cifar_resnet20b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-20 for CIFAR, 0.27 million weights, shortcuts of option B."""
    return _built("cifar_resnet20b", "b", 20, pretrained, arguments)


def cifar_resnet32a(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-32 for CIFAR, 0.46 million weights, shortcuts of option A."""
    return _built("cifar_resnet32a", "a", 32, pretrained, arguments)


def cifar_resnet32b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-32 for CIFAR, 0.47 million weights, shortcuts of option B."""
    return _built("cifar_resnet32b", "b", 32, pretrained, arguments)


def cifar_resnet44a(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-44 for CIFAR, 0.66 million weights, shortcuts of option A."""
    return _built("cifar_resnet44a", "a", 44, pretrained, arguments)


def cifar_resnet44b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-44 for CIFAR, 0.66 million weights, shortcuts of option B."""
    return _built("cifar_resnet44b", "b", 44, pretrained, arguments)


def cifar_resnet56a(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-56 for CIFAR, 0.85 million weights, shortcuts of option A."""
    return _built("cifar_resnet56a", "a", 56, pretrained, arguments)


def cifar_resnet56b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-56 for CIFAR, 0.86 million weights, shortcuts of option B."""
    return _built("cifar_resnet56b", "b", 56, pretrained, arguments)


for _build in (
    *(cifar_resnet20a, cifar_resnet32a, cifar_resnet44a, cifar_resnet56a),
    *(cifar_resnet20b, cifar_resnet32b, cifar_resnet44b, cifar_resnet56b),
):
    register_model(_build)
