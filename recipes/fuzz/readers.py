"""Coverage-guided fuzzing of everything that reads files: ``make fuzz``, or one reader alone.

python recipes/fuzz/readers.py READER FOLDER [options of libFuzzer, as -max_total_time=600]

A reader gets bytes that atheris has made and has to use them or to raise a ``CeagError``; any other
error, ten seconds or four gigabytes are a finding, which is written to the current folder. FOLDER
keeps what has reached new code, and begins with the seeds below.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris
import numpy as np
import torch

with atheris.instrument_imports(include=["ceag_cli", "yaml"]):
    from ceag_cli.errors import CeagError
    from ceag_cli.experiment import Plan
    from ceag_cli.info import describe_file
    from ceag_cli.labels import read_labels
    from ceag_cli.lineage import Lineage, SparsityRecord
    from ceag_cli.npzfiles import write_npz
    from ceag_cli.predictions import read_answers
    from ceag_cli.recipe import read_project, read_recipe
    from ceag_cli.references import Reference
    from ceag_cli.statedicts import read_state, write_tensors
    from ceag_cli.timmconfigs import checked_config
    from ceag_cli.weightsfiles import PACKED, read_metadata

FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
"""Where a reader finds its file."""

TENSORS = {"w": torch.tensor([0.0, 0.0, 1.5, -2.0]), "n": torch.tensor(3)}
LINEAGE = Lineage(
    stage="mitigated",
    version="1",
    seed=1,
    recipe={"command": "mitigate", "eps": 0.02, "method": "ceag", "mean": [0.5]},
    parents={"dense": Reference("model.safetensors", "a" * 64)},
    sparsity=SparsityRecord(0.5, "layer", "magnitude", {"w": (2, 4)}),
    eps=0.02,
)
CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "model_args": {"in_chans": 1},
    "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5], "crop_pct": 1.0},
}
METADATA = {"format": "pt", "ceag.timm": json.dumps(CONFIG)} | LINEAGE.to_metadata()
KEYS = sorted(METADATA)

COLUMNS: dict[str, Any] = {
    "id": np.array([b"a", b"b"]),
    "label": np.array([0, 1], np.uint8),
    "label/names": np.array([b"cat", b"dog"]),
    "split": np.array(["test", "test"]),
    "dense": np.array([0, 1]),
    "sparse": np.array([0, 0]),
    "dense_p": np.array([0.5, 0.75], np.float32),
    "group": np.array(["x", "y"]),
}
ABOUT = {
    "format": 1,
    "models": {"dense": {"path": "m", "sha256": "a" * 64}},
    "data": {"groups_file": "l.csv", "groups_by": "group", "dropped": 0, "missing": "group"},
    "eps": 0.02,
}


def written(write: Callable[[Path], None], name: str) -> bytes:
    path = FOLDER / name
    write(path)
    return path.read_bytes()


def csv(content: bytes) -> None:
    """A groups CSV, and the same as a table of answers."""
    path = FOLDER / "l.csv"
    path.write_bytes(content)
    refused(lambda: read_labels(path, missing="group").raise_problems())
    refused(lambda: read_answers(path))


def recipe(content: bytes) -> None:
    """A recipe of a command and of a sweep, ceag.yaml and pyproject.toml."""
    for name in ("r.yaml", "ceag.yaml", "pyproject.toml"):
        (FOLDER / name).write_bytes(content)
    refused(lambda: read_recipe(FOLDER / "r.yaml", "audit"))
    refused(lambda: Plan.read(FOLDER / "r.yaml"))
    refused(lambda: read_project("mitigate", FOLDER))


def safetensors(content: bytes) -> None:
    """A weights file, as it is."""
    path = FOLDER / "m.safetensors"
    path.write_bytes(content)
    refused(lambda: describe_file(path))
    refused(lambda: read_state(path))


def metadata(content: bytes) -> None:
    """One entry of the metadata: the first byte says which, the others are its text."""
    if not content:
        return
    key, text = KEYS[content[0] % len(KEYS)], content[1:].decode("utf-8", "replace")
    changed = METADATA | {key: text}
    refused(lambda: Lineage.from_metadata(changed, Path("m.safetensors")))
    refused(lambda: checked_config(changed["ceag.timm"], "m.safetensors"))


def packed(content: bytes) -> None:
    """The index and the streams of a packed file, apart by a zero byte."""
    text, _, streams = content.partition(b"\0")
    path = FOLDER / "m.packed.safetensors"
    state = {"w": torch.frombuffer(bytearray(streams or b"\0"), dtype=torch.uint8)}
    said = {"format": "pt", PACKED: text.decode("utf-8", "replace")}
    write_tensors(path, state, said)
    refused(lambda: read_state(path))


def predictions(content: bytes) -> None:
    """A table of answers: the first byte says which of its arrays the others are, or all of it."""
    if not content:
        return
    path = FOLDER / "p.npz"
    names = [*COLUMNS, "about"]
    which, rest = content[0] % (len(names) + 1), content[1:]
    if which == len(names):
        path.write_bytes(rest)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, column in (COLUMNS | {"about": np.array(json.dumps(ABOUT))}).items():
                own = rest if name == names[which] else npy(column)
                archive.writestr(f"{name}.npy", own)
    refused(lambda: read_answers(path, missing="group"))


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def refused(read: Callable[[], object]) -> None:
    """Read, or be told that it cannot be read; all else is a finding."""
    with suppress(CeagError):
        read()


def seeds(reader: str) -> list[bytes]:
    """Whole files, from which atheris begins."""
    if reader == "csv":
        return [
            b"path,label,split,group\na.png,cat,train,x\nb.png,dog,test,y\n",
            b'\xef\xbb\xbfpath,label,split,g,h\r\n"a,b.png","c""t",train,"",x\r\n',
            b"id,label,split,dense,sparse,dense_p,g\n1,a,test,a,b,0.5,x\n2,b,test,b,b,0.75,y\n",
        ]
    if reader == "recipe":
        return [
            b"command: audit\neps: 0.02\ngate: strict\ngate_splits: [test]\n",
            b"audit:\n  waivers: [{feature: g, value: x, eps: 1, reason: r, expires: 2030-01-01}]",
            b"seeds: [0, 1]\nsparsities: [0.9]\nmethods:\n  naive: {method: naive}\n",
            b"a: &a {eps: 0.1}\nmitigate: {<<: *a, epochs: 3}\n",
            b"[tool.ceag.mitigate]\neps = 0.1\nmean = [0.5, 0.5]\n",
        ]
    if reader == "safetensors":
        plain = written(lambda path: write_tensors(path, TENSORS, METADATA), "a.safetensors")
        small = written(lambda path: write_tensors(path, TENSORS, {}), "b.safetensors")
        short = written(lambda path: write_tensors(path, TENSORS, {}, packed=True), "c.safetensors")
        return [plain, small, short]
    if reader == "metadata":
        return [bytes([i]) + METADATA[key].encode() for i, key in enumerate(KEYS)]
    if reader == "packed":
        path = FOLDER / "m.safetensors"
        write_tensors(path, {"w": TENSORS["w"]}, {"format": "pt"}, packed=True)
        state, _, _ = read_state(path)
        index = read_metadata(path)[PACKED].encode()
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        assert torch.equal(state["w"], TENSORS["w"])
        return [index + b"\0" + raw[8 + length :]]
    whole = written(lambda path: write_npz(path, COLUMNS, ABOUT), "a.npz")
    arrays = [bytes([i]) + npy(column) for i, column in enumerate(COLUMNS.values())]
    texts = [bytes([len(COLUMNS)]) + npy(np.array(json.dumps(ABOUT)))]
    return [*arrays, *texts, bytes([len(COLUMNS) + 1]) + whole]


READERS: dict[str, Callable[[bytes], None]] = {
    "csv": csv,
    "recipe": recipe,
    "safetensors": safetensors,
    "metadata": metadata,
    "packed": packed,
    "predictions": predictions,
}


def main() -> None:
    name, folder, *options = sys.argv[1:]
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(content)
    arguments = [sys.argv[0], str(corpus), "-timeout=10", "-rss_limit_mb=4096", *options]
    atheris.Setup(arguments, READERS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
