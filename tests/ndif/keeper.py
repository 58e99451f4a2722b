"""Run one command, and leave nothing of it behind: its children, their children, and those that detached themselves.

Ray's processes are started by daemons that outlive the command that began them, so a process group
is not enough. This process is adopted by every orphan below it (a "child subreaper") and ends all
of them when it is told to, when
the command ends, or when whoever started it is gone, even if that one was killed: its standard
input then closes.

    python keeper.py COMMAND [ARGUMENT ...]    # its standard input a pipe that nobody writes to
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def started_by(pid: int) -> list[int]:
    """Every process below `pid`, children before theirs; none of them is `pid`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def end_all() -> None:
    """Kill everything below this process until nothing is left, also what starts meanwhile."""
    while below := started_by(os.getpid()):
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def main(command: list[str]) -> int:
    """Run `command` until it ends or this process is to end; what it returned, or −15."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the one that holds the pipe
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while True:
            ready, _, _ = select.select([awake, 0], [], [])
            if 0 in ready or signal.SIGTERM in os.read(awake, 64):
                return -signal.SIGTERM
            while ended := _ended():
                if ended[0] == child.pid:
                    return os.waitstatus_to_exitcode(ended[1])
    finally:
        end_all()


def _ended() -> tuple[int, int] | None:
    """One child (or adopted orphan) that has ended, with its status."""
    with contextlib.suppress(ChildProcessError):
        pid, status = os.waitpid(-1, os.WNOHANG)
        return (pid, status) if pid else None
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
