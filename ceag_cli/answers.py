"""Where an audit's answers come from: a table of predictions, or two models and their images."""

from __future__ import annotations

import torch

from ceag_cli.audit import Paired
from ceag_cli.predictions import AnswerTable


def pairs_of(table: AnswerTable) -> list[Paired]:
    """A table as the audit takes it, one entry per split."""
    pairs = []
    for name in table.splits:
        part = table.only(name)
        pairs.append(
            Paired(
                split=name,
                dense=torch.from_numpy(part.correct("dense")),
                sparse=torch.from_numpy(part.correct("sparse")),
                groups=torch.from_numpy(part.groups),
                changed=torch.from_numpy(part.changed),
                clusters=None if part.clusters is None else torch.from_numpy(part.clusters),
            )
        )
    return pairs
