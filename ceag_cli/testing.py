"""An audit as an assertion, for test suites.

>>> right = [True] * 400
>>> result = assert_no_excess_gap((right, right), {"race": ["Black", "White"] * 200}, eps=0.05)
>>> result.verdict
'PASS'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ceag_cli.answers import pairs_of
from ceag_cli.arrays import Flags
from ceag_cli.audit import audit
from ceag_cli.errors import LabelsError, OptionError
from ceag_cli.findings import AuditResult
from ceag_cli.groups import Grouping
from ceag_cli.inert import printable
from ceag_cli.options import AuditOptions
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy, policy_of
from ceag_cli.predictions import read_answers
from ceag_cli.report import audit_headline, interval, percent, points
from ceag_cli.texttables import aligned

MOST = 20
"""So many groups are listed."""


def assert_no_excess_gap(
    predictions: str | Path | tuple[Any, Any],
    groups: Mapping[str, Any] | str | None = None,
    *,
    policy: Policy | None = None,
    split: str = "test",
    seed: int = 42,
    **options: Any,
) -> AuditResult:
    """Assert that an audit of two models does not fail, as ``ceag audit`` would have it.

    That is: exit code 0. A demonstrated violation fails, and so does an audit that decides nothing.

    Args:
        predictions: Whether the dense and whether the sparse model is right, two arrays of
            booleans over the same held-out images; or a file for ``ceag audit --predictions``.
        groups: The groups of each image by feature, ``{"race": [...], "gender": [...]}``; for a
            file, the columns that make groups, as in ``--groups-by``.
        policy: What is asked, for example :func:`ceag_cli.read_policy` for that of a folder.
        split: Of a file, the split to gate on.
        seed: Of the noise floor.
        options: In place of a policy: options of the audit by name, ``eps=0.02``.

    Returns:
        What the audit found.

    Raises:
        AssertionError: The audit fails; the message has the worst groups.
        OptionError, LabelsError: What was given cannot be used.
    """
    if policy is not None and options:
        raise OptionError(f"give a policy, or options ({', '.join(options)}), not both")
    if policy is None:
        known = AuditOptions.__dataclass_fields__
        try:
            policy = policy_of(AuditOptions(**options))
        except TypeError:
            names = ", ".join(name for name in options if name not in known)
            raise OptionError(f"not options of an audit: {names}") from None
    if isinstance(predictions, (str, Path)):
        pair, grouping = _from_file(Path(predictions), groups, split)
    else:
        pair, grouping = _from_arrays(predictions, groups, split)
    result = audit([pair], grouping, policy, (split,), seed=seed)
    if result.exit_code != 0:
        raise AssertionError("\n".join(_message(result, split)))
    return result


def _from_file(path: Path, groups: Any, split: str) -> tuple[Paired, Grouping]:
    if groups is not None and not isinstance(groups, str):
        raise OptionError("groups: name the columns of the file, as in 'race,gender'")
    table = read_answers(path, groups_by=groups)
    if split not in table.splits:
        raise LabelsError(f"{path}: no row has split '{split}'")
    (pair,) = pairs_of(table.only(split))
    return pair, table.grouping


def _from_arrays(predictions: Any, groups: Any, split: str) -> tuple[Paired, Grouping]:
    try:
        dense, sparse = predictions
    except (TypeError, ValueError):
        raise OptionError(
            "predictions: give two arrays, whether the dense and whether the sparse model is right"
        ) from None
    right = [_flags("dense", dense), _flags("sparse", sparse)]
    if not isinstance(groups, Mapping) or not groups:
        raise OptionError("groups: give the groups of each image by feature, {'race': [...]}")
    columns = {str(feature): _names(str(feature), column) for feature, column in groups.items()}
    lengths = {"dense": len(right[0]), "sparse": len(right[1])}
    lengths |= {feature: len(column) for feature, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise LabelsError(f"not about the same images: {shown}")
    if not len(right[0]):
        raise LabelsError("there are no images, so nothing can be asserted")
    values, ids, offset = [], [], 0
    for column in columns.values():
        found, number = np.unique(column, return_inverse=True)
        values.append(tuple(str(name) for name in found))
        ids.append(number.reshape(-1) + offset)
        offset += len(found)
    pair = Paired(
        split,
        torch.from_numpy(right[0]),
        torch.from_numpy(right[1]),
        torch.from_numpy(np.stack(ids, axis=1).astype(np.int64)),
    )
    return pair, Grouping(tuple(columns), tuple(values))


def _flags(name: str, raw: Any) -> Flags:
    array = np.asarray(raw)
    if array.ndim == 1 and array.dtype != bool and array.dtype.kind in "iuf":
        other = array[(array != 0) & (array != 1)]
        if len(other):
            raise OptionError(
                f"{name}: holds {other[0]}; wanted is whether each answer is right, not the answers"
            )
    elif array.ndim != 1 or array.dtype != bool:
        raise OptionError(f"{name}: give one true or false per image")
    return array.astype(bool)


def _names(feature: str, raw: Any) -> npt.NDArray[np.str_]:
    values = list(raw)
    empty = [i for i, v in enumerate(values) if v is None or v != v or not str(v).strip()]
    if empty:
        raise LabelsError(
            f"{feature}: image {empty[0]} (from 0) has no group; name one or leave it out"
        )
    return np.array([str(v).strip() for v in values])


def _message(result: AuditResult, split: str) -> list[str]:
    rows: list[Sequence[str]] = [("group", "n", "dense %", "sparse %", "psi", "bounds", "")]
    groups = result.by_split(split)
    for group in groups[:MOST]:
        verdict = group.verdict + (f" ({group.reason})" if group.reason else "")
        rows.append(
            (
                printable(f"{group.feature}={group.value}"),
                str(group.n),
                percent(group.acc_dense),
                percent(group.acc_sparse),
                points(group.excess_gap, group.eps),
                interval(group),
                verdict,
            )
        )
    table = aligned(rows, left=(0, -1))
    if len(groups) > MOST:
        table.append(f"and {len(groups) - MOST} more groups")
    return [audit_headline(result), *result.reasons, *result.warnings, "", *table]
