"""ceag: prune image classifiers without letting the pruning harm one group more than the others.

The names below are the Python API. They are imported when first used, so that the command line
starts without torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "AuditOptions": "options",
    "AuditResult": "findings",
    "BatchOutcome": "groups",
    "CeagError": "errors",
    "ConstrainedExcessAccuracyGap": "ceag",
    "DenseOptions": "options",
    "ExemplarsOptions": "options",
    "ExplainOptions": "options",
    "ExportOptions": "options",
    "GroupReplay": "replay",
    "GroupStats": "groups",
    "Grouping": "groups",
    "MitigateOptions": "options",
    "Multipliers": "multipliers",
    "Override": "clauses",
    "Policy": "policy",
    "PruneOptions": "options",
    "Waiver": "clauses",
    "assert_no_excess_gap": "testing",
    "compress_rows": "rows",
    "dense": "stages",
    "exemplars": "identifying",
    "explain": "explaining",
    "export": "exports",
    "mitigate": "stages",
    "prune": "stages",
    "read_policy": "policy",
    "run_audit": "auditing",
    "run_sweep": "sweep",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ceag_cli' has no attribute '{name}'")
    return getattr(import_module(f"ceag_cli.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
