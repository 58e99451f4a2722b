"""Every reference solution passes, and every wrong answer is rejected for its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_whole_audit_has_no_surprises():
    ran = subprocess.run(
        [sys.executable, "evals/audit.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr[-2000:]}"
    assert " 0 surprises" in ran.stdout
