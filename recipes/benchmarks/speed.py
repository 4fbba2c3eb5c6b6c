"""What makes a pruned model faster on a CPU: runtimes, sparse kernels, fewer channels, fewer bits.

    make bench-speed      # the results are in docs/pruning.md

Every way runs the same timm model with random weights on one thread. Within a round all of them
take turns, in a new order; the factor is PyTorch's time for the dense model over that of the way,
in the same round. *differs* is the largest difference of an output from PyTorch's with the same
weights, in standard deviations of the outputs: a fast wrong model is no result.

Ways that need a package that is not there, or hardware that is not there, say so.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from torch import nn

from ceag_cli.patterns import Pattern
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import magnitude_uniform, prune_pattern
from ceag_cli.rows import compress_rows
from ceag_cli.scores import magnitude

MODELS = ("resnet50", "vit_base_patch16_224")
SPARSITIES = (0.9, 0.95, 0.98)
PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "openvino", "torch-pruning")

Run = Callable[[np.ndarray], np.ndarray]
"""A batch of images in, logits out."""


class Missing(Exception):
    """Why a way cannot be measured here."""


class Bench:
    """One architecture with its weights: dense, with zeros, and as ONNX files."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(0)
        dense = timm.create_model(name, pretrained=False).eval()
        self.name, self.folder = name, folder
        self.models: dict[str, nn.Module] = {"dense": dense}
        for sparsity in SPARSITIES:
            pruned = self.models[f"{sparsity:.0%}".replace("%", " %")] = copy.deepcopy(dense)
            magnitude_uniform(pruned, prunable_parameters(dense), sparsity)
        self.models["2:4"] = copy.deepcopy(dense)
        prune_pattern(self.models["2:4"], prunable_parameters(dense), Pattern(2, 4), magnitude)

    def images(self, count: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(count)
        return torch.randn(count, 3, 224, 224, generator=generator).numpy()

    def reference(self, weights: str) -> nn.Module:
        """The model in PyTorch that a way is compared with."""
        if weights == "half the channels" and weights not in self.models:
            self.models[weights] = half_of_the_channels(
                self.models["dense"], torch.zeros(1, 3, 224, 224)
            )
        return self.models[weights]

    def onnx(self, weights: str, bits: int = 32) -> str:
        require("onnx", "onnxscript", "onnxruntime")
        path = self.folder / f"{weights.replace(' ', '').replace('%', '')}-{bits}.onnx".replace(
            ":", ""
        )
        if path.exists():
            return str(path)
        if bits == 32:
            torch.onnx.export(
                self.reference(weights),
                (torch.zeros(2, 3, 224, 224),),
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        else:
            quantize(self.onnx(weights), str(path), self.images(8))
        return str(path)


def require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise Missing(f"{package} is not installed")


def quantize(source: str, target: str, images: np.ndarray) -> None:
    """Eight bits for weights (symmetric, so that zeros stay) and activations, per channel."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.split(images, len(images)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    prepared = source.replace(".onnx", "-prepared.onnx")
    quantization.shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        target,
        Reader(),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )


# The ways


def eager(bench: Bench, weights: str) -> Run:
    model = bench.reference(weights)
    return lambda images: model(torch.from_numpy(images)).numpy()


def eager_bf16(bench: Bench, weights: str) -> Run:
    model = copy.deepcopy(bench.reference(weights)).bfloat16()
    return lambda images: model(torch.from_numpy(images).bfloat16()).float().numpy()


def compiled(bench: Bench, weights: str, freezing: bool) -> Run:
    import torch._inductor.config as inductor

    # A copy, since code compiled for a model is used again for the same model.
    model = torch.compile(copy.deepcopy(bench.reference(weights)), dynamic=False)

    def run(images: np.ndarray) -> np.ndarray:
        with inductor.patch(freezing=freezing):
            return model(torch.from_numpy(images)).numpy()

    try:
        run(bench.images(1))
    except Exception as error:  # no C++ compiler, mostly
        raise Missing(f"torch.compile: {str(error).splitlines()[0][:100]}") from None
    return run


def csr(bench: Bench, weights: str) -> Run:
    """The pruned layers with compressed rows."""
    model = compress_rows(bench.reference(weights), torch.zeros(1, 3, 224, 224))
    return lambda images: model(torch.from_numpy(images)).numpy()


def semi_structured(bench: Bench, weights: str) -> Run:
    """PyTorch's kernels for 2:4."""
    model = copy.deepcopy(bench.reference(weights)).half()
    owners = [model.get_submodule(n.rpartition(".")[0]) for n in prunable_parameters(model)]
    layers = [layer for layer in owners if isinstance(layer, nn.Linear)]
    if not layers:
        raise Missing("no kernels for convolutions")
    for layer in layers:
        try:
            sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        except (RuntimeError, NotImplementedError) as error:
            print(f"{bench.name}: torch.sparse.to_sparse_semi_structured: {error}")
            raise Missing("not on a CPU") from None
        layer.weight = nn.Parameter(sparse, requires_grad=False)
    return lambda images: model(torch.from_numpy(images).half()).float().numpy()


def ort(bench: Bench, weights: str, bits: int = 32) -> Run:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        bench.onnx(weights, bits), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(None, {"images": images})[0]


def openvino(
    bench: Bench, weights: str, bits: int = 32, precision: str = "f32", rate: float | None = None
) -> Run:
    require("openvino")
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    if rate is not None:
        settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
    model = openvino.Core().compile_model(bench.onnx(weights, bits), "CPU", settings)
    if rate is not None:
        kernels = [
            str(node.get_rt_info()["primitiveType"].astype(str))
            for node in model.get_runtime_model().get_ops()
        ]
        sparse = sum("sparse" in kernel for kernel in kernels)
        print(f"{bench.name}: {sparse} of {len(kernels)} kernels of OpenVINO are sparse ones")
    request = model.create_infer_request()
    return lambda images: request.infer({0: images})[0]


def half_of_the_channels(dense: nn.Module, example: torch.Tensor) -> nn.Module:
    """Half of all channels removed by torch-pruning: layers of half the width."""
    require("torch_pruning")
    pruning: Any = importlib.import_module("torch_pruning")
    model = copy.deepcopy(dense)
    heads, attention = {}, []
    for module in model.modules():
        if hasattr(module, "qkv") and hasattr(module, "num_heads"):
            heads[module.qkv] = module.num_heads
            attention.append(module)
    classifier = model.get_classifier()  # type: ignore[operator]
    with torch.enable_grad():  # the layers that depend on each other are read off the graph
        pruner = pruning.pruner.MagnitudePruner(
            model,
            example,
            importance=pruning.importance.MagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=[classifier],
            num_heads=heads,
        )
        pruner.step()
    for module in attention:  # which keeps its sizes as numbers
        module.num_heads = pruner.num_heads[module.qkv]
        module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        module.attn_dim = module.num_heads * module.head_dim
    return model.eval()


class Way(NamedTuple):
    name: str
    weights: str
    make: Callable[[Bench, str], Run]


BASE = Way("PyTorch", "dense", eager)

WAYS = (
    BASE,
    Way("PyTorch", "90 %", eager),
    Way("PyTorch", "2:4", eager),
    Way("PyTorch, bf16", "dense", eager_bf16),
    Way("torch.compile", "dense", lambda b, w: compiled(b, w, freezing=False)),
    Way("torch.compile, frozen", "dense", lambda b, w: compiled(b, w, freezing=True)),
    Way("torch.compile, frozen", "90 %", lambda b, w: compiled(b, w, freezing=True)),
    Way("PyTorch, compressed rows", "90 %", csr),
    Way("PyTorch, compressed rows", "95 %", csr),
    Way("PyTorch, compressed rows", "98 %", csr),
    Way("PyTorch, 2:4 kernels", "2:4", semi_structured),
    Way("ONNX Runtime", "dense", ort),
    Way("ONNX Runtime", "90 %", ort),
    Way("ONNX Runtime", "2:4", ort),
    Way("ONNX Runtime, int8", "dense", lambda b, w: ort(b, w, 8)),
    Way("ONNX Runtime, int8", "90 %", lambda b, w: ort(b, w, 8)),
    Way("OpenVINO", "dense", openvino),
    Way("OpenVINO", "90 %", openvino),
    Way("OpenVINO", "2:4", openvino),
    Way("OpenVINO, bf16", "dense", lambda b, w: openvino(b, w, precision="bf16")),
    Way("OpenVINO, bf16", "90 %", lambda b, w: openvino(b, w, precision="bf16")),
    Way("OpenVINO, int8", "dense", lambda b, w: openvino(b, w, 8)),
    Way("OpenVINO, int8", "90 %", lambda b, w: openvino(b, w, 8)),
    Way("OpenVINO, int8, sparse from 50 %", "90 %", lambda b, w: openvino(b, w, 8, rate=0.5)),
    Way("PyTorch", "half the channels", eager),
    Way("ONNX Runtime", "half the channels", ort),
    Way("OpenVINO", "half the channels", openvino),
)


class Result(NamedTuple):
    milliseconds: float
    """Per image."""
    factors: list[float]
    differs: float
    agree: float


def measure(bench: Bench, size: int, rounds: int) -> dict[Way, Result | str]:
    images, small = bench.images(size), bench.images(16)
    runs: dict[Way, Run] = {}
    found: dict[Way, Result | str] = {}
    checked: dict[Way, tuple[float, float]] = {}
    for way in WAYS:
        try:
            runs[way] = way.make(bench, way.weights)
            expected = eager(bench, way.weights)(small)
            got = np.concatenate([runs[way](part) for part in np.split(small, 16 // size)])
        except Missing as reason:
            found[way] = str(reason)
            continue
        agree = float((expected.argmax(1) == got.argmax(1)).mean())
        checked[way] = (float(np.abs(expected - got).max() / expected.std()), agree)
        for _ in range(2):  # first-call costs
            runs[way](images)
    seconds: dict[Way, list[float]] = {way: [] for way in runs}
    for _ in range(rounds):
        for way in random.sample(list(runs), len(runs)):
            start = time.perf_counter()
            runs[way](images)
            seconds[way].append(time.perf_counter() - start)
    for way, times in seconds.items():
        factors = [a / b for a, b in zip(seconds[BASE], times, strict=True)]
        found[way] = Result(1000 * statistics.median(times) / size, factors, *checked[way])
    return found


def table(by_size: dict[int, dict[Way, Result | str]]) -> list[str]:
    sizes = list(by_size)
    titles = [f"ms an image, batch {size} | times as fast" for size in sizes]
    lines = [f"| way | weights | {' | '.join(titles)} | differs |"]
    lines.append("|---" * (3 + 2 * len(sizes)) + "|")
    for way in WAYS:
        cells, differs = [], "–"
        for size in sizes:
            found = by_size[size][way]
            if isinstance(found, str):
                cells += [found, ""]
                continue
            middle, low, high = (
                statistics.median(found.factors),
                min(found.factors),
                max(found.factors),
            )
            cells += [f"{found.milliseconds:.1f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
            differs = f"{found.differs:.0e}"
        lines.append(f"| {way.name} | {way.weights} | {' | '.join(cells)} | {differs} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], choices=(1, 2, 4, 8, 16))
    parser.add_argument("--models", nargs="+", default=MODELS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    random.seed(0)
    versions = [
        f"{name} {version(name)}" if find_spec(name.replace("-", "_")) else f"no {name}"
        for name in PACKAGES
    ]
    print(
        f"{', '.join(versions)}, Python {platform.python_version()}, one thread on "
        f"{os.cpu_count()} cores, torch for {torch.backends.cpu.get_cpu_capability()}, "
        f"{arguments.rounds} rounds, 224x224\n"
    )
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            bench = Bench(name, Path(folder))
            found = {size: measure(bench, size, arguments.rounds) for size in arguments.batches}
        print(f"\n{name}:\n")
        print("\n".join(table(found)), flush=True)


if __name__ == "__main__":
    main()
