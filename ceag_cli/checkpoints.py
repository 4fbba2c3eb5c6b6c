"""Models in weights files: reading any timm checkpoint, writing ours.

We write one .safetensors with timm's own keys, dense tensors with exact zeros, and string
metadata: timm's configuration and the lineage. Pickles are only read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ceag_cli import strictjson
from ceag_cli.atomic import replacing, write_text
from ceag_cli.errors import CheckpointError, OutputError
from ceag_cli.lineage import Lineage
from ceag_cli.models import adapt, create, describe, from_config, model_kwargs, timm_keys
from ceag_cli.preprocessing import Preprocessing, preprocessing_of
from ceag_cli.prunable import classifier_names, first_layer_names
from ceag_cli.sharedoptions import ArchitectureOptions
from ceag_cli.statedicts import read_state, write_tensors
from ceag_cli.timmconfigs import TimmConfig, checked_config
from ceag_cli.weightsfiles import PACKED, SUFFIX, WEIGHTS_NAME, identity_of, read_metadata

CONFIG_NAME = "config.json"


@dataclass
class Checkpoint:
    """A model read from a file."""

    path: Path
    sha256: str
    """Of the plain file, where this one is packed."""
    model: nn.Module
    preprocessing: Preprocessing
    label_names: list[str] | None
    lineage: Lineage | None
    """``None`` for a file that ceag did not write."""
    architecture_from: str
    """Where the architecture was taken from, in words."""
    warnings: list[str]

    @property
    def config(self) -> TimmConfig:
        """Timm's configuration of the model as it is."""
        return describe(self.model, self.preprocessing, self.label_names)


def first_difference(one: Checkpoint, other: Checkpoint) -> str | None:
    """The first tensor that one of two models lacks or has in another shape, if there is any."""
    shapes, others = (
        {name: tuple(tensor.shape) for name, tensor in checkpoint.model.state_dict().items()}
        for checkpoint in (one, other)
    )
    return next((n for n in {**shapes, **others} if shapes.get(n) != others.get(n)), None)


def load(path: Path, options: ArchitectureOptions, child: TimmConfig | None = None) -> Checkpoint:
    """Read a model from a timm checkpoint.

    The architecture comes from ``--model``, else the file's metadata, else ``config.json`` beside
    it, else the name stored in a .pth, else the configuration of a ``child``, a model that was
    made of this one. Two sources that disagree are an error unless the flag decides.

    Raises:
        CheckpointError: The file cannot be read, its architecture is not known, or its tensors do
            not fit it.
    """
    before = _mark(path)
    state, stored_name, metadata = read_state(path, use_ema=options.use_ema)
    config, source, warnings = _configuration(path, metadata, stored_name, options, child)
    state = timm_keys(config["architecture"], state)
    kwargs = model_kwargs(options)
    if "num_classes" in config:  # a whole configuration
        whole = config | {"model_args": (config.get("model_args") or {}) | kwargs}
        model = from_config(whole, state)
    else:
        model = _bare(config["architecture"], state, kwargs, options)
        config = _own_configuration(model)
    _load_state(model, state, path)
    preprocessing = preprocessing_of(config, options)
    label_names = _label_names(config)
    classes: int = model.num_classes  # type: ignore[assignment]
    if label_names is not None and len(set(label_names)) != classes:
        raise CheckpointError(
            f"{path}: has {len(set(label_names))} different names of classes ({source}), and the "
            f"model {classes} outputs"
        )
    expected = _input_channels(model)
    if expected is not None and expected != preprocessing.input_size[0]:
        raise CheckpointError(
            f"{path}: the model takes {expected} input channels, "
            f"--in-chans says {preprocessing.input_size[0]}"
        )
    digest = identity_of(path)
    if _mark(path) != before:  # what was read may be a mixture, and the hash that of neither
        raise CheckpointError(f"{path}: was changed while it was read; start again when it is done")
    return Checkpoint(
        path=path,
        sha256=digest,
        model=model,
        preprocessing=preprocessing,
        label_names=label_names,
        lineage=Lineage.from_metadata(metadata, path),
        architecture_from=source,
        warnings=warnings,
    )


def _mark(path: Path) -> tuple[int, ...]:
    """Numbers that change when a file is written or replaced; nothing for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def load_adapted(path: Path, num_classes: int, options: ArchitectureOptions) -> nn.Module:
    """Read a model for fine-tuning with another classifier, input size or input channels.

    timm reads a .safetensors itself; of all others it gets what was read here, with all care.
    """
    state, stored_name, metadata = read_state(path, use_ema=options.use_ema)
    config, _, _ = _configuration(path, metadata, stored_name, options)
    state = timm_keys(config["architecture"], state)
    if "num_classes" not in config:
        kwargs = model_kwargs(options)
        bare = _bare(config["architecture"], state, kwargs, options, infer_classes=True)
        config = describe(bare, preprocessing_of(_own_configuration(bare)), None)
    else:
        _load_state(from_config(config, state), state, path)  # refuses what does not fit
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix != SUFFIX or PACKED in metadata:
            path = Path(folder, WEIGHTS_NAME)
            write_tensors(path, state, {"format": "pt"})
        return adapt(config, path, num_classes=num_classes, options=options)


def _configuration(
    path: Path,
    metadata: Mapping[str, str],
    stored_name: str | None,
    options: ArchitectureOptions,
    child: TimmConfig | None = None,
) -> tuple[TimmConfig, str, list[str]]:
    """Timm's configuration (whole, or with the architecture alone), its source, and warnings."""
    found: dict[str, TimmConfig] = {}
    if "ceag.timm" in metadata:
        found["the file's metadata"] = checked_config(metadata["ceag.timm"], f"{path}, metadata")
    beside = path.parent / CONFIG_NAME
    if beside.is_file():
        config = checked_config(beside.read_bytes(), str(beside))
        if "architecture" in config:
            found[str(beside)] = config
    if stored_name:
        found["the name stored in the file"] = {"architecture": stored_name}
    names = {place: str(config["architecture"]).split(".")[0] for place, config in found.items()}
    listed = ", ".join(f"{name} ({place})" for place, name in names.items())
    if options.model is not None:
        warnings = []
        if any(name != options.model.split(".")[0] for name in names.values()):
            warnings.append(f"{path}: --model {options.model} overrides {listed}")
        for place, config in found.items():
            if names[place] == options.model.split(".")[0]:
                return config, f"{place}, as --model says", warnings
        return {"architecture": options.model}, "--model", warnings
    if child is not None and all(place == "the name stored in the file" for place in found):
        return child, "the model made of it", []
    if not found:
        raise CheckpointError(
            f"{path}: its architecture is not known; name it with --model, put timm's "
            "config.json beside the file, or use a file written by ceag"
        )
    if len(set(names.values())) > 1:
        raise CheckpointError(
            f"{path}: its architecture is said to be {listed}; decide with --model"
        )
    place = next(iter(found))
    return found[place], place, []


def _bare(
    architecture: str,
    state: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
    options: ArchitectureOptions,
    infer_classes: bool = False,
) -> nn.Module:
    """Build the model of weights without a configuration: classes and channels from tensors."""
    plain = create(architecture, num_classes=None, arguments=arguments)
    classes = None if infer_classes else options.num_classes
    if classes is None:
        heads = [f"{name}.weight" for name in classifier_names(plain)]
        classes = next((state[name].shape[0] for name in heads if name in state), None)
    first = [f"{name}.weight" for name in first_layer_names(plain)]
    channels = next((state[name].shape[1] for name in first if name in state), None)
    return create(
        architecture,
        num_classes=classes,
        in_chans=channels if channels in (1, 3) else None,
        img_size=options.img_size,
        arguments=arguments,
    )


def _own_configuration(model: nn.Module) -> TimmConfig:
    """The configuration of an architecture, with the input channels that the model really has."""
    config = dict(model.pretrained_cfg)  # type: ignore[arg-type]
    channels = _input_channels(model)
    if channels is not None:
        size = config.get("input_size", (channels, 224, 224))
        config["input_size"] = (channels, *size[1:])
    return {"pretrained_cfg": config}


def _input_channels(model: nn.Module) -> int | None:
    """Channels of the images, 1 or 3, where the first layer is a convolution over them.

    It is not in models that transform the image first (csatv2 sees its frequencies).
    """
    modules = dict(model.named_modules())
    for name in first_layer_names(model):
        module = modules[name]
        if isinstance(module, nn.modules.conv._ConvNd) and module.in_channels in (1, 3):
            return module.in_channels
    return None


def _load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    if counters & state.keys():  # files of PyTorch before 0.4.1 have none: they start at zero
        counters = set()
    problems = []
    for what, names in (
        ("lacks", sorted(wanted.keys() - state.keys() - counters)),
        ("has unexpected", sorted(state.keys() - wanted.keys())),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{path}: {what} {', '.join(names[:5])}{more}")
    problems += [
        f"{path}: '{name}' has shape {tuple(state[name].shape)}, the model wants "
        f"{tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ][:5]
    problems += [
        f"{path}: '{name}' is of type {state[name].dtype}, the model wants {tensor.dtype}"
        for name, tensor in wanted.items()
        if name in state and not _casts(state[name], tensor)
    ][:5]
    if problems:
        raise CheckpointError([*problems, f"{path}: its tensors do not fit the architecture"])
    model.load_state_dict(dict(state))


def _casts(found: Tensor, wanted: Tensor) -> bool:
    """Whether numbers of one type may stand for another: of any precision, but of their kind."""
    kinds = (found.is_complex(), found.is_floating_point())
    return kinds == (wanted.is_complex(), wanted.is_floating_point())


def _label_names(config: TimmConfig) -> list[str] | None:
    names = config.get("label_names") or (config.get("pretrained_cfg") or {}).get("label_names")
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names, key=int)]
    return [str(name) for name in names] if names else None


def place(output: str | None, default: Path) -> Path:
    """The weights file that ``-o`` means: a file, or ``model.safetensors`` in a folder.

    Raises:
        OutputError: The name is neither a folder nor ends in .safetensors.
    """
    if output is None:
        return default
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        return path / WEIGHTS_NAME
    if path.suffix != ".safetensors":
        raise OutputError(
            f"-o {output}: must end in .safetensors, or in / for a folder with timm's config.json"
        )
    return path


def writes_config(output: str | None) -> bool:
    """Whether ``-o`` names a folder, which also gets timm's ``config.json``."""
    return (
        output is not None
        and place(output, Path()).name == WEIGHTS_NAME
        and (output.endswith(("/", os.sep)) or Path(output).is_dir())
    )


def save(
    path: Path,
    model: nn.Module,
    config: TimmConfig,
    lineage: Lineage,
    with_config: bool,
    *,
    packed: bool = False,
) -> None:
    """Write a model; the file is whole or not there.

    Args:
        path: A .safetensors file.
        model: Its weights are written under timm's keys.
        config: Timm's configuration, for the metadata.
        lineage: Where the model comes from, for the metadata.
        with_config: Also write timm's ``config.json`` beside it.
        packed: Write the weights in fewer bytes (``packing``).

    Raises:
        OutputError: The folder cannot be written.
    """
    tensors: dict[str, Tensor] = model.state_dict()
    metadata = {"format": "pt", "ceag.timm": json.dumps(config)} | lineage.to_metadata()
    beside = path.parent / CONFIG_NAME
    try:
        with ExitStack() as both:  # neither gets its name before both are written
            if with_config:
                both.enter_context(replacing(beside)).write_text(_config_text(config), "utf-8")
            write_tensors(path, tensors, metadata, packed=packed)
    except OSError as error:
        raise OutputError(f"{beside}: cannot be written: {error.strerror or error}") from None


def complete(path: Path) -> None:
    """Write timm's ``config.json`` beside a model that ceag has written, unless it is there.

    A run that is killed between the two leaves the model alone.

    Raises:
        OutputError: The folder cannot be written.
    """
    text = _config_text(strictjson.loads(read_metadata(path)["ceag.timm"]))
    beside = path.parent / CONFIG_NAME
    if not beside.is_file() or beside.read_text("utf-8") != text:
        write_text(beside, text)


def _config_text(config: TimmConfig) -> str:
    return json.dumps(config, indent=2) + "\n"
