import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ceag_cli.errors import CheckpointError, LineageError
from ceag_cli.info import describe_file, lines
from ceag_cli.lineage import Lineage, SparsityRecord, derived, newest
from ceag_cli.references import GroupsReference, Reference
from ceag_cli.weightsfiles import read_metadata, sha256_of

WHOLE = Lineage(
    stage="mitigated",
    version="1.2.3",
    seed=7,
    recipe={"command": "mitigate", "eps": 0.1, "mean": [0.5, 1e-05], "groups_by": "naïve"},
    parents={"input": Reference("a.safetensors", "a" * 64), "dense": Reference("../b", "b" * 64)},
    groups=GroupsReference(
        Reference("../data/labels.csv", "c" * 64), "../images.zip", "class", "a*b"
    ),
    sparsity=SparsityRecord(0.5, "layer", "magnitude", {"x": (3, 4), "y": (2, 6)}),
    eps=0.1,
)


def write(path: Path, metadata: dict[str, str] | None, value: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((1,), value)}, path, metadata=metadata)
    return path


def model(path: Path, stage: str, age: int = 0, value: float = 0.0) -> Path:
    """A file of a stage, ``age`` seconds old."""
    lineage = Lineage(stage=stage, version="1", seed=1, recipe={})
    write(path, {"format": "pt"} | lineage.to_metadata(), value)
    moment = 2_000_000_000 - age
    os.utime(path, (moment, moment))
    return path


# Metadata


@pytest.mark.parametrize(
    "lineage", [WHOLE, Lineage(stage="dense", version="1", seed=0, recipe={"command": "dense"})]
)
def test_metadata_goes_through_a_file_and_comes_back(tmp_path: Path, lineage: Lineage) -> None:
    path = write(tmp_path / "m.safetensors", {"format": "pt"} | lineage.to_metadata())
    assert Lineage.from_metadata(read_metadata(path), path) == lineage


def test_metadata_is_text_under_ceags_own_names() -> None:
    metadata = WHOLE.to_metadata()
    names = ["eps", "format", "groups", "parents", "recipe", "seed", "sparsity", "stage"]
    names += ["version", "versions"]
    assert sorted(metadata) == [f"ceag.{name}" for name in names]
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["ceag.format"] == "1"
    assert metadata["ceag.eps"] == "0.1"


def test_sparsity_is_zeros_over_weights() -> None:
    """3 of 4 and 2 of 6 are 5 of 10."""
    assert WHOLE.sparsity is not None
    assert WHOLE.sparsity.achieved == 0.5
    assert SparsityRecord(0.5, "layer", "magnitude", {}).achieved == 0.0


def test_a_file_of_another_tool_has_no_lineage(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", None)
    assert read_metadata(path) == {}
    assert Lineage.from_metadata({"format": "pt"}, path) is None


def test_a_file_of_another_kind_has_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"\x80anything")
    assert read_metadata(tmp_path / "m.pth") == {}


def test_a_file_of_a_future_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(CheckpointError) as caught:
        Lineage.from_metadata(WHOLE.to_metadata() | {"ceag.format": "2"}, path)
    assert caught.value.problems == [
        f"{path}: written in format 2, this version of ceag reads format 1; install a newer ceag"
    ]


def refused_by_name(path: Path) -> bool:
    """Whether a file is refused, with a message that begins with its name."""
    try:
        describe_file(path)
    except CheckpointError as error:
        return str(error).startswith(f"{path}")
    return False


@pytest.mark.parametrize("key", [key for key in WHOLE.to_metadata() if key != "ceag.format"])
@pytest.mark.parametrize("junk", ["", "{", "[1]", "7x", '"text"', '{"path": 1}', "3"])
def test_damaged_metadata_is_refused_or_harmless(tmp_path: Path, key: str, junk: str) -> None:
    """What cannot be used is said when the file is read, and never crashes ``ceag info``."""
    path = write(tmp_path / "m.safetensors", {"format": "pt"} | WHOLE.to_metadata() | {key: junk})
    assert refused_by_name(path) or lines(describe_file(path))


@pytest.mark.parametrize("junk", ["{", "[1]", "3", '"text"', '{"pretrained_cfg": 3}'])
def test_a_damaged_timm_configuration_is_refused_or_harmless(tmp_path: Path, junk: str) -> None:
    path = write(tmp_path / "m.safetensors", WHOLE.to_metadata() | {"ceag.timm": junk})
    assert refused_by_name(path) or lines(describe_file(path))


@pytest.mark.parametrize("key", ["version", "stage", "seed", "recipe", "parents"])
def test_metadata_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    metadata = {name: text for name, text in WHOLE.to_metadata().items() if name != f"ceag.{key}"}
    with pytest.raises(CheckpointError, match="its ceag metadata is damaged"):
        Lineage.from_metadata(metadata, tmp_path / "m")


def test_a_stage_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"its ceag metadata is damaged: .*'quantized'"):
        Lineage.from_metadata(WHOLE.to_metadata() | {"ceag.stage": "quantized"}, tmp_path / "m")


@pytest.mark.parametrize("content", [b"\xff", b"\xff" * 8, b"\x08\0\0\0\0\0\0\0notjson!"])
def test_what_is_not_a_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: not a whole \.safetensors file"):
        read_metadata(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_metadata(tmp_path / "m.safetensors")
    assert caught.value.problems == [f"{tmp_path / 'm.safetensors'}: there is no such file"]


# References


def test_a_hash_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refer(target: Path, named_by: Path) -> Reference:
    return Reference.to(target, sha256_of(target), named_by)


@pytest.mark.parametrize(
    ("target", "named_by", "path"),
    [
        ("labels.csv", "m.safetensors", "labels.csv"),
        ("labels.csv", "out/m.safetensors", "../labels.csv"),
        ("data/labels.csv", "out/m.safetensors", "../data/labels.csv"),
        ("out/labels.csv", "out/m.safetensors", "labels.csv"),
    ],
)
def test_a_reference_is_relative_to_the_file_that_names_it(
    tmp_path: Path, target: str, named_by: str, path: str
) -> None:
    there = file(tmp_path / target, "x")
    file(tmp_path / named_by, "model")
    reference = refer(there, tmp_path / named_by)
    assert reference == Reference(path, sha256_of(there))
    assert reference.find(tmp_path / named_by, "groups CSV", "name another one").samefile(there)


def test_a_reference_is_found_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = file(tmp_path / "data/labels.csv", "x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reference = refer(there, Path("../m.safetensors"))
    assert reference.path == "data/labels.csv"
    found = reference.find(Path("../m.safetensors"), "groups CSV", "--groups")
    assert found == Path("../data/labels.csv")


def test_what_moved_together_is_found_by_its_path(tmp_path: Path) -> None:
    reference = refer(file(tmp_path / "a/data/l.csv", "x"), tmp_path / "a/m.safetensors")
    (tmp_path / "a").rename(tmp_path / "b")
    found = reference.find(tmp_path / "b/m.safetensors", "groups CSV", "--groups")
    assert found.samefile(tmp_path / "b/data/l.csv")


def test_what_was_moved_beside_the_file_is_found_by_its_hash(tmp_path: Path) -> None:
    old = file(tmp_path / "data/l.csv", "x")
    reference = refer(old, tmp_path / "m.safetensors")
    file(tmp_path / "a.csv", "other")
    old.rename(tmp_path / "renamed.csv")
    found = reference.find(tmp_path / "m.safetensors", "groups CSV", "name another one")
    assert found.samefile(tmp_path / "renamed.csv")


def test_the_hash_decides_where_another_file_has_taken_the_path(tmp_path: Path) -> None:
    old = file(tmp_path / "l.csv", "x")
    reference = refer(old, tmp_path / "m.safetensors")
    old.rename(tmp_path / "old.csv")
    file(tmp_path / "l.csv", "y")
    found = reference.find(tmp_path / "m.safetensors", "groups CSV", "--groups")
    assert found.samefile(tmp_path / "old.csv")


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    reference = refer(file(tmp_path / "l.csv", "x"), tmp_path / "m.safetensors")
    file(tmp_path / "l.csv", "y")
    with pytest.raises(LineageError) as caught:
        reference.find(tmp_path / "m.safetensors", "groups CSV", "name another one with --groups")
    assert caught.value.problems == [
        f"{tmp_path / 'm.safetensors'}: its groups CSV 'l.csv' has changed since (sha256 "
        f"{reference.sha256[:12]}…), and no file beside it is the same; restore it, or name "
        "another one with --groups"
    ]


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    target = file(tmp_path / "d.safetensors", "x")
    reference = refer(target, tmp_path / "m.safetensors")
    target.unlink()
    with pytest.raises(LineageError, match=r"its dense model 'd\.safetensors' is not there"):
        reference.find(tmp_path / "m.safetensors", "dense model", "name another one with --dense")


# Names


@pytest.mark.parametrize(
    ("source", "stage", "expected"),
    [
        ("model.safetensors", "pruned", "model.pruned.safetensors"),
        ("model.pruned.safetensors", "mitigated", "model.mitigated.safetensors"),
        ("model.safetensors", "mitigated", "model.mitigated.safetensors"),
        ("model.mitigated.safetensors", "mitigated", "model.mitigated.safetensors"),
        ("last.pth.tar", "pruned", "last.pruned.safetensors"),
        ("resnet.pth", "pruned", "resnet.pruned.safetensors"),
        ("v1.2.safetensors", "pruned", "v1.2.pruned.safetensors"),
    ],
)
def test_a_stage_names_its_output_after_its_input(
    tmp_path: Path, source: str, stage: str, expected: str
) -> None:
    assert derived(tmp_path / source, stage) == tmp_path / expected


# The newest


def test_the_newest_file_of_the_stage_is_taken(tmp_path: Path) -> None:
    model(tmp_path / "old.safetensors", "pruned", age=60)
    model(tmp_path / "new.safetensors", "pruned", age=30)
    model(tmp_path / "newer.safetensors", "dense", age=0)
    assert newest(("pruned",), tmp_path, "mitigate") == (tmp_path / "new.safetensors", "pruned")


def test_an_earlier_stage_of_the_list_wins_whatever_its_age(tmp_path: Path) -> None:
    model(tmp_path / "m.safetensors", "mitigated", age=60)
    model(tmp_path / "p.safetensors", "pruned", age=0)
    found = newest(("mitigated", "pruned"), tmp_path, "audit")
    assert found == (tmp_path / "m.safetensors", "mitigated")
    (tmp_path / "m.safetensors").unlink()
    found = newest(("mitigated", "pruned"), tmp_path, "audit")
    assert found == (tmp_path / "p.safetensors", "pruned")


def test_of_two_equally_new_files_none_is_guessed(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        model(tmp_path / f"{name}.safetensors", "pruned", age=60 if name == "c" else 0)
    with pytest.raises(LineageError) as caught:
        newest(("pruned",), tmp_path, "mitigate")
    assert caught.value.problems == [
        "ceag mitigate: a.safetensors, b.safetensors are equally new; name one of them"
    ]


def test_foreign_damaged_and_nested_files_are_not_taken(tmp_path: Path) -> None:
    ours = model(tmp_path / "ours.safetensors", "pruned", age=60)
    write(tmp_path / "foreign.safetensors", None)
    (tmp_path / "damaged.safetensors").write_bytes(b"text")
    future = WHOLE.to_metadata() | {"ceag.format": "2", "ceag.stage": "pruned"}
    write(tmp_path / "future.safetensors", future)
    model(tmp_path / "below/nested.safetensors", "pruned")
    (tmp_path / "folder.safetensors").mkdir()
    assert newest(("pruned",), tmp_path, "mitigate") == (ours, "pruned")


def test_without_any_the_message_names_what_was_looked_for(tmp_path: Path) -> None:
    model(tmp_path / "d.safetensors", "dense")
    with pytest.raises(LineageError) as caught:
        newest(("mitigated", "pruned"), tmp_path, "audit")
    assert caught.value.problems == [
        "ceag audit: there is no mitigated or pruned model in the current folder; name the file, "
        "or answers of two models with --predictions"
    ]
