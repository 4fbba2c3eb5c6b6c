"""Weights files made to do harm: refused by name, in no time, and nothing of them is executed."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ceag, done, tiny_model

from ceag_cli import strictjson
from ceag_cli.errors import CeagError, TrainingError
from ceag_cli.info import describe_file
from ceag_cli.lineage import Lineage, SparsityRecord
from ceag_cli.models import describe
from ceag_cli.preprocessing import preprocessing_of
from ceag_cli.references import Reference
from ceag_cli.runs import Run
from ceag_cli.statedicts import read_state, write_tensors
from ceag_cli.timmconfigs import checked_config
from ceag_cli.weightsfiles import PACKED, read_metadata

MODEL = tiny_model("test_resnet")
CONFIG = describe(MODEL, preprocessing_of(MODEL), None)
OURS = Lineage(stage="pruned", version="1", seed=1, recipe={"command": "prune"}).to_metadata()
METADATA = {"format": "pt", "ceag.timm": json.dumps(CONFIG)} | OURS


pytestmark = pytest.mark.usefixtures("empty_folder")


def refusals(*arguments: str) -> list[str]:
    """What a command says that has to refuse its input; nothing may be left of an output."""
    before = set(Path().rglob("*"))
    result = ceag(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert set(Path().rglob("*")) == before
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


# The header of a .safetensors


def raw(header: Any, numbers: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + numbers


def entry(begin: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "a length beyond the file": raw({}, length=2**20),
    "a length of 2^63": raw({}, length=2**63),
    "a length of 0": raw(b"", length=0),
    "a length alone": b"\1",
    "no JSON": raw(b"{not json}"),
    "a list": raw([1]),
    "offsets beyond the file": raw({"w": entry(0, 800, [200])}),
    "offsets that overlap": raw({"v": entry(0, 8, [2]), "w": entry(4, 8, [1])}),
    "offsets with a gap": raw({"v": entry(0, 4, [1]), "w": entry(8, 12, [1])}, b"\0" * 12),
    "offsets backwards": raw({"w": entry(8, 0, [2])}),
    "negative offsets": raw({"w": entry(-8, 0, [2])}),
    "a shape that does not fit": raw({"w": entry(0, 8, [3])}),
    "a negative length of a side": raw({"w": entry(0, 8, [-2])}),
    "a shape that overflows": raw({"w": entry(0, 8, [2**62, 2**62])}),
    "an unknown type": raw({"w": entry(0, 8, [2], "F99")}),
    "bytes that no tensor has": raw({"w": entry(0, 4, [1])}),
    "a tensor twice": raw(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "a key of the metadata twice": raw(
        b'{"__metadata__":{"a":"1","a":"2"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "metadata that is no text": raw({"__metadata__": {"a": 1}, "w": entry(0, 8, [2])}),
    "nesting": raw(b'{"w":' + b"[" * 100_000),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_lies_is_refused(content: bytes) -> None:
    Path("m.safetensors").write_bytes(content)
    (problem,) = refusals("info", "m.safetensors")
    assert problem.startswith("error: m.safetensors: ")


@pytest.mark.parametrize("command", [("pack",), ("unpack",), ("prune", "--sparsity", "0.5")])
def test_every_command_refuses_it(command: tuple[str, ...]) -> None:
    Path("m.safetensors").write_bytes(HEADERS["a tensor twice"])
    (problem,) = refusals(command[0], "m.safetensors", *command[1:])
    assert problem.startswith("error: m.safetensors: ")


def test_types_that_torch_has_and_models_have_not_are_refused() -> None:
    for dtype, size in (("F8_E4M3", 1), ("F8_E8M0", 1), ("F4", 1), ("U64", 8), ("C64", 8)):
        count = 8 // size
        Path("m.safetensors").write_bytes(raw({"w": entry(0, 8, [count], dtype)}))
        result = ceag("prune", "m.safetensors", "--sparsity", "0.5", "--model", "test_resnet")
        assert result.exit_code == 2, (dtype, result.output, result.exception)


# Metadata that was forged


def forged(changes: dict[str, str], path: str = "m.safetensors") -> str:
    write_tensors(Path(path), MODEL.state_dict(), METADATA | changes)
    return path


REFERENCE = {"path": "d.safetensors", "sha256": "0" * 64}
GROUPS = {"path": "l.csv", "sha256": "0" * 64, "data_dir": None, "label_column": "label"}
GROUPS |= {"groups_by": "group"}
SPARSITY: dict[str, Any] = {"target": 0.5, "scope": "layer", "criterion": "magnitude"}
SPARSITY |= {"achieved": 0.5, "pattern": "unstructured", "tensors": {"fc.weight": [1, 2]}}

METADATA_LIES: dict[str, dict[str, Any]] = {
    "eps is NaN": {"ceag.eps": "nan"},
    "eps is infinite": {"ceag.eps": "inf"},
    "eps is 2": {"ceag.eps": "2"},
    "eps is a word": {"ceag.eps": "much"},
    "the seed is negative": {"ceag.seed": "-1"},
    "the seed has 5000 digits": {"ceag.seed": "9" * 5000},
    "the recipe is a list": {"ceag.recipe": [1]},
    "the recipe is nested": {"ceag.recipe": '{"a":' + "[" * 100_000},
    "the recipe has a key twice": {"ceag.recipe": '{"eps": 0.1, "eps": 0.2}'},
    "the recipe has NaN": {"ceag.recipe": '{"eps": NaN}'},
    "the recipe has 1e999": {"ceag.recipe": '{"eps": 1e999}'},
    "the recipe is of no command": {"ceag.recipe": {"command": "rm"}},
    "the recipe has another type": {"ceag.recipe": {"command": "mitigate", "method": ["naive"]}},
    "the method is unknown": {"ceag.recipe": {"command": "mitigate", "method": "magic"}},
    "half of a surrogate pair": {"ceag.recipe": '{"a": "\\ud800"}'},
    "a parent is a number": {"ceag.parents": {"dense": 3}},
    "a parent's path is a list": {"ceag.parents": {"dense": REFERENCE | {"path": ["a"]}}},
    "a parent's path has a NUL": {"ceag.parents": {"dense": REFERENCE | {"path": "a\0b"}}},
    "a parent's path is endless": {"ceag.parents": {"dense": REFERENCE | {"path": "a" * 9999}}},
    "a parent's hash is none": {"ceag.parents": {"dense": REFERENCE | {"sha256": "*"}}},
    "the groups are a word": {"ceag.groups": '"labels.csv"'},
    "the label column is a number": {"ceag.groups": GROUPS | {"label_column": 3}},
    "the data set is unknown": {"ceag.groups": GROUPS | {"dataset": {"name": "torch/../x"}}},
    "the data set is a number": {"ceag.groups": GROUPS | {"dataset": {"name": 7}}},
    "a split is unknown": {
        "ceag.groups": GROUPS | {"dataset": {"name": "tar", "splits": {"a": "b"}}}
    },
    "the criterion is unknown": {"ceag.sparsity": SPARSITY | {"criterion": "rm -rf"}},
    "the scope is unknown": {"ceag.sparsity": SPARSITY | {"scope": "universe"}},
    "the pattern is unknown": {"ceag.sparsity": SPARSITY | {"pattern": "(a+)+$"}},
    "the sparsity is huge": {"ceag.sparsity": SPARSITY | {"target": 1e300}},
    "zeros are negative": {"ceag.sparsity": SPARSITY | {"tensors": {"fc.weight": [-1, 2]}}},
    "zeros are a word": {"ceag.sparsity": SPARSITY | {"tensors": {"fc.weight": ["1", 2]}}},
    "more zeros than weights": {"ceag.sparsity": SPARSITY | {"tensors": {"fc.weight": [3, 2]}}},
    "weights beyond 64 bits": {"ceag.sparsity": SPARSITY | {"tensors": {"fc.weight": [1, 2**70]}}},
    "one number for a pair": {"ceag.sparsity": SPARSITY | {"tensors": {"fc.weight": [1]}}},
    "recalibrated is negative": {"ceag.recalibrated": "-3"},
    "a format of the future": {"ceag.format": "99"},
}


@pytest.mark.parametrize("lie", METADATA_LIES.values(), ids=METADATA_LIES.keys())
def test_forged_metadata_is_refused(lie: dict[str, Any]) -> None:
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in lie.items()}
    (problem,) = refusals("info", forged(texts))
    assert problem.startswith("error: m.safetensors: ")


def test_forged_metadata_is_refused_before_anything_is_made_of_it() -> None:
    path = forged({"ceag.eps": "nan"})
    (problem,) = refusals("prune", path, "--sparsity", "0.9", "-o", "out.safetensors")
    assert problem == (
        "error: m.safetensors: its ceag metadata is damaged: eps is NaN, not a number from 0 to 1"
    )


def test_a_regular_expression_that_a_file_names_is_not_run() -> None:
    """It could take longer than the sun shines; this one is also found in no name."""
    recipe = {"command": "prune", "include": "(a+)+$", "exclude": "(.*)*weight"}
    plain = done("info", forged({}), "--tensors").stdout.splitlines()
    shown = done("info", forged({"ceag.recipe": json.dumps(recipe)}), "--tensors")
    table = shown.stdout.splitlines()
    assert table[table.index("") :] == plain[plain.index("") :]


def changed(**changes: Any) -> str:
    return json.dumps(CONFIG | changes)


def of_pretrained(**changes: Any) -> str:
    return json.dumps(CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | changes})


def with_arguments(**arguments: Any) -> str:
    return json.dumps(CONFIG | {"model_args": arguments})


CONFIGS: dict[str, str] = {
    "a list": "[1]",
    "nesting": "[" * 100_000,
    "a folder as the architecture": changed(architecture="local-dir:/etc"),
    "a repository as the architecture": changed(architecture="hf-hub:somebody/model"),
    "a path as the architecture": changed(architecture="../../model"),
    "a number as the architecture": changed(architecture=5),
    "an unknown architecture": changed(architecture="resnet99"),
    "another architecture": changed(architecture="test_vit"),
    "a checkpoint among the arguments": with_arguments(checkpoint_path="evil.pth"),
    "pretrained weights among the arguments": with_arguments(pretrained=True),
    "a configuration among the arguments": with_arguments(pretrained_cfg={"file": "evil.pth"}),
    "arguments that are a list": changed(model_args=[1, 2]),
    "an argument that is none": with_arguments(foo=1),
    "a billion classes": changed(num_classes=10**9),
    "ten million classes": changed(num_classes=10**7),
    "negative classes": changed(num_classes=-3),
    "classes in a word": changed(num_classes="many"),
    "huge channels": with_arguments(channels=[10**6] * 4),
    "a deep network": with_arguments(layers=[10**7] * 4),
    "NaN": json.dumps(CONFIG)[:-1] + ', "drop_rate": NaN}',
    "a size of 10^9": of_pretrained(input_size=[3, 10**9, 10**9]),
    "a size of 0": of_pretrained(input_size=[3, 0, 0]),
    "a size of two numbers": of_pretrained(input_size=[3, 16]),
    "a size in words": of_pretrained(input_size="large"),
    "a mean in words": of_pretrained(mean=["a", "b", "c"]),
    "a mean of two": of_pretrained(mean=[0.5, 0.5]),
    "a deviation of 0": of_pretrained(std=[0, 0, 0]),
    "a crop of 10^-9": of_pretrained(crop_pct=1e-9),
    "a negative crop": of_pretrained(crop_pct=-1),
    "an unknown interpolation": of_pretrained(interpolation="magic"),
    "an unknown mode of cropping": of_pretrained(crop_mode={"a": 1}),
    "a classifier that is a number": of_pretrained(classifier=3),
    "names that are numbers": changed(label_names={"a": "b"}),
    "fewer names than classes": changed(label_names=["a"]),
    "one name for two classes": changed(label_names=["a", "a", "b"]),
    "names that are no list": changed(label_names="abc"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_forged_timm_configuration_is_refused(config: str) -> None:
    Path("evil.pth").write_bytes(pickle.dumps(Malicious()))
    path = forged({"ceag.timm": config})
    problems = refusals("prune", path, "--sparsity", "0.9", "-o", "out.safetensors")
    assert problems
    assert not Path("owned").exists()


def test_a_configuration_cannot_name_where_weights_come_from() -> None:
    """Another source is left out, so that the file's own weights are read."""
    cfg = {"file": "evil.pth", "source": "hf-hub", "hf_hub_id": "a/b", "url": "http://x.invalid/y"}
    path = forged({"ceag.timm": of_pretrained(**cfg)})
    done("prune", path, "--sparsity", "0.9", "-o", "out.safetensors")
    found = json.loads(read_metadata(Path("out.safetensors"))["ceag.timm"])["pretrained_cfg"]
    assert not cfg.keys() & found.keys()


def test_the_same_in_config_json_beside_the_file() -> None:
    write_tensors(Path("m.safetensors"), MODEL.state_dict(), {"format": "pt"})
    Path("config.json").write_text(with_arguments(checkpoint_path="evil.pth"))
    (problem,) = refusals("prune", "m.safetensors", "--sparsity", "0.9")
    assert problem == (
        "error: config.json: not a timm configuration: 'checkpoint_path' is no argument of a model"
    )


def test_arguments_of_a_recipe_read_no_files_either() -> None:
    Path("evil.pth").write_bytes(pickle.dumps(Malicious()))
    write_tensors(Path("m.safetensors"), MODEL.state_dict(), {"format": "pt"})
    Path("r.yaml").write_text("model: test_resnet\nmodel_kwargs: checkpoint_path=evil.pth\n")
    (problem,) = refusals("prune", "m.safetensors", "--sparsity", "0.9", "--config", "r.yaml")
    assert "'checkpoint_path' is no argument of a model" in problem
    assert not Path("owned").exists()


# Tensors


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    state = dict(MODEL.state_dict())
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"fc__bias": None}, "lacks fc.bias"),
    "unexpected": ({"extra": torch.zeros(1)}, "has unexpected extra"),
    "of another shape": ({"fc__bias": torch.zeros(4)}, "'fc.bias' has shape (4,)"),
    "whole numbers": ({"fc__bias": torch.zeros(3, dtype=torch.int64)}, "of type torch.int64"),
    "complex numbers": ({"fc__bias": torch.zeros(3, dtype=torch.complex64)}, "torch.complex64"),
    "a counter that is no number": (
        {"bn1__num_batches_tracked": torch.tensor(1.5)},
        "of type torch.float32",
    ),
}


@pytest.mark.parametrize(("changes", "problem"), TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_do_not_fit_are_refused(changes: dict[str, Any], problem: str) -> None:
    write_tensors(Path("m.safetensors"), tensors(**changes), METADATA)
    problems = refusals("prune", "m.safetensors", "--sparsity", "0.9", "-o", "out.safetensors")
    assert problem in problems[0]


def test_half_precision_is_still_read() -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in MODEL.state_dict().items()}
    write_tensors(Path("m.safetensors"), state, METADATA)
    done("prune", "m.safetensors", "--sparsity", "0.9", "-o", "out.safetensors")


# Pickles


class Malicious:
    """Makes a file where it is unpickled by who executes what pickles hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("owned", "w"))


def zipped(path: Path, compression: int, numbers: bytes) -> None:
    """A checkpoint of torch whose numbers are others, or compressed."""
    torch.save({"w": torch.zeros(2)}, "plain.pth")
    with zipfile.ZipFile("plain.pth") as plain, zipfile.ZipFile(path, "w", compression) as other:
        for info in plain.infolist():
            content = numbers if info.filename.endswith("data/0") else plain.read(info)
            other.writestr(info.filename, content, compression)
    Path("plain.pth").unlink()


def bomb(path: Path) -> None:
    zipped(path, zipfile.ZIP_DEFLATED, b"\0" * 10_000_000)


PICKLES: dict[str, Callable[[Path], Any]] = {
    "code": lambda path: path.write_bytes(pickle.dumps(Malicious())),
    "code in a state dict": lambda path: torch.save({"w": torch.zeros(1), "x": Malicious()}, path),
    "code in the old format": lambda path: torch.save(
        {"state_dict": Malicious()}, path, _use_new_zipfile_serialization=False
    ),
    "a module": lambda path: torch.save(torch.nn.Linear(1, 1), path),
    "no dict": lambda path: torch.save([torch.zeros(1)], path),
    "no tensors": lambda path: torch.save({"a": 1, "b": "c"}, path),
    "numbers for names": lambda path: torch.save({1: torch.zeros(1)}, path),
    "a sparse tensor": lambda path: torch.save({"w": torch.zeros(3, 3).to_sparse()}, path),
    "one number for a million": lambda path: torch.save({"w": torch.zeros(1).expand(10**6)}, path),
    "a bomb": bomb,
    "numbers cut short": lambda path: zipped(path, zipfile.ZIP_STORED, b"\0"),
    "half a file": lambda path: path.write_bytes(pickle.dumps({"a": [1] * 999})[:50]),
    "a .zip of nothing": lambda path: zipfile.ZipFile(path, "w").close(),
    "a damaged .zip": lambda path: path.write_bytes(
        b"PK\3\4" + b"\0" * 40 + b"PK\5\6" + b"\xff" * 18
    ),
}


@pytest.mark.parametrize("write", PICKLES.values(), ids=PICKLES.keys())
def test_pickles_are_never_executed(write: Callable[[Path], Any]) -> None:
    write(Path("m.pth"))
    problems = refusals("prune", "m.pth", "--sparsity", "0.5", "--model", "test_resnet")
    assert problems[0].startswith("error: m.pth: ")
    assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["m.pt", "m.bin", "m.tar", "m.safetensors", "m"])
def test_pickles_are_never_executed_by_another_name(name: str) -> None:
    PICKLES["code in a state dict"](Path(name))
    for command in (("prune", name, "--sparsity", "0.5", "--model", "test_resnet"), ("info", name)):
        result = ceag(*command)
        assert result.exit_code in (0, 2)  # info says that it is not of ceag
        assert not Path("owned").exists()


def test_the_state_of_a_run_executes_nothing_either() -> None:
    run = Run(Path("m.safetensors"), {"command": "dense"}, {})
    Path("m.run").mkdir()
    PICKLES["code in a state dict"](Path("m.run/state.pt"))
    with pytest.raises(TrainingError, match=r"^m\.run/state\.pt: holds Python objects"):
        run.open(resume=True, overwrite=False)
    assert not Path("owned").exists()


def test_a_checkpoint_names_no_repository_as_its_architecture() -> None:
    torch.save({"state_dict": MODEL.state_dict(), "arch": "hf-hub:somebody/model"}, "m.pth")
    (problem,) = refusals("prune", "m.pth", "--sparsity", "0.5")
    assert problem.startswith("error: m.pth: its architecture is not known")


# Packed files


def packed_with(**changes: Any) -> str:
    """A packed file whose index was changed."""
    write_tensors(Path("m.packed.safetensors"), MODEL.state_dict(), METADATA, packed=True)
    state = safetensors.torch.load_file("m.packed.safetensors")
    metadata = read_metadata(Path("m.packed.safetensors"))
    index = json.loads(metadata[PACKED])
    for name, value in changes.items():
        if name == "entry":
            index["tensors"]["fc.bias"] |= value
        elif name == "text":
            metadata[PACKED] = value
        elif name == "state":
            state |= value
        else:
            index[name] = value
    if "text" not in changes:
        metadata[PACKED] = json.dumps(index)
    write_tensors(Path("m.packed.safetensors"), state, metadata)
    return "m.packed.safetensors"


def in_base64(header: bytes) -> str:
    return base64.b64encode(zlib.compress(header, 9)).decode()


PACKINGS: dict[str, dict[str, Any]] = {
    "no index": {"text": "3"},
    "a nested index": {"text": "[" * 100_000},
    "another version": {"version": [1]},
    "no tensors": {"tensors": 3},
    "a tensor too few": {"tensors": {}},
    "a huge shape": {"entry": {"shape": [10**15]}},
    "a shape beyond 64 bits": {"entry": {"shape": [2**40, 2**40]}},
    "a negative shape": {"entry": {"shape": [-3]}},
    "a shape in words": {"entry": {"shape": "3"}},
    "streams beyond the bytes": {"entry": {"streams": [0, 10**9, 0, 0, 0]}},
    "a stream too few": {"entry": {"streams": [0]}},
    "an unknown type": {"entry": {"dtype": "float8"}},
    "a stream of zeros": {"state": {"fc.bias": torch.zeros(10, dtype=torch.uint8)}},
    "a stream of other numbers": {"state": {"fc.bias": torch.zeros(10)}},
    "another checksum": {"sha256": "0" * 64},
    "a header that is no text": {"header": 3},
    "a header that is no base64": {"header": "!!"},
    "a header that unfolds": {"header": in_base64(b" " * 300_000_000)},
    "a header of other tensors": {"header": in_base64(raw({"w": entry(0, 8, [2])}, b""))},
}


@pytest.mark.parametrize("changes", PACKINGS.values(), ids=PACKINGS.keys())
def test_a_packed_file_that_lies_is_refused(changes: dict[str, Any]) -> None:
    path = packed_with(**changes)
    (problem,) = refusals("unpack", path, "-o", "out.safetensors")
    assert problem.startswith(f"error: {path}: ")
    assert not Path("out.safetensors").exists()


# JSON


JSONS = {
    '{"a": 1, "a": 2}': "'a' is in it twice",
    '{"a": [{"b": 1, "b": 1}]}': "'b' is in it twice",
    "[NaN]": "NaN is no number",
    "[-Infinity]": "-Infinity is no number",
    "[1e400]": "1e400 is too large a number",
    '["\\udc00"]': "it holds half of a surrogate pair, which is no text",
    "[" * 100_000: "it is nested too deeply",
}


@pytest.mark.parametrize(("text", "problem"), JSONS.items(), ids=JSONS.values())
def test_json_has_no_surprises(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        strictjson.loads(text)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert strictjson.loads('["\\ud83d\\ude00"]') == ["😀"]


# Anything at all

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "a", "0", "..", "/etc/passwd", "\0", "\x1b[31m", "nan", "2:4", "F32"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["", "a", "w", "path", "sha256"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value; ``()`` is the whole."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    return [at, *(place for key in keys for place in places(value[key], (*at, key)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """The same with something else in one place."""
    if not place:
        return new
    inner = {place[0]: replaced(value[place[0]], place[1:], new)}
    if isinstance(value, dict):
        return value | inner
    return [inner.get(i, old) for i, old in enumerate(value)]


def test_a_value_is_replaced_in_its_place() -> None:
    assert places({"a": [1]}) == [(), ("a",), ("a", 0)]
    assert replaced({"a": [1, 2], "b": 3}, ("a", 1), None) == {"a": [1, None], "b": 3}


def refused_by_name(read: Callable[[], object], name: str) -> bool:
    """Whether a file cannot be used, which has to be said with its name."""
    said = name
    try:
        read()
    except CeagError as error:
        said = f"! {error}"
    assert said.removeprefix("! ").startswith(name)
    return said != name


WHOLE = (
    METADATA
    | Lineage(
        stage="mitigated",
        version="1",
        seed=1,
        recipe={"command": "mitigate", "eps": 0.02, "method": "ceag", "mean": [0.5]},
        parents={"dense": Reference("model.safetensors", "a" * 64)},
        sparsity=SparsityRecord(0.5, "layer", "magnitude", {"w": (2, 4)}),
        eps=0.02,
    ).to_metadata()
)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_value_in_the_metadata_is_used_or_refused(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(WHOLE)))
    value = parsed(WHOLE[key])
    changed = replaced(value, data.draw(st.sampled_from(places(value))), data.draw(JSON))
    said = WHOLE | {key: changed if isinstance(changed, str) else json.dumps(changed)}
    refused_by_name(lambda: Lineage.from_metadata(said, Path("m.safetensors")), "m.safetensors")
    refused_by_name(lambda: checked_config(said["ceag.timm"], "m.safetensors"), "m.safetensors")


def changed_bytes(data: st.DataObject, content: bytes, first: int = 0) -> bytes:
    """A file with up to four other bytes, and perhaps a part of it."""
    turned = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        turned[data.draw(st.integers(first, len(turned) - 1))] = data.draw(st.integers(0, 255))
    return bytes(turned[: data.draw(st.integers(first, len(turned)))])


SMALL = {"w": torch.tensor([0.0, 0.0, 1.5, -2.0]), "n": torch.tensor(3)}


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans())
def test_a_changed_weights_file_is_used_or_refused(data: st.DataObject, packed: bool) -> None:
    path = Path("m.safetensors")
    write_tensors(path, SMALL, {"format": "pt"}, packed=packed)
    path.write_bytes(changed_bytes(data, path.read_bytes()))
    refused_by_name(lambda: describe_file(path), "m.safetensors")
    refused_by_name(lambda: read_state(path), "m.safetensors")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_value_in_the_index_of_a_packed_file_is_used_or_refused(data: st.DataObject) -> None:
    path = Path("m.safetensors")
    write_tensors(path, SMALL, {"format": "pt"}, packed=True)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    index = json.loads(header["__metadata__"][PACKED])
    changed = replaced(index, data.draw(st.sampled_from(places(index))), data.draw(JSON))
    header["__metadata__"][PACKED] = json.dumps(changed)
    path.write_bytes(raw(header, content[8 + length :]))
    refused_or_the_same(path)


def refused_or_the_same(path: Path) -> None:
    """A packed file has a checksum: whatever was done to it, no other weights come out."""
    if not refused_by_name(lambda: read_state(path), "m.safetensors"):
        state, _, _ = read_state(path)
        assert all(torch.equal(state[name], tensor) for name, tensor in SMALL.items())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_stream_of_a_packed_file_gives_no_other_weights(data: st.DataObject) -> None:
    path = Path("m.safetensors")
    write_tensors(path, SMALL, {"format": "pt"}, packed=True)
    content = path.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(first, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
    refused_or_the_same(path)  # a bit that no weight has may be turned
