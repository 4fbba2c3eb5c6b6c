"""Whether this process is one of several that a launcher has started, as torchrun does.

torch is imported only where the environment says so.
"""

from __future__ import annotations

import os


def is_one_of_many() -> bool:
    """Whether a launcher has started several processes, of which this is one."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    from ceag_cli.launching import started_by_launcher

    return started_by_launcher()


def has_lost_others(error: Exception) -> bool:
    """Whether an error means that another process of the run has gone."""
    if not is_one_of_many():
        return False
    from ceag_cli.launching import is_lost_connection

    return is_lost_connection(error)
