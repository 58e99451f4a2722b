"""The server is what it claims to be, gives what this machine gives, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from agreement import assert_same_as
from server import HERE, NdifServer, ServerError

import lens_recipes as lr

PROMPT = "The capital of France is"


@pytest.mark.parametrize("name", ["smollm2", "tiny"])
def test_the_lens_says_there_what_it_says_here(any_server, client, here, name):
    there = lr.logit_lens(client(any_server, name), PROMPT, targets=[" Paris"])
    assert there.certificate.passed
    assert there.provenance["remote"] is True
    assert len(there.sites) == {"smollm2": 30, "tiny": 4}[name]
    run_here = partial(lr.logit_lens, here(name), PROMPT, targets=[" Paris"])
    assert_same_as(there, run_here, atol=2e-3)


def test_the_package_is_not_there(any_server, client):
    assert "No module named 'lens_recipes'" in any_server.python("import lens_recipes")
    model = client(any_server, "tiny")
    with (  # noqa: PT012
        pytest.raises(Exception, match="No module named 'lens_recipes'"),
        model.trace(PROMPT, remote=any_server.url),
    ):
        import lens_recipes

        names = lens_recipes.__all__.save()  # noqa: F841


def test_a_trusted_caller_has_the_weights(server, client):
    model = client(server, "tiny")
    with model.trace(PROMPT, remote=server.url):
        device = str(model.lm_head.weight.device).save()
    assert device == "cpu"


def test_a_stranger_has_no_weights(sandbox_server, client):
    model = client(sandbox_server, "tiny")
    with model.trace(PROMPT, remote=sandbox_server.url):
        device = str(model.lm_head.weight.device).save()
    assert device == "meta"


def alive(pid: int) -> bool:
    """Whether the process is there and not merely unburied."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_is_left_after_stop(guarded_server):
    running = guarded_server.processes()
    assert len(running) > 12
    assert any("raylet" in title for title in running.values())
    guarded_server.stop()
    assert [(pid, title) for pid, title in guarded_server.seen.items() if alive(pid)] == []
    assert not guarded_server.folder.exists()


def test_nothing_is_left_after_a_failed_start(another, monkeypatch):
    def fails(self):
        self.processes()
        raise ServerError("no API today")

    monkeypatch.setattr(NdifServer, "start_api", fails)
    server = another()
    with pytest.raises(ServerError, match="no API today"):
        server.start()
    assert len(server.seen) > 10
    assert [(pid, title) for pid, title in server.seen.items() if alive(pid)] == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_killed_caller(how):
    """Redis and its keeper stand for all: whoever started them is gone, politely or not."""
    code = (
        "import sys, time; from server import *; signal.signal(signal.SIGINT, "
        "signal.default_int_handler);"
        "s = NdifServer(Path('/nowhere'));"  # (a shell's background jobs ignore Ctrl-C)
        "s._start_ray = s.start_api = s.start_store = lambda: None; s.start();"
        "print(s.folder, *s.processes(), flush=True); time.sleep(60)"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    try:
        folder, *pids = caller.stdout.readline().split()
        assert len(pids) == 2
        os.kill(caller.pid, how)
        caller.wait(20)
        end = time.monotonic() + 20
        while any(alive(int(pid)) for pid in pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert not [pid for pid in pids if alive(int(pid))]
        assert (
            how != signal.SIGINT or not Path(folder).exists()
        )  # otherwise the next start removes it
    finally:
        caller.kill()
        caller.wait()
        caller.stdout.close()
