"""The processes of a run come together for one command, and end together with it.

torchrun starts them and ends all as soon as one of them fails, so no other one leaves before the
first has said why. What they share on the way is in ``distributed``.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from ceag_cli.distributed import World
from ceag_cli.errors import CeagError, Ended

SECONDS_TO_END = 10.0
"""How long a process that ends waits for the others, or for the first one to say what is wrong."""


def started_by_launcher() -> bool:
    """Whether the environment says that this is one of several processes of a run.

    torchrun sets these variables; a Slurm script can do it too.
    """
    named = all(name in os.environ for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    return named and os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def joined() -> Iterator[World]:
    """Come together with the other processes for one command, and end together with them.

    All but the first are silent: what they print is held back, and shown only where one fails and
    the first does not say why. torchrun ends all processes as soon as one of them fails, so no
    other one leaves before the first has spoken.

    Raises:
        CeagError: The others cannot be reached.
    """
    store = _come_together()
    world, stdout, stderr = World.current(), sys.stdout, sys.stderr
    held_back = io.StringIO()
    if not world.is_first:
        sys.stdout, sys.stderr = io.StringIO(), held_back
    signal.signal(signal.SIGTERM, _end)
    failed = True
    try:
        yield world
        failed = False
    except SystemExit as leaving:
        failed = leaving.code not in (None, 0)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do takes seconds
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = stdout, stderr
        _leave(world, store, failed, held_back.getvalue(), stderr)


def is_lost_connection(error: Exception) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("gloo", "NCCL", "monitoredBarrier", "Connection closed by peer")
    )


def _come_together() -> Store:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # NCCL needs a GPU for each process; what lies in main memory goes by gloo in any case.
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus and here <= torch.cuda.device_count() else "gloo"
    try:
        store, rank, size = next(iter(rendezvous("env://")))
        dist.init_process_group(
            backend, store=PrefixStore("ceag", store), rank=rank, world_size=size
        )
    except (ValueError, RuntimeError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CeagError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot reach the others "
            f"at {address}: {str(error).splitlines()[0]}"
        ) from None
    return PrefixStore("ceag/end", store)


def _leave(world: World, store: Store, failed: bool, held_back: str, stderr: TextIO) -> None:
    """End a process: when all are done, or when the first has said what is wrong."""
    try:
        if not failed:
            store.add("done", 1)
            _wait(lambda: store.add("done", 0) >= world.size)
            dist.destroy_process_group()
            return
        if world.is_first:
            store.set("spoken", "yes")
            return
        if _wait(lambda: store.check(["spoken"])) or store.add("speakers", 1) > 1:
            return
    except RuntimeError:  # the store has gone, with the first process
        if not failed:
            return
    for line in held_back.splitlines():
        print(f"process {world.rank} of {world.size}: {line}", file=stderr, flush=True)


def _wait(until: Callable[[], bool]) -> bool:
    """Wait for a while; whether it has come true."""
    end = time.monotonic() + SECONDS_TO_END
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _end(*_: Any) -> None:
    raise Ended(
        "the run was told to end, or another of its processes has ended (torchrun's report says "
        "which)"
    )
