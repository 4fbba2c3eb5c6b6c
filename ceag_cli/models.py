"""timm models: building one, describing it, adapting it, and whether it runs.

A model is described by timm's own configuration, the content of the ``config.json`` that timm
writes beside weights: architecture, arguments, classes with their names, and preprocessing. The
same JSON travels in the metadata of our files.
"""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from ceag_cli import cifarresnets, strictyaml
from ceag_cli.errors import CheckpointError, OptionError
from ceag_cli.memory import ALWAYS, at_most
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.sharedoptions import ArchitectureOptions, PreprocessingOptions
from ceag_cli.timmconfigs import TimmConfig, refuse_arguments


def model_kwargs(options: ArchitectureOptions) -> dict[str, Any]:
    """Arguments given with ``--model-kwargs``, their values read as YAML (``8``, ``deep``).

    Lists are written with ``+``: ``channels=16+32+64+128``.

    Raises:
        OptionError: An item is not ``name=value``.
    """
    arguments: dict[str, Any] = {}
    for item in options.model_kwargs or ():
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise OptionError(f"--model-kwargs: '{item}' is not of the form name=value")
        try:
            parts = [strictyaml.load(part) for part in value.split("+")]
        except yaml.YAMLError as error:
            raise OptionError(f"--model-kwargs: '{item}': {' '.join(str(error).split())}") from None
        arguments[name.strip()] = parts if len(parts) > 1 else parts[0]
    try:
        refuse_arguments(arguments)
    except ValueError as error:
        raise OptionError(f"--model-kwargs: {error}") from None
    return arguments


def create(
    architecture: str,
    *,
    num_classes: int | None,
    in_chans: int | None = None,
    img_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    overlay: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    fits: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Build a timm model.

    Args:
        architecture: A timm model name, with or without a tag, or ``local-dir:DIR``.
        num_classes: Outputs of the classifier; ``None`` keeps the architecture's own.
        in_chans: Input channels; ``None`` keeps the architecture's own.
        img_size: Passed to models of a fixed input size (transformers), ignored by others.
        arguments: Further arguments of the model.
        overlay: Replacements in timm's ``pretrained_cfg``.
        pretrained: Load timm's pretrained weights.
        fits: The weights that it is built for, so that it is not built when it is far larger.

    Raises:
        CheckpointError: There is no such model, it does not take the arguments, is far too large,
            or the pretrained weights cannot be had.
    """
    name = architecture.split(".")[0]
    local = ":" in architecture or "/" in architecture
    if not local and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise CheckpointError(f"timm has no model '{architecture}'{hint}")
    chosen = dict(arguments or {})
    chosen |= {"num_classes": num_classes, "in_chans": in_chans}
    chosen = {key: value for key, value in chosen.items() if value is not None}

    def build(**more: Any) -> nn.Module:
        model: nn.Module = timm.create_model(
            architecture,
            pretrained=pretrained,
            pretrained_cfg_overlay=dict(overlay) if overlay else None,
            **(more | chosen),
        )
        return model

    try:
        with no_larger_than(fits):
            if img_size is None:
                return build()
            try:
                return build(img_size=img_size)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                return build()  # a model of any input size takes no such argument
    except Exception as error:  # timm raises many kinds, down to those of its download library
        reason = " ".join(str(error).split()) or type(error).__name__
        what = "the pretrained weights of" if pretrained else ""
        raise CheckpointError(
            f"timm cannot build {what} '{architecture}' with {chosen}: {reason}".replace("  ", " ")
        ) from error


@contextmanager
def no_larger_than(state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Stop building a model that has far more numbers or tensors than some weights.

    What a file asks for need not be what it holds. Some layers are made twice, hence "far".

    Raises:
        ValueError: It does.
    """
    if state is None:
        yield
        return
    numbers = 4 * sum(tensor.numel() for tensor in state.values()) + (1 << 20)
    tensors = 4 * len(state) + 1024

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal numbers, tensors
        tensors -= 1
        if isinstance(parameter, Tensor) and not is_lazy(parameter):
            numbers -= parameter.numel()
        if numbers < 0 or tensors < 0:
            raise ValueError("it is far larger than the weights that it is to hold")

    registered = register_module_parameter_registration_hook(count)
    try:
        with at_most(ALWAYS + 16 * numbers):
            yield
    finally:
        registered.remove()


def from_config(config: TimmConfig, fits: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build the model that a timm configuration describes, with random weights.

    Args:
        config: The configuration.
        fits: The weights that it describes.
    """
    arguments = dict(config.get("model_args") or {})
    return create(
        config["architecture"],
        num_classes=arguments.pop("num_classes", config.get("num_classes")),
        arguments=arguments,
        overlay=config.get("pretrained_cfg"),
        fits=fits,
    )


def timm_keys(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's keys, where published files of the architecture have others.

    Only those of the models that ceag adds to timm are known.
    """
    if architecture.split(".")[0] in cifarresnets.default_cfgs:
        return cifarresnets.timm_keys(state)
    return dict(state)


def describe(
    model: nn.Module, preprocessing: Preprocessing, label_names: list[str] | None
) -> TimmConfig:
    """Timm's configuration of a model, as timm itself would write it to ``config.json``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        save_config_for_hf(
            model,
            str(path),
            model_config={"label_names": label_names} if label_names else None,
            data_config={
                "input_size": preprocessing.input_size,
                "mean": preprocessing.mean,
                "std": preprocessing.std,
                "interpolation": preprocessing.interpolation,
                "crop_pct": preprocessing.crop_pct,
                "crop_mode": preprocessing.crop_mode,
            },
        )
        config: TimmConfig = json.loads(path.read_text())
    return config


def adapt(
    config: TimmConfig, weights: Path, *, num_classes: int, options: PreprocessingOptions
) -> nn.Module:
    """Build a model of another size or with another classifier from existing weights.

    timm resizes position embeddings, adapts the first convolution to the channels, and leaves a
    classifier with another number of classes at its random initial weights.
    """
    arguments = dict(config.get("model_args") or {})
    for name in ("num_classes", "in_chans", "img_size"):
        arguments.pop(name, None)
    overlay = dict(config.get("pretrained_cfg") or {})
    overlay |= {"file": str(weights), "num_classes": config["num_classes"], "custom_load": False}
    size = overlay.get("input_size")
    return create(
        config["architecture"],
        num_classes=num_classes,
        in_chans=options.in_chans or (size[0] if size else None),
        img_size=options.img_size or (size[1] if size else None),
        arguments=arguments,
        overlay=overlay,
        pretrained=True,
    )


@torch.inference_mode()
def check_runs(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Try one black image, before any image is read.

    Raises:
        CheckpointError: The model does not take inputs of this size.
    """
    training = model.training
    try:
        model.eval()(torch.zeros(1, *preprocessing.input_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CheckpointError(
            f"{architecture_of(model)} does not take inputs of {preprocessing}: "
            f"{(str(error).splitlines() or ['?'])[0]}; choose another --img-size or --in-chans"
        ) from None
    finally:
        model.train(training)


def architecture_of(model: nn.Module) -> str:
    """Name of a model's architecture in timm."""
    return str(model.pretrained_cfg["architecture"])  # type: ignore[index]
