"""``ceag export``: a model as an ONNX file, which ONNX Runtime and OpenVINO run.

The weights stay what they are, in single precision with their zeros, so that what is gained comes
from the runtime (docs/pruning.md has it measured). The file is written only after it has answered
as PyTorch does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ceag_cli.archives import PACKED_SUFFIX
from ceag_cli.atomic import replacing
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.data import open_data
from ceag_cli.declarations import no_effect
from ceag_cli.errors import ExportError, OutputError
from ceag_cli.evaluation import Compute
from ceag_cli.headers import SPLITS
from ceag_cli.inputs import check_targets, choose, open_checkpoint
from ceag_cli.models import architecture_of
from ceag_cli.options import ExportOptions
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.prunable import layer_weights
from ceag_cli.pruned import masks_of
from ceag_cli.results import ExportResult
from ceag_cli.stagereport import megabytes
from ceag_cli.weightsfiles import SUFFIX

ONNX = ".onnx"
INPUT, OUTPUT = "images", "logits"

RANDOM_IMAGES = 16
"""Images of noise that are compared where there is no CSV."""

TOLERANCE = 1e-3
"""Largest difference of an output from PyTorch's, as a fraction of the largest output."""


def export(options: ExportOptions, reporter: Reporter | None = None) -> ExportResult:
    """Write a model as ONNX, compared with PyTorch on noise or on the images of a CSV.

    Args:
        options: See ``ceag export --help``.
        reporter: Hears how it goes.

    Raises:
        ExportError: A package is missing, torch cannot export this architecture, or the file
            answers otherwise than the model.
        CeagError: Something else given cannot be used.
    """
    reporter = reporter or Quiet()
    onnx, onnxruntime = _packages()
    idle = ("resume", "amp", *(("device",) if options.device != "cpu" else ()))
    for warning in no_effect(options, {"on export": (True, idle)}):
        reporter.warn(warning)
    path = choose(options.checkpoint, ("mitigated", "pruned", "dense"), "export", reporter)
    output = _place(options.output, path, options.overwrite)
    source = open_checkpoint(path, options, reporter)
    if source.lineage is not None and source.lineage.sparsity is not None:
        masks_of(source)  # refuses a file that was changed after pruning
    checked_on, batches = _images(options, source, reporter)
    before = zeros_of(source.model)
    try:
        with replacing(output) as temporary:
            reporter.say(f"writing {output}")
            _write(source, temporary)
            session = _session(onnxruntime, temporary)
            compared = _compare(source.model, session, batches)
            written = onnx.load(temporary).graph.initializer
            arrays = [onnx.numpy_helper.to_array(item) for item in written]
            after = [(array.size, int((array == 0).sum())) for array in arrays]
            zeros = sum(size for _, size in before)
            kept = zeros_left(before, after)
            if kept < zeros:
                reporter.warn(
                    f"{output}: {kept} zeros are left of {zeros}; weights that are standardised "
                    "before use, or that do not meet the image, were computed in advance"
                )
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from None
    return ExportResult(
        output=output,
        source=path,
        source_sha256=source.sha256,
        architecture=architecture_of(source.model),
        preprocessing=str(source.preprocessing),
        bytes=output.stat().st_size,
        zeros=kept,
        zeros_before=zeros,
        checked_on=checked_on,
        **compared,
    )


def zeros_of(model: nn.Module) -> list[tuple[int, int]]:
    """Size and zeros of the weight of every convolution and linear layer."""
    weights = [model.get_parameter(name) for name in layer_weights(model)]
    return [(weight.numel(), weight.numel() - int(weight.count_nonzero())) for weight in weights]


def zeros_left(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> int:
    """How many zeros of some tensors others have still.

    Tensors of one size are compared in the order of their zeros: an exporter turns matrices over,
    renames them, folds norms into them and adds tensors of its own.
    """
    left = 0
    for size in {size for size, _ in before}:
        ranked = [
            sorted((n for s, n in pairs if s == size), reverse=True) for pairs in (before, after)
        ]
        left += sum(min(pair) for pair in zip(*ranked, strict=False))
    return left


def lines(result: ExportResult) -> list[str]:
    """What ``export`` prints."""
    return [
        f"wrote {result.output}: {result.architecture}, {megabytes(result.bytes)}, "
        f"{result.zeros} of the {result.zeros_before} zeros of {result.source}",
        f"input '{INPUT}': float32, any number of images, normalised: {result.preprocessing}",
        f"the same class as in PyTorch for {result.same_class} of {result.images} "
        f"{result.checked_on}; outputs of up to {result.largest_output:.2g} differ by at most "
        f"{result.largest_difference:.0e}",
        "An audit is of the model in PyTorch; it holds for this file as far as the classes agree. "
        "The zeros do not make it faster, the runtime does.",
    ]


def _packages() -> tuple[Any, Any]:
    """The packages that exporting needs besides torch, which are an extra.

    Raises:
        ExportError: One is missing or cannot be loaded.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx is made of it
    except ImportError as error:
        package = (error.name or "onnx").partition(".")[0]
        raise ExportError(
            f"ceag export needs the package {package}: pip install 'ceag[onnx]' ({error})"
        ) from None
    return onnx, onnxruntime


def _place(given: str | None, source: Path, overwrite: bool) -> Path:
    """The file to write: ``model.pruned.safetensors`` → ``model.pruned.onnx``."""
    if given is None:
        stem = source.name
        for suffix in (PACKED_SUFFIX, SUFFIX, ".tar", ".pth", ".pt", ".bin"):
            stem = stem.removesuffix(suffix)
        output = source.with_name(stem + ONNX)
    elif given.endswith(("/", os.sep)) or Path(given).is_dir():
        output = Path(given) / f"model{ONNX}"
    else:
        output = Path(given)
        if output.suffix != ONNX:
            raise OutputError(f"-o {given}: must end in {ONNX}, or in / for a folder")
    if output.exists() and not overwrite:
        raise OutputError(
            f"{output}: exists already; replace it with --overwrite or write elsewhere with -o"
        )
    return output


def _images(
    options: ExportOptions, source: Checkpoint, reporter: Reporter
) -> tuple[str, Iterable[Tensor]]:
    """What the two are compared on, in words, and batches of inputs."""
    if options.groups is None:
        generator = torch.Generator().manual_seed(options.seed)
        noise = torch.randn(RANDOM_IMAGES, *source.preprocessing.input_size, generator=generator)
        # One image alone, since a file that takes one batch size alone would be of little use.
        return "images of noise", (noise[:1], noise[1:])
    data = open_data(options, [source], reporter, "export")
    check_targets(data, source, options.class_map)
    name = next(name for name in reversed(SPLITS) if name in data.labels.splits)
    data.require([name], seen_in_train=False)
    split = data.split(name, source.preprocessing, options, reporter)
    compute = Compute(torch.device("cpu"), batch_size=options.batch_size)

    def batches() -> Iterator[Tensor]:
        with reporter.bar(f"comparing on {name}", len(split)) as update:
            done = 0
            for rows, pixels in split.images.batches(torch.arange(len(split)), options.batch_size):
                yield compute.to_inputs(pixels, source.preprocessing)
                done += len(rows)
                update(done, "")

    return f"{name} images", batches()


@torch.no_grad()  # with gradients, torch cannot export attention with a relative position bias
def _write(source: Checkpoint, path: Path) -> None:
    """Write the ONNX file, with the metadata of a weights file."""
    model = source.model.eval()
    example = torch.zeros(2, *source.preprocessing.input_size)
    try:
        # What torch has to say meanwhile concerns its own developers.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                # Without a bound, torch 2.7 finds that a batch must not have 2^63 - 1 images.
                dynamic_shapes=({0: torch.export.Dim("batch", max=2**31 - 1)},),
            )
            assert program is not None
            for node in program.model.graph.all_nodes():
                node.metadata_props.clear()  # source lines of this machine, by full path
            program.model.metadata_props.update(_metadata(source))
            program.save(path, external_data=False)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds, down to those of its compiler
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"{source.path}: torch cannot export {architecture_of(model)} as ONNX: {reason}"
        ) from error


def _metadata(source: Checkpoint) -> dict[str, str]:
    lineage = source.lineage.to_metadata() if source.lineage is not None else {}
    origin = {"path": source.path.name, "sha256": source.sha256}
    return {
        "ceag.timm": json.dumps(source.config),
        "ceag.source": json.dumps(origin),
    } | lineage


def _session(onnxruntime: Any, path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"ONNX Runtime does not take the file: {reason}") from error


@torch.inference_mode()
def _compare(model: nn.Module, session: Any, batches: Iterable[Tensor]) -> dict[str, Any]:
    """How far the file's answers are from the model's.

    Raises:
        ExportError: Farther than rounding explains.
    """
    images = same = 0
    difference = largest = torch.zeros(())
    for inputs in batches:
        expected = model(inputs)
        found = torch.from_numpy(session.run(None, {INPUT: inputs.numpy()})[0])
        if found.shape != expected.shape:
            raise ExportError(
                f"the exported file gives outputs of {tuple(found.shape)}, the model "
                f"{tuple(expected.shape)}; nothing was written"
            )
        images += len(inputs)
        same += int((found.argmax(dim=1) == expected.argmax(dim=1)).sum())
        # torch's maximum keeps NaN, so that it is found below.
        difference = torch.maximum(difference, (found - expected).abs().max())
        largest = torch.maximum(largest, expected.abs().max())
    if not difference <= TOLERANCE * largest:
        raise ExportError(
            f"the exported file answers otherwise than the model: outputs of up to {largest:.2g} "
            f"differ by {difference:.2g}, the class is the same for {same} of {images} images; "
            "nothing was written"
        )
    return {
        "images": images,
        "same_class": same,
        "largest_difference": float(difference),
        "largest_output": float(largest),
    }
