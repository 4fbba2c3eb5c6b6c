"""The options of every command, by its name. They are declared in the modules named below."""

from __future__ import annotations

from ceag_cli.auditoptions import AuditOptions, ExemplarsOptions, ExplainOptions, ExportOptions
from ceag_cli.stageoptions import DenseOptions, MitigateOptions, PruneOptions

__all__ = [
    "COMMANDS",
    "AuditOptions",
    "Command",
    "DenseOptions",
    "ExemplarsOptions",
    "ExplainOptions",
    "ExportOptions",
    "MitigateOptions",
    "PruneOptions",
]

Command = (
    DenseOptions
    | PruneOptions
    | MitigateOptions
    | AuditOptions
    | ExplainOptions
    | ExemplarsOptions
    | ExportOptions
)

COMMANDS: dict[str, type[Command]] = {
    "dense": DenseOptions,
    "prune": PruneOptions,
    "mitigate": MitigateOptions,
    "audit": AuditOptions,
    "explain": ExplainOptions,
    "exemplars": ExemplarsOptions,
    "export": ExportOptions,
}
