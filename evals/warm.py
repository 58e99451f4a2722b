"""Candidates without the wait for torch: a process that has imported what they import, and forks for each of them.

It reads one JSON object a line, {"command": [script, argument, …], "folder", "limit_s"}, runs the script in a
process of its own, and answers with a line: status, seconds, largest memory in bytes.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


class WarmPython:
    """The process that forks. One run at a time; make several for more."""

    def __init__(self, env: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, command: list[str], limit_s: float, folder: Path) -> tuple[int, float, int]:
        """Status, seconds and bytes of one script; what it prints to stderr is in `stderr.txt` of the folder."""
        asked = {"command": command, "folder": str(folder), "limit_s": limit_s}
        with self._lock:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            return tuple(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    import lens_recipes as lr
    import transformers.quantizers.auto  # noqa: F401 - what loading a checkpoint imports
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    for name in lr.__all__:
        getattr(lr, name)
    from bench import waited

    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            _be(asked)
        print(json.dumps(waited(pid, asked["limit_s"])), flush=True)


def _be(asked: dict[str, Any]) -> None:
    """Become the script; never returns."""
    os.setsid()
    status = 1
    try:
        out = os.open(os.path.join(asked["folder"], "stderr.txt"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, file in enumerate((nothing, nothing, out)):
            os.dup2(file, number)
        os.chdir(asked["folder"])
        sys.argv = asked["command"]
        sys.path[0] = os.path.dirname(sys.argv[0])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
