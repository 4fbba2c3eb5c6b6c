"""Dependencies point one way only: DESIGN's five layers, read off the source with ``ast``."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import ceag_cli

PACKAGE = "ceag_cli"

# Lowest first. A module may import from its own layer and from those before it, and what is named
# here from outside the standard library, for its layer and those before it.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "package": ({"__init__"}, set()),
    "numbers": (
        {
            "errors",
            "inert",
            "strictjson",
            "arrays",
            "groups",
            "gaps",
            "replay",
            "multipliers",
            "intervals",
            "chance",
            "heterogeneity",
            "comparing",
            "clusters",
            "judging",
            "means",
            "confusion",
            "strata",
            "curvature",
            "margins",
            "association",
            "modes",
            "welch",
            "pareto",
            "reach",
            "regression",
        },
        {"torch", "numpy", "scipy"},
    ),
    "method": (
        {
            "ceag",
            "mixing",
            "distillation",
            "baselines",
            "iterates",
            "convergence",
            "scores",
            "budgets",
            "patterns",
            "rows",
            "schedules",
            "selection",
            "masks",
            "pruning",
            "fairgrape",
        },
        set(),
    ),
    "world": (
        {
            "progress",
            "versions",
            "locks",
            "atomic",
            "clauses",
            "declarations",
            "datasetnames",
            "sharedoptions",
            "stageoptions",
            "auditoptions",
            "options",
            "strictyaml",
            "recipe",
            "quotes",
            "headers",
            "groupcolumns",
            "labels",
            "columns",
            "csvfiles",
            "npzfiles",
            "parquetfiles",
            "answercolumns",
            "answerchecks",
            "predictions",
            "classes",
            "decoding",
            "images",
            "splits",
            "pixels",
            "contents",
            "listings",
            "imagefolders",
            "imagetars",
            "torchvisionsets",
            "huggingfacesets",
            "webdatasets",
            "readers",
            "joining",
            "sources",
            "preprocessing",
            "models",
            "cifarresnets",
            "cifarbatches",
            "layouts",
            "prunable",
            "kinds",
            "references",
            "lineage",
            "packing",
            "tensorfiles",
            "weightsfiles",
            "statedicts",
            "timmconfigs",
            "memory",
            "pickles",
            "provenance",
            "destinations",
            "checkpoints",
            "runs",
            "evaluation",
            "reading",
            "data",
            "inputs",
            "pruned",
            "pairing",
            "info",
            "optimizers",
            "training",
            "methods",
            "batchnorm",
            "distributed",
            "launching",
            "stores",
            "links",
        },
        {
            *("timm", "torchvision", "safetensors", "yaml", "PIL", "numpy", "pyarrow"),
            *("datasets", "webdataset"),
        },
    ),
    "product": (
        {
            "policy",
            "findings",
            "verdict",
            "sizes",
            "planning",
            "planreport",
            "starting",
            "checking",
            "conversion",
            "testing",
            "paired",
            "floors",
            "audit",
            "auditing",
            "shifts",
            "shiftreport",
            "answers",
            "subjects",
            "kept",
            "populations",
            "voting",
            "ballots",
            "companions",
            "pies",
            "tally",
            "identifying",
            "piereport",
            "pieformats",
            "archives",
            "exports",
            "explaining",
            "explanations",
            "explanationreport",
            "explanationformats",
            "schemas",
            "results",
            "report",
            "documents",
            "stagereport",
            "groupplots",
            "page",
            "axes",
            "annotations",
            "templates",
            "jsontext",
            "reportfiles",
            "grouptables",
            "texttables",
            "formats",
            "gallery",
            "junit",
            "markdown",
            "plaintext",
            "sheet",
            "mitigation",
            "pruners",
            "initial",
            "stages",
            "experiment",
            "heldout",
            "sweepreport",
            "scatter",
            "sweep",
            "sweepruns",
            "sweepfindings",
            "sweepanalysis",
            "sweepdocument",
            "sweeppage",
            "sweeptables",
            "recommending",
            "recommendationreport",
            "unittable",
            "tensors",
        },
        {"rich", "jinja2", "matplotlib", "onnx", "onnxruntime", "onnxscript"},
    ),
    "shell": (
        {
            "interruptions",
            "launched",
            "terminal",
            "exitcodes",
            "usage",
            "parameters",
            "cli",
            "__main__",
        },
        {"typer"},
    ),
}

# The command line answers --help and usage errors without the seconds that torch takes.
WITHOUT_TORCH = ("options", "recipe", "policy", "errors", "inert", "cli", "progress")


def rank_of(module: str) -> int | None:
    return next((i for i, (names, _) in enumerate(LAYERS.values()) if module in names), None)


def allowed_outside(module: str) -> set[str]:
    rank = rank_of(module)
    assert rank is not None
    if rank == 0:
        return set()
    return set().union(*(outside for _, outside in list(LAYERS.values())[: rank + 1]))


@dataclass(frozen=True)
class Import:
    """One import: of a module of the package (``inside``), or of a top-level name from outside."""

    name: str
    inside: bool
    at_module_level: bool
    line: int


def imports(source: str, modules: set[str]) -> list[Import]:
    """Every import of a source file, those in functions included."""

    def from_package(names: list[str]) -> Iterator[str]:
        for name in names:
            yield name if name in modules else "__init__"

    def walk(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            below = at_module_level and not isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
            )
            found: list[tuple[str, bool]] = []
            if isinstance(child, ast.Import):
                for alias in child.names:
                    top, *rest = alias.name.split(".")
                    inside = top == PACKAGE
                    found.append(
                        (rest[0] if rest else "__init__", True) if inside else (top, False)
                    )
            elif isinstance(child, ast.ImportFrom):
                path = (child.module or "").split(".")
                if child.level:  # the package is flat, so `from .x` is the only relative form
                    path = [PACKAGE, *(part for part in path if part)]
                if path[0] != PACKAGE:
                    found.append((path[0], False))
                elif len(path) > 1:
                    found.append((path[1], True))
                else:
                    found += [(n, True) for n in from_package([a.name for a in child.names])]
            for name, inside in found:
                yield Import(name, inside, at_module_level, child.lineno)  # type: ignore[attr-defined]
            yield from walk(child, below)

    return list(walk(ast.parse(source), True))


def problems(sources: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with the imports of a package, given as source by module name."""
    found = [f"{name} is in no layer" for name in sorted(sources) if rank_of(name) is None]
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        rank = rank_of(name)
        graph[name] = set()
        if rank is None:
            continue
        for imported in imports(source, set(sources)):
            where = f"{name}:{imported.line}"
            if not imported.inside:
                if (
                    imported.name not in sys.stdlib_module_names
                    and imported.name not in allowed_outside(name)
                ):
                    found.append(f"{where} imports {imported.name} from outside")
                continue
            other = rank_of(imported.name)
            if other is not None and other > rank:
                found.append(f"{where} imports {imported.name}, which is above it")
            if imported.at_module_level:
                graph[name].add(imported.name)
    found += [f"cycle: {' -> '.join(cycle)}" for cycle in cycles(graph)]
    return found


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Cycles in a graph, one for each edge that closes one in a depth-first walk."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph.get(name, set())):
                visit(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def loads_torch(sources: Mapping[str, str], module: str) -> list[str] | None:
    """The chain of imports at module level by which a module comes to torch, if it does."""
    heavy = {"torch", "torchvision", "timm"}  # the latter two import the first
    seen: set[str] = set()
    chains = [[module]]
    while chains:
        chain = chains.pop(0)
        for imported in imports(sources[chain[-1]], set(sources)):
            if not imported.at_module_level:
                continue
            if not imported.inside and imported.name in heavy:
                return [*chain, imported.name]
            if imported.inside and imported.name not in seen and imported.name in sources:
                seen.add(imported.name)
                chains.append([*chain, imported.name])
    return None


def read_package() -> dict[str, str]:
    folder = Path(ceag_cli.__file__).parent
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


SOURCES = read_package()


def test_the_package_keeps_to_its_layers() -> None:
    assert problems(SOURCES) == []


def test_every_module_of_the_table_exists() -> None:
    listed = [name for names, _ in LAYERS.values() for name in names]
    assert sorted(listed) == sorted(SOURCES)
    assert len(list(Path(ceag_cli.__file__).parent.rglob("*.py"))) == len(SOURCES)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_these_modules_load_without_torch(module: str) -> None:
    assert loads_torch(SOURCES, module) is None


def test_the_command_line_really_loads_without_torch() -> None:
    code = f"import sys, {PACKAGE}.cli; print(sorted({{'torch', 'timm'}} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


# The reader itself, on sources with known faults.


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("groups", "from ceag_cli.ceag import x", "groups:1 imports ceag, which is above it"),
        ("groups", "import ceag_cli.cli", "groups:1 imports cli, which is above it"),
        ("groups", "from ceag_cli import audit", "groups:1 imports audit, which is above it"),
        ("groups", "from . import audit", "groups:1 imports audit, which is above it"),
        ("groups", "from .audit import audit", "groups:1 imports audit, which is above it"),
        (
            "masks",
            "def f():\n    from ceag_cli.training import Training",
            "masks:2 imports training, which is above it",
        ),
        ("gaps", "import yaml", "gaps:1 imports yaml from outside"),
        ("gaps", "import os, PIL.Image", "gaps:1 imports PIL from outside"),
        ("masks", "from timm.models import x", "masks:1 imports timm from outside"),
        ("training", "import rich", "training:1 imports rich from outside"),
        ("stages", "def f():\n    import typer", "stages:2 imports typer from outside"),
        ("__init__", "import torch", "__init__:1 imports torch from outside"),
        ("__init__", "from ceag_cli import stages", "__init__:1 imports stages, which is above it"),
        ("helpers", "", "helpers is in no layer"),
    ],
)
def test_a_fault_is_found(module: str, source: str, expected: str) -> None:
    assert problems({"audit": "", "stages": "", module: source}) == [expected]


def test_what_is_allowed_is_not_reported() -> None:
    assert (
        problems(
            {
                "__init__": "import importlib",
                "errors": "from __future__ import annotations\nimport os.path",
                "groups": "import torch.nn",
                "masks": "from torch import nn\nfrom ceag_cli.errors import CeagError",
                "models": "import timm, yaml\nfrom PIL import Image",
                "report": "import torch\nfrom rich.text import Text\nfrom ceag_cli import masks",
                "cli": "import typer\ndef f():\n    from ceag_cli import report",
            }
        )
        == []
    )


def test_a_cycle_is_found_at_module_level_only() -> None:
    sources = {
        "labels": "from ceag_cli.images import x",
        "images": "from ceag_cli.models import x",
        "models": "import ceag_cli.labels",
    }
    assert problems(sources) == ["cycle: images -> models -> labels -> images"]
    assert problems({**sources, "models": "def f():\n    import ceag_cli.labels"}) == []
    # A class body and an `if` run when the module is imported.
    assert len(problems({**sources, "models": "class A:\n    import ceag_cli.labels"})) == 1
    assert len(problems({**sources, "models": "if x:\n    import ceag_cli.labels"})) == 1


def test_torch_is_found_through_other_modules() -> None:
    sources = {
        "cli": "from ceag_cli.recipe import x",
        "recipe": "import ceag_cli.options",
        "options": "try:\n    from torch import Tensor\nexcept ImportError:\n    pass",
    }
    assert loads_torch(sources, "cli") == ["cli", "recipe", "options", "torch"]
    lazily = {**sources, "options": "def f():\n    import torch"}
    assert loads_torch(lazily, "cli") is None
