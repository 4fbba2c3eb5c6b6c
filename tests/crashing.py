"""Carries out command lines in processes of their own, and kills them on request.

Everything is imported once, and every command runs in a fork of this process, so that hundreds of
kills take minutes. One JSON line is read for each command, and one is answered:

    {"argv": [...], "cwd": DIR, "seconds": 0.7}       SIGKILL after so long, if it is still there
    {"argv": [...], "cwd": DIR, "at": {"12": "KILL"}} SIGKILL right before it touches a file for
                                                      the twelfth time; also INT, TERM, and several
    {"argv": [...], "cwd": DIR, "signals": [["TERM", 0.7], ["TERM", 0.01]]}
                                                      these, each so long after the one before,
                                                      from when the command hears of them on
    {"argv": [...], "cwd": DIR, "most": 4096}         no file may become larger (RLIMIT_FSIZE),
                                                      which fails as a full disk does

    {"code": 130, "said": "...", "steps": 31}         code -9: it was killed
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any

TOUCHES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def count_steps(folder: str, at: dict[str, str]) -> list[int]:
    """Count how often this process touches files of a folder; send it signals at certain steps."""
    steps = [0]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or ".tmp-" in str(path)
        else:
            path, writes = arguments[0] if arguments else "", event in TOUCHES
        if not writes or not isinstance(path, str | os.PathLike):
            return
        if not os.path.abspath(path).startswith(folder):
            return
        steps[0] += 1
        if str(steps[0]) in at:
            os.kill(os.getpid(), getattr(signal, f"SIG{at[str(steps[0])]}"))

    sys.addaudithook(look)
    return steps


def carry_out(asked: dict[str, Any], output: int, report: int) -> None:
    """In the fork: be the process of a command."""
    os.chdir(asked["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["ceag", *asked["argv"]]
    if "most" in asked:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["most"], asked["most"]))
    steps = count_steps(asked["cwd"], asked.get("at", {}))
    code: Any = 99
    try:
        from ceag_cli.__main__ import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    os.write(report, str(steps[0]).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 98)


def hears_signals(process: int) -> bool:
    """Whether a process has handlers of SIGINT and SIGTERM."""
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    return all(caught >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Carry out a command; how it ended."""
    (hears, speaks), (reads, writes) = os.pipe(), os.pipe()
    fcntl.fcntl(speaks, fcntl.F_SETPIPE_SZ, 1 << 20)  # enough for all that a command says
    child = os.fork()
    if child == 0:
        os.close(hears)
        os.close(reads)
        carry_out(asked, speaks, writes)
    os.close(speaks)
    os.close(writes)
    plan = asked.get("signals", [])
    if "seconds" in asked:
        plan = [["KILL", asked["seconds"]]]
    gone, status = 0, 0
    while "signals" in asked and not gone and not hears_signals(child):
        time.sleep(0.001)
        gone, status = os.waitpid(child, os.WNOHANG)
    for name, seconds in plan:
        until = time.monotonic() + seconds
        while not gone and time.monotonic() < until:
            time.sleep(0.001)
            gone, status = os.waitpid(child, os.WNOHANG)
        if not gone:  # nobody has waited for it, so its number is still its own
            os.kill(child, getattr(signal, f"SIG{name}"))
    if not gone:
        _, status = os.waitpid(child, 0)
    with os.fdopen(reads, "rb") as file, os.fdopen(hears, "rb") as output:
        steps, said = file.read(), output.read().decode("utf-8", "replace")
    return {"code": os.waitstatus_to_exitcode(status), "said": said, "steps": int(steps or 0)}


def main() -> None:
    """Answer until there is nothing more."""
    import timm
    import torch
    import torch._dynamo
    import torchvision

    import ceag_cli.explaining
    import ceag_cli.sweep

    assert all((timm, torch, torchvision, ceag_cli))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell ignores them in the background
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
