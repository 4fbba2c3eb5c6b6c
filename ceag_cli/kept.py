"""The answers of a model, with all that they depend on, so that none are computed twice.

Those of the dense model lie in ``answers.npz`` in its own run folder, where the audit of another
sparse model finds them, those of both in ``predictions.npz`` in the folder of the audit, and those
of any model that ``ceag exemplars`` has run over a split in ``answers.SPLIT.npz`` in its own run
folder. Audits and exemplars look into all of them. docs/predictions.md has the layout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ceag_cli.arrays import Integers, Numbers
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.columns import AT_ONCE, Column
from ceag_cli.data import Data, Duplicate
from ceag_cli.errors import ImageError, LabelsError
from ceag_cli.evaluation import Compute, Predictions, evaluate_together
from ceag_cli.headers import SPLITS
from ceag_cli.npzfiles import coded, encoded, read_npz, write_npz
from ceag_cli.predictions import SMALLEST
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Reporter
from ceag_cli.runs import folder_of
from ceag_cli.sharedoptions import ArchitectureOptions, RunOptions

KEPT = "answers.npz"
PREDICTIONS = "predictions.npz"


def of_split(split: str) -> str:
    """The file that a model's answers to one split are kept in: ``answers.test.npz``."""
    return f"answers.{split}.npz"


@dataclass(frozen=True)
class Said:
    """A model's answers to the rows of a groups CSV."""

    predicted: Integers
    """Output, by row."""
    p: Numbers
    """Probability of that output."""
    p_label: Numbers
    """Probability of the true label."""

    @classmethod
    def of(cls, predictions: Predictions) -> Said:
        """As they come from an evaluation."""
        return cls(
            predictions.predicted.numpy(),
            predictions.confidence.numpy(),
            predictions.loss.neg().exp().numpy(),
        )

    def only(self, rows: Integers) -> Said:
        """Those to some rows."""
        return Said(self.predicted[rows], self.p[rows], self.p_label[rows])

    def could_be(self, model: Checkpoint, rows: int) -> bool:
        """Whether a model can have given them to so many images."""
        outputs = int(model.model.num_classes)  # type: ignore[arg-type]
        one_each = all(part.shape == (rows,) for part in vars(self).values())
        return one_each and bool(((self.predicted >= 0) & (self.predicted < outputs)).all())

    def put(self, rows: Integers, said: Said) -> None:
        """Write the answers to some rows in their place."""
        self.predicted[rows] = said.predicted
        self.p[rows] = said.p
        self.p_label[rows] = said.p_label


def evaluated(
    models: Mapping[str, Checkpoint],
    data: Data,
    compute: Compute,
    options: RunOptions,
    reporter: Reporter,
    splits: Iterable[str] = SPLITS,
    kept: Mapping[str, Mapping[str, Said]] = MappingProxyType({}),
) -> dict[str, Said]:
    """Run models over splits, all that see the same inputs in one pass over the images.

    Args:
        models: By name.
        data: The images.
        compute: Where and how.
        options: How images are decoded.
        reporter: Shows a bar for each split.
        splits: Those that have no rows are passed over. Rows of others are 0 in what is returned.
        kept: By model and split the answers that are there already; they are filled in.
    """
    count = len(data.labels.paths)
    found = {
        name: Said(np.zeros(count, np.int64), np.zeros(count), np.zeros(count)) for name in models
    }
    alike: dict[Preprocessing, list[str]] = {}  # one and the same, unless compared on purpose
    for name, model in models.items():
        alike.setdefault(model.preprocessing, []).append(name)
    with_rows = [name for name in splits if name in data.labels.splits]
    for (preprocessing, sharing), split_name in product(alike.items(), with_rows):
        rows = data.labels.rows(split_name).numpy()
        there = {
            name: kept[name][split_name] for name in sharing if split_name in kept.get(name, ())
        }
        for name, said in there.items():
            found[name].put(rows, said)
        names = [name for name in sharing if name not in there]
        if not names:
            continue
        split = data.split(split_name, preprocessing, options, reporter, keep=False)
        titles = {f"{name} on {split_name}": name for name in names}
        few = " and ".join(names) if len(names) < 3 else f"{len(names)} models"
        says = evaluate_together(
            {title: models[name].model for title, name in titles.items()},
            split,
            preprocessing,
            compute,
            reporter,
            f"{few} on {split_name}",
        )
        for title, name in titles.items():
            found[name].put(rows, Said.of(says[title]))
    return found


def as_kept(probabilities: Numbers) -> Numbers:
    """As the file has them, so that it makes no difference where they come from."""
    return np.maximum(probabilities, SMALLEST).astype(np.float32).astype(np.float64)


def output_names(index: Mapping[str, int], outputs: int) -> tuple[str, ...]:
    """A name for each output of a model: the first that is given to it, or its number."""
    names: dict[int, str] = {}
    for name, output in index.items():
        names.setdefault(output, name)
    for output in range(outputs):
        name = f"output {output}"
        while output not in names and name in index:
            name += "'"
        names.setdefault(output, name)
    return tuple(names[output] for output in range(outputs))


def rows_of(data: Data, rows: Integers | None = None) -> dict[str, str]:
    """What answers depend on besides the model, by name; every image is asked for its state.

    Args:
        data: The images.
        rows: Of the CSV, where not all of them are answered.
    """
    labels = data.labels
    assert data.targets is not None
    chosen = np.arange(len(labels.paths)) if rows is None else rows
    paths = [labels.paths[row] for row in chosen.tolist()]
    targets = data.targets.numpy()[chosen].tolist()
    return {
        "rows": _digest(paths, labels.split[chosen].tolist(), targets),
        "images": _digest(map(data.store.state, paths)),
    }


def refuse_changed(data: Data, before: Mapping[str, str]) -> None:
    """Refuse images that were written while models looked at them, or that are gone.

    Args:
        data: The images, all of them.
        before: What :func:`rows_of` said.

    Raises:
        ImageError: There are any.
    """
    try:
        same = rows_of(data)["images"] == before["images"]
    except OSError:
        same = False
    if not same:
        raise ImageError(
            f"{data.store.root}: images were changed while the models looked at them; start again "
            "when nothing writes there"
        )


def key_of(
    model: Checkpoint, options: ArchitectureOptions, compute: Compute, rows: Mapping[str, str]
) -> dict[str, str | bool]:
    """Everything that a model's answers depend on, by name.

    Args:
        model: The model.
        options: How the model is read.
        compute: Where and how it runs.
        rows: What :func:`rows_of` says.
    """
    return {
        "model": model.sha256,
        "averaged weights": options.use_ema,
        "architecture and preprocessing": _digest(model.config, str(model.preprocessing)),
        **rows,
        "amp": compute.amp and str(compute.amp_dtype),
        "compiled": str(compute.backend),
        "device": compute.device.type,
        "versions": " ".join(f"{name} {version(name)}" for name in ("ceag", "torch", "timm")),
    }


def _digest(*parts: Any) -> str:
    """A hash of some things one after the other; of rows a few at a time, since they are many."""
    digest = hashlib.sha256()
    for part in parts:
        rows = iter([part] if isinstance(part, (str, Mapping)) else part)
        while some := list(islice(rows, AT_ONCE)):
            text = json.dumps(some, sort_keys=True, ensure_ascii=False, default=str)
            digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Found:
    """Answers that were kept."""

    said: Said
    place: Path
    duplicates: tuple[Duplicate, ...] | None
    """Images that are in an earlier split, too; ``None`` where nobody has looked."""


def look_up(
    role: str, model: Checkpoint, key: Mapping[str, Any], rows: int, places: Sequence[Path]
) -> tuple[Found | None, str | None]:
    """Answers that were kept, if they are of the same model, images and everything else.

    Args:
        role: Name of the column that they are in: ``dense`` or ``sparse``.
        model: The model.
        key: What they must depend on.
        rows: Number of images.
        places: Files to look into.

    Returns:
        The answers, or ``None`` and, where there are any all the same, why they are not taken.
    """
    reasons = []
    for place in places:
        if not place.is_file():
            continue
        try:
            arrays, about = read_npz(place)
            had = (about or {})["keys"][role]
            said = Said(
                arrays[role].astype(np.int64),
                arrays[f"{role}_p"].astype(np.float64),
                arrays[f"{role}_p_label"].astype(np.float64),
            )
            if {len(part) for part in vars(said).values()} != {len(arrays["id"])}:
                raise ValueError("not one answer for each image")
            duplicates = duplicates_in((about or {})["data"], place)
            other = [name for name, value in key.items() if had.get(name) != value]
            if not other and not said.could_be(model, rows):
                raise ValueError("answers that were not the model's")
        except LabelsError as error:
            reasons.append(f"{error}")
            continue
        except (KeyError, TypeError, ValueError, AttributeError):
            reasons.append(f"{place}: holds no answers of the {role} model")
            continue
        if not other:
            return Found(said, place, duplicates), None
        reasons.append(f"{place}: was made with other {', '.join(other)}")
    return None, reasons[0] if reasons else None


def look_up_by_split(
    role: str, model: Checkpoint, data: Data, options: ArchitectureOptions, compute: Compute
) -> dict[str, Found]:
    """The answers to single splits that ``ceag exemplars`` has kept of a model.

    Args:
        role: Name of the column that they are in: ``dense`` or ``sparse``.
        model: The model, in whose run folder they lie.
        data: The images.
        options: How the model is read.
        compute: Where and how it would run.

    Returns:
        By split, for those that the same images were in.
    """
    found = {}
    for split in data.labels.splits:
        place = folder_of(model.path) / of_split(split)
        if place.is_file():  # else the images need not be asked for their state
            rows = data.labels.rows(split).numpy()
            key = key_of(model, options, compute, rows_of(data, rows))
            kept, _ = look_up(role, model, key, len(rows), [place])
            if kept is not None:
                found[split] = kept
    return found


def duplicates_in(origin: Mapping[str, Any], path: Path) -> tuple[Duplicate, ...] | None:
    """The duplicates that were found when answers were kept; ``None`` where nobody has looked.

    Raises:
        LabelsError: The file says it in another way, as versions before this one did.
    """
    try:
        found = origin["duplicates"]
        return None if found is None else tuple(Duplicate(*map(str, each)) for each in found)
    except (KeyError, TypeError):
        raise LabelsError(
            [f"{path}: does not say which images are in several splits; audit the models anew"]
        ) from None


def keep(
    place: Path,
    model: str,
    said: Said,
    ids: Sequence[str],
    columns: Mapping[str, Column],
    classes: tuple[str, ...],
    about: Mapping[str, Any],
) -> None:
    """Write the answers of one model, in the layout of a table of answers.

    Args:
        place: The file.
        model: Name of the column: ``dense`` or ``sparse``.
        said: The answers.
        ids: Of the rows.
        columns: ``split`` and ``label``, one entry per row.
        classes: Names of the outputs.
        about: Where they come from, and under ``keys`` what they depend on.

    Raises:
        OutputError: It cannot be written.
    """
    arrays = {"id": encoded(ids)}
    for name, column in {**columns, model: Column(said.predicted, classes)}.items():
        arrays |= coded(name, column)
    for kind in ("p", "p_label"):
        arrays[f"{model}_{kind}"] = as_kept(getattr(said, kind)).astype(np.float32)
    write_npz(place, arrays, about)
