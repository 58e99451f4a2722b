"""Faults that really happen to a real server: what is said, whether the job may still finish, and how one goes on."""

from __future__ import annotations

import contextlib
import io
import json
import re
import select
import shutil
import socket
import socketserver
import struct
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import nnsight.modeling.huggingface
import pytest
import torch
import zstandard
from agreement import assert_same_lens, assert_same_tokens
from server import REVISION, TINY, free_ports, hub_cache, wait_for

import lens_recipes as lr
from lens_recipes.run.registry import prepare_run
from lens_recipes.run.remote.jobs.job import Job

PROMPT = "The capital of France is"
# Some seconds of work: that many steps of SmolLM2, whatever it wants to write.
SLOW = {
    "max_new_tokens": 30,
    "do_sample": False,
    "layers": [29],
    "generation_config": {"eos_token_id": 49000},
}


def running(job) -> Job:
    """The job, once its block runs."""
    wait_for(lambda: job.status().state == "running")
    return job


def goes_on(job, seconds=90):
    """Ask again until the result is there, as a patient user would."""

    def ask():
        with contextlib.suppress(lr.RemoteLensError):
            return job.result()

    return wait_for(ask, seconds)


def result_of(server, job) -> str:
    """Where the store keeps what a job of one part gave, once it does."""
    (name,) = re.findall("[0-9a-f]{32}", repr(job))
    return wait_for(lambda: next(iter(server.stored(f"{name}.pt")), None))


def assert_same(there, here):
    assert_same_tokens(there, here)
    assert_same_lens(there, here, atol=2e-3, names=("top_ids", "top_logprobs"))


# -- the server is away ------------------------------------------------


def test_nothing_listens(server, client, settings):
    settings(patience_s=0.5)
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(lr.RemoteLensError, match=f"{url} cannot be reached") as caught:
        lr.logit_lens(client(server, "tiny"), PROMPT, remote=url)
    assert not caught.value.may_finish
    assert "doctor --remote" in caught.value.todo
    assert str(caught.value.job.status()) == "not sent, 0 of 1 jobs done"


def test_the_api_is_stopped_while_a_job_runs(server, client, here, settings):
    job = running(lr.submit(lr.generate_lens, client(server), PROMPT, **SLOW))
    server.stop_api()
    settings(patience_s=0.5)
    for ask in (job.result, job.status):
        with pytest.raises(
            lr.RemoteLensError, match=r"cannot be reached .*The job may still finish"
        ) as caught:
            ask()
        assert caught.value.may_finish
    with pytest.raises(lr.RemoteLensError, match="cannot be reached") as unsent:
        lr.logit_lens(client(server, "tiny"), PROMPT)
    assert not unsent.value.may_finish

    settings(patience_s=120)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            job.result
        )  # asks all the while, first nobody and then an API that is not ready
        server.start_api()
        assert waiting.result().responses[0].finish == "length"
    assert_same(unsent.value.job.result(), lr.logit_lens(here("tiny"), PROMPT))


def test_the_api_loses_all_connections_while_a_job_runs(server, client):
    known = len(server.stored("responses/"))
    job = running(lr.submit(lr.generate_lens, client(server), PROMPT, **SLOW))
    server.kill_api_worker()
    assert job.result().certificate.passed
    assert len(server.stored("responses/")) == known + 1


class Wire(socketserver.ThreadingTCPServer):
    """A way to a server that can be cut: of the next connections, only so many bytes of the answer arrive each."""

    daemon_threads = True

    def __init__(self, there: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.there, self.cuts, self.connections = there, [], 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        left = self.server.cuts.pop(0) if self.server.cuts else None
        self.server.connections += 1
        with socket.create_connection(("127.0.0.1", self.server.there)) as there:
            while ready := select.select([self.request, there], [], [])[0]:
                here = self.request in ready
                if not (piece := (self.request if here else there).recv(65536)):
                    return
                (there if here else self.request).sendall(piece if here else piece[:left])
                if not here and left is not None:
                    break
        # A reset, as from a machine that goes down.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()


@pytest.fixture
def wire(server):
    with Wire(server.ports["api"]) as wire:
        threading.Thread(target=wire.serve_forever, args=(0.05,), daemon=True).start()
        yield wire
        wire.shutdown()


def test_the_socket_is_cut_when_the_server_accepts(server, wire, client):
    """It has the job, which nobody knows here: it is not sent again unless somebody says so."""
    known = len(server.stored("responses/"))
    wire.cuts = [0]
    with pytest.raises(lr.RemoteLensError, match=r"broke off .*not sent again by itself") as caught:
        lr.logit_lens(client(server, "tiny"), PROMPT, remote=wire.url)
    assert caught.value.may_finish
    assert wire.connections == 1
    wait_for(lambda: len(server.stored("responses/")) == known + 1)
    job = caught.value.job
    with pytest.raises(
        lr.RemoteLensError, match="may have accepted it without this process knowing"
    ) as caught:
        job.result()
    assert caught.value.may_finish
    assert len(server.stored("responses/")) == known + 1
    assert job.send(again=True).result().certificate.passed
    assert len(server.stored("responses/")) == known + 2


def test_the_socket_is_cut_while_a_job_is_waited_for(server, wire, client):
    known = len(server.stored("responses/"))
    job = lr.submit(lr.logit_lens, client(server, "tiny"), PROMPT, remote=wire.url)
    wire.cuts = [0, 10, 200]
    assert job.result().certificate.passed
    assert not wire.cuts
    assert len(server.stored("responses/")) == known + 1


def test_the_store_is_down(server, client, here, settings, monkeypatch):
    """What it held is lost: jobs are sent again as soon as somebody goes on, and not before."""
    lens = lr.logit_lens(here("tiny"), PROMPT)
    before = running(lr.submit(lr.generate_lens, client(server), PROMPT, **SLOW))
    server.stop_store()
    settings(patience_s=0.5)
    after = lr.submit(
        lr.logit_lens, client(server, "tiny"), PROMPT
    )  # the API accepts it all the same
    for job in (before, after):
        with pytest.raises(lr.RemoteLensError, match="answered 500") as caught:
            job.result()
        assert caught.value.may_finish
    monkeypatch.setattr("lens_recipes.run.remote.jobs.waiting.UNKNOWN_S", 1.0)
    server.start_store()
    with pytest.raises(
        lr.RemoteLensError, match="accepted a job and has known nothing of it"
    ) as caught:
        after.result()
    assert not caught.value.may_finish
    assert_same(after.result(), lens)
    assert goes_on(before).responses[0].finish == "length"


# -- the model ---------------------------------------------------------


def test_the_model_is_killed_in_the_middle(server, client):
    job = running(lr.submit(lr.generate_lens, client(server), PROMPT, **SLOW))
    killed = server.kill_model_actor()
    with pytest.raises(
        lr.RemoteLensError, match="the server's model went away while the job ran"
    ) as caught:
        job.result()
    assert not caught.value.may_finish
    assert caught.value.job is job
    assert goes_on(job).responses[0].finish == "length"
    assert not set(killed) & set(server.model_processes())


@pytest.fixture
def mistaken(home, tmp_path, monkeypatch):
    """A model as somebody has it whose config says something else than the server's."""

    def load(server, repo=TINY, **changes):
        source = home / "hub" / f"models--{TINY.replace('/', '--')}" / "snapshots" / REVISION
        checkpoint = tmp_path / "checkpoint"
        checkpoint.mkdir()
        for file in source.glob("*.json"):
            shutil.copyfile(file, checkpoint / file.name)
        config = json.loads((source / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**config, **changes}))
        monkeypatch.setitem(nnsight.modeling.huggingface._ID_CACHE, repo, repo)
        with monkeypatch.context() as patch:
            hub = hub_cache(tmp_path / "mistaken", {repo: checkpoint}) / "hub"
            patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
            return lr.load(repo, remote=server.url)

    return load


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "layers 4 there, 3 here"),  # of which nnsight says nothing
        ({"num_hidden_layers": 5}, "has not the modules that are known here: .*model.layers.4"),
        ({"vocab_size": 50000}, "vocabulary 49152 there, 50000 here"),
    ],
    ids=["fewer layers", "more layers", "vocabulary"],
)
def test_another_model(server, mistaken, changes, said):
    with pytest.raises(lr.RemoteLensError, match=said) as caught:
        lr.logit_lens(mistaken(server, **changes), PROMPT)
    assert not caught.value.may_finish
    assert "revision" in str(caught.value)
    with pytest.raises(lr.RemoteLensError, match=said):
        caught.value.job.result()


def test_a_model_that_the_server_does_not_have(server, mistaken):
    model = mistaken(server, "lens-recipes/nowhere")
    with pytest.raises(lr.RemoteLensError, match="could not deploy lens-recipes/nowhere") as caught:
        lr.logit_lens(model, PROMPT)
    assert not caught.value.may_finish
    assert "doctor --remote lists what it serves" in caught.value.todo


def ask_for_top(run, top_k):
    """Change what a prepared run asks for, past all checks."""
    run.plan = run.plan._replace(options=run.plan.options._replace(top_k=top_k))


def test_an_exception_in_the_block(any_server, client):
    run = prepare_run(lr.logit_lens, client(any_server, "tiny"), PROMPT)
    ask_for_top(run, 10**6)
    with pytest.raises(
        lr.RemoteLensError, match=r"the job failed on the server: .*out of range"
    ) as caught:
        Job(run).result()
    assert not caught.value.may_finish
    assert "Traceback" not in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__)
    ask_for_top(run, 5)
    assert caught.value.job.result().certificate.passed


# -- what is in the store ----------------------------------------------


class Trap:
    """A pickle that does something."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def compressed(value) -> bytes:
    """As a server packs what a block has saved."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return zstandard.compress(buffer.getvalue())


BROKEN = {
    "half": lambda whole, _: whole[: len(whole) // 2],
    "nothing": lambda *_: b"",
    "garbage": lambda *_: b"<html>no such thing</html>",
    "other": lambda *_: compressed(
        {"found": [{"layout": [["top_ids", "int32", [4]]], "bytes": torch.zeros(16)}]}
    ),
    "bomb": lambda *_: zstandard.compress(bytes(2**30)),
    "trap": lambda _, path: compressed({"found": Trap(path)}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_results(server, client, tmp_path, how):
    known = len(server.stored("responses/"))
    job = lr.submit(lr.logit_lens, client(server, "tiny"), PROMPT)
    name = result_of(server, job)
    whole = server.stored_bytes(name)
    server.store(name, BROKEN[how](whole, tmp_path / "trapped"))
    with pytest.raises(lr.RemoteLensError, match="not a whole result of this run") as caught:
        job.result()
    assert caught.value.may_finish
    assert not (tmp_path / "trapped").exists()
    server.store(name, whole)
    assert job.result().certificate.passed
    assert len(server.stored("responses/")) == known + 1


@pytest.mark.parametrize(
    ("model", "prompt"),
    [("smollm2", PROMPT), ("tiny", "The capital of Italy is")],
    ids=["model", "prompt"],
)
def test_results_of_another_run(server, client, model, prompt):
    """Two jobs got each other's; also where types and shapes are the same."""
    jobs = [
        lr.submit(lr.logit_lens, client(server, "tiny"), PROMPT, positions=-1),
        lr.submit(lr.logit_lens, client(server, model), prompt, positions=-1),
    ]
    names = [result_of(server, job) for job in jobs]
    contents = [server.stored_bytes(name) for name in names]
    for name, content in zip(names, reversed(contents), strict=True):
        server.store(name, content)
    for job in jobs:
        with pytest.raises(lr.RemoteLensError, match="not a whole result of this run"):
            job.result()
    for name, content in zip(names, contents, strict=True):
        server.store(name, content)
    assert all(job.result().certificate.passed for job in jobs)


def test_a_job_that_the_server_does_not_know(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr("lens_recipes.run.remote.jobs.waiting.UNKNOWN_S", 1.0)
    job, path = lr.submit(lr.logit_lens, client(server, "tiny"), PROMPT), tmp_path / "lens.job"
    job.save(path)
    path.write_text(re.sub('"id": "[0-9a-f]{32}"', f'"id": "{uuid.uuid4().hex}"', path.read_text()))
    lost = Job.load(path, client(server, "tiny"))
    assert lost.status().state == "queued"
    with pytest.raises(
        lr.RemoteLensError, match="accepted a job and has known nothing of it"
    ) as caught:
        lost.result()
    assert not caught.value.may_finish
    assert_same(lost.result(), job.result())  # sent again, now that this is known
    assert_same(Job.load(path, client(server, "tiny")).result(), job.result())


# -- a server that wants a key, a new client, and jobs that are done in five seconds ---


@pytest.fixture
def key(guarded_server, monkeypatch):
    """Set a key as a user does: key() for the right one."""
    (right,) = guarded_server.keys

    def set_(value=right):
        monkeypatch.setenv("NDIF_API_KEY", value)
        return value

    return set_


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "answered 401: .*no key is set"),
        ("sk-not-a-uuid-1234", "answered 400: .*the key that is set was not accepted"),
        (str(uuid.uuid4()), "answered 403: .*the key that is set was not accepted"),
    ],
    ids=["none", "malformed", "unknown"],
)
def test_keys(guarded_server, client, key, wrong, said, tmp_path, caplog, capfd):
    caplog.set_level(0)
    if wrong:
        key(wrong)
    with pytest.raises(lr.RemoteLensError, match=said) as caught:
        lr.logit_lens(client(guarded_server, "tiny"), PROMPT)
    error = caught.value
    assert not error.may_finish
    assert "NDIF_API_KEY" in error.todo
    right = key()
    result = error.job.result()
    assert result.certificate.passed
    result.save(tmp_path / "result.json")
    error.job.save(tmp_path / "lens.job")
    written = [path.read_text() for path in tmp_path.iterdir()]
    shown = [
        str(error),
        repr(error),
        repr(error.__cause__),
        str(error.__cause__),
        repr(error.job),
        repr(result),
    ]
    logged = [caplog.text, *capfd.readouterr()]
    for secret in (right, wrong or right):
        assert not [text for text in (*written, *shown, *logged) if secret in text]


def test_a_client_that_is_too_old(guarded_server, client, key, monkeypatch):
    key()
    with monkeypatch.context() as patch:
        patch.setattr("lens_recipes.run.remote.server.version", lambda _: "0.5.0")
        with pytest.raises(
            lr.RemoteLensError, match=r"answered 400: .*0\.5\.0 is below the minimum"
        ) as caught:
            lr.logit_lens(client(guarded_server, "tiny"), PROMPT)
    assert not caught.value.may_finish
    assert "Install what the server asks for" in caught.value.todo
    assert caught.value.job.result().certificate.passed


def test_a_job_takes_too_long(guarded_server, client, key):
    key()
    job = lr.submit(
        lr.generate_lens, client(guarded_server), PROMPT, **{**SLOW, "max_new_tokens": 2000}
    )
    with pytest.raises(
        lr.RemoteLensError, match=r"time limit: Your job exceeded .* 5\.0s"
    ) as caught:
        job.result()
    assert not caught.value.may_finish
    assert "fewer" in caught.value.todo
    assert lr.generate_lens(
        client(guarded_server), PROMPT, **{**SLOW, "max_new_tokens": 2}
    ).certificate.passed


def test_redis_is_down(guarded_server, client, key, settings):
    """After this the server is only good to be stopped. A job that runs already needs no Redis."""
    key()
    settings(patience_s=0.5)
    job = running(
        lr.submit(lr.generate_lens, client(guarded_server), PROMPT, **{**SLOW, "max_new_tokens": 8})
    )
    guarded_server.stop_redis()
    with pytest.raises(
        lr.RemoteLensError, match=r"answered 500: .*not sent a second time by itself"
    ) as caught:
        lr.logit_lens(client(guarded_server, "tiny"), PROMPT)
    assert caught.value.may_finish
    settings(patience_s=60)
    assert job.result(timeout=60).responses[0].finish == "length"
