"""Preprocessing: how an image becomes a model's input, as timm's configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torchvision
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from ceag_cli.errors import OptionError
from ceag_cli.sharedoptions import PreprocessingOptions
from ceag_cli.timmconfigs import MOST_OF_A_SIDE, TimmConfig


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input."""

    input_size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """Timm's evaluation transform up to uint8 pixels, without the normalisation."""
        transform: Callable[[Image.Image], Tensor] = create_transform(
            input_size=self.input_size,
            is_training=False,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            normalize=False,
        )
        return transform

    @property
    def of_pixels(self) -> str:
        """All that uint8 pixels depend on besides the image: equal words, equal pixels."""
        about = (self.input_size, self.interpolation, self.crop_pct, self.crop_mode)
        versions = {"torchvision": torchvision.__version__, "timm": timm.__version__}
        return f"{about} {versions}"

    def __str__(self) -> str:
        channels, height, width = self.input_size
        mean = ",".join(f"{value:g}" for value in self.mean)
        std = ",".join(f"{value:g}" for value in self.std)
        return (
            f"{height}x{width}, {channels} channel{'s' if channels > 1 else ''}, mean {mean}, "
            f"std {std}, {self.interpolation}, crop {self.crop_pct:g} {self.crop_mode}"
        )


def preprocessing_of(
    model_or_config: nn.Module | TimmConfig, options: PreprocessingOptions | None = None
) -> Preprocessing:
    """The preprocessing of a model, with what the flags change.

    Raises:
        OptionError: A flag does not fit the number of input channels.
    """
    if isinstance(model_or_config, nn.Module):
        config: Mapping[str, Any] = model_or_config.pretrained_cfg  # type: ignore[assignment]
    else:
        config = model_or_config.get("pretrained_cfg", {})
    given = {
        "img_size": options and options.img_size,
        "interpolation": options and options.interpolation,
        "crop_pct": options and options.crop_pct,
    }
    resolved: dict[str, Any] = resolve_data_config(  # type: ignore[no-untyped-call]
        args=given, pretrained_cfg=dict(config)
    )
    # With an image size but no channels, timm falls back to three of them.
    channels = (options and options.in_chans) or config.get("input_size", (3,))[0]
    if channels not in (1, 3):
        raise OptionError(f"--in-chans: images have 1 or 3 channels, not {channels}")

    def by_channel(name: str, flag: str) -> tuple[float, ...]:
        own = tuple(resolved[name])
        wanted = getattr(options, name) if options else None
        values = own if wanted is None else wanted
        if len(values) == channels:
            return tuple(values)
        if len(values) == 1:
            return tuple(values) * channels
        if wanted is None and channels == 1:
            return (sum(own) / len(own),)
        raise OptionError(f"{flag}: {len(values)} values for {channels} input channels")

    crop_pct = float(resolved["crop_pct"])
    if max(resolved["input_size"][1:]) / crop_pct > 4 * MOST_OF_A_SIDE:
        raise OptionError(
            f"--crop-pct {crop_pct:g}: images would be resized to more than {4 * MOST_OF_A_SIDE} "
            "pixels before they are cropped"
        )
    return Preprocessing(
        input_size=(channels, *resolved["input_size"][1:]),
        mean=by_channel("mean", "--mean"),
        std=by_channel("std", "--std"),
        interpolation=resolved["interpolation"],
        crop_pct=crop_pct,
        crop_mode=resolved["crop_mode"],
    )
