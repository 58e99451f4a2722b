"""Jobs that outlive the process which sent them, and what a user types: the command line, the example, the doctor."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_same_as
from server import HERE, SMOLLM2, TINY, wait_for

import lens_recipes as lr
from lens_recipes.run.remote.server import Server

PROMPT = "The capital of France is"
# Some seconds of work: so many steps of SmolLM2, whatever it wants to write.
SLOW = {
    "max_new_tokens": 20,
    "do_sample": False,
    "layers": [0, 29],
    "generation_config": {"eos_token_id": 49000},
}
EXAMPLE = HERE.parents[1] / "examples" / "08_remote_70b.py"
RESUME = "import sys, lens_recipes as lr; lr.Job.load(sys.argv[1]).result().save(sys.argv[2])"
SUBMIT_AND_WAIT = f"""
import sys, lens_recipes as lr
lr.remote_settings.tokens_per_job = 40
model = lr.load({SMOLLM2!r}, remote=True)
prompts = [{PROMPT!r}, "Hello"]
lr.submit(lr.generate_lens, model, prompts, **{SLOW!r}, path=sys.argv[1]).result()
"""


def assert_same(there, recipe, *arguments, **options):
    """Check that a result says what the recipe says here."""
    run_here = partial(recipe, *arguments, **options)
    here = run_here()
    assert_same_as(there, run_here, atol=2e-3)
    for token in there.texts.keys() & here.texts.keys():
        assert there.texts[token] == here.texts[token]
    assert there.responses == here.responses


def lines(path: Path, kind: str) -> list[dict]:
    """What a job's file says of one kind of event; a line that is still being written is none."""
    whole = path.read_text().split("\n")[1:-1] if path.exists() else []
    return [event for event in map(json.loads, whole) if kind in event]


def ended(process) -> tuple[str, str]:
    """Output of a process that ended well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def test_a_job_is_asked_for_later(server, client, here):
    model = client(server)
    first = lr.submit(lr.generate_lens, model, PROMPT, **{**SLOW, "max_new_tokens": 100})
    wait_for(lambda: first.status().state == "running")
    second = lr.submit(lr.logit_lens, model, PROMPT, positions=-1)

    def place_in_queue():
        status = second.status()
        return status if "position" in status.said else None

    queued = wait_for(place_in_queue)
    assert queued.state == "queued"
    assert (queued.done, queued.total) == (0, 1)
    assert "queued, 0 of 1 jobs done" in str(queued)
    with pytest.raises(
        lr.RemoteLensError, match=r"not finished in the time that was given; .*0 of 1 jobs"
    ) as caught:
        second.result(timeout=0)
    assert caught.value.may_finish
    assert caught.value.job is second
    result = second.result()
    assert str(second.status()) == "done, 1 of 1 jobs done"
    assert_same(result, lr.logit_lens, here("smollm2"), PROMPT, positions=-1)
    assert first.result().certificate.passed


def test_a_job_goes_on_in_another_process(server, client, here, elsewhere, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    model, own, known = client(server, "tiny"), here("tiny"), len(server.stored("responses/"))
    job = lr.submit(lr.logit_lens, model, [PROMPT, "Hello"], layers=slice(1, 3), targets=[" Paris"])
    job.save(tmp_path / "lens.job")
    lr.submit(lr.decode_vectors, model, vectors, list("abc"), path=tmp_path / "vectors.job")
    ended(elsewhere(server, "-c", RESUME, tmp_path / "lens.job", tmp_path / "lens.npz"))
    assert_same(
        lr.LensResult.load(tmp_path / "lens.npz"),
        lr.logit_lens,
        own,
        [PROMPT, "Hello"],
        layers=slice(1, 3),
        targets=[" Paris"],
    )
    again = lr.Job.load(tmp_path / "vectors.job", model)
    assert_same(again.result(), lr.decode_vectors, own, vectors, list("abc"))
    assert len(server.stored("responses/")) == known + 2


def test_another_process_goes_on_for_one_that_was_killed(
    server, client, here, elsewhere, tmp_path, monkeypatch
):
    path, known = tmp_path / "many.job", len(server.stored("responses/"))
    process = elsewhere(server, "-c", SUBMIT_AND_WAIT, path)
    wait_for(lambda: lines(path, "arrived") or process.poll() is not None, 120)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    accepted = [event["id"] for event in lines(path, "id")]
    assert len(accepted) == 2

    def refuse(*_):
        raise AssertionError("it was sent again")

    monkeypatch.setattr(Server, "submit", refuse)
    job = lr.Job.load(path, client(server))
    assert job.status().done >= 1
    fetched, fetch = [], Server.fetch
    monkeypatch.setattr(
        Server, "fetch", lambda self, url, *rest: fetched.append(url) or fetch(self, url, *rest)
    )
    result = job.result()
    assert result.provenance["jobs"]["jobs"] == 2
    assert len(fetched) <= 1
    assert len(server.stored("responses/")) == known + 2
    assert_same(result, lr.generate_lens, here("smollm2"), [PROMPT, "Hello"], **SLOW)


def test_the_example_runs_unchanged(server, elsewhere, tmp_path):
    out, _ = ended(elsewhere(server, EXAMPLE, SMOLLM2, cwd=tmp_path))
    assert "logit_lens on lens-recipes/smollm2: 1 job" in out
    assert "certified" in out
    assert "France: ' Paris' is the first choice from layer " in out
    assert "<html" in (tmp_path / "out" / "70b.html").read_text()
    assert not list(tmp_path.glob("out/*.job"))


def test_the_example_goes_on_with_the_job_that_it_finds(server, client, elsewhere, tmp_path):
    """It is a job of other prompts here, so that nothing but the file can have told it."""
    (tmp_path / "out").mkdir()
    prompts = [f"The largest city of {name} is" for name in ("France", "Japan", "Peru", "Kenya")]
    targets = [[" Paris"], [" Tokyo"], [" Lima"], [" Nairobi"]]
    path = tmp_path / "out" / "smollm2, The capital of {} is.job"
    lr.submit(lr.logit_lens, client(server), prompts, targets=targets, positions=-1, path=path)
    out, _ = ended(elsewhere(server, EXAMPLE, SMOLLM2, cwd=tmp_path))
    assert "logit_lens on" not in out  # no estimate: it has not begun anew
    assert "of 1 jobs done" in out
    assert not path.exists()


def test_the_command_line(server, here, elsewhere, tmp_path):
    command = [
        "-m",
        "lens_recipes",
        "logit-lens",
        PROMPT,
        "--remote",
        "--model",
        SMOLLM2,
        "--positions",
        "-1",
    ]
    out, err = ended(elsewhere(server, *command, "--json", "-"))
    (tmp_path / "result.json").write_text(out)
    there = lr.LensResult.load(tmp_path / "result.json")
    assert there.provenance["remote"] is True
    assert there.provenance["jobs"]["host"] == server.url
    assert there.certificate.passed
    assert_same(there, lr.logit_lens, here("smollm2"), PROMPT, positions=-1)
    assert "Traceback" not in err


def test_the_other_commands(server, client, cli):
    call = cli(client(server, "tiny"))
    status, out, err = call("attribute", PROMPT, "--target", " Paris", "--unit", "head", "--remote")
    assert (status, "certified" in out) == (0, True), err
    status, out, err = call(
        "generate", PROMPT, "--greedy", "--max-new-tokens", "3", "--remote", "--json", "-"
    )
    assert (status, json.loads(out)["certificate"]["tokens"]) == (0, 3), err


def test_a_stranger_may_sample_from_the_command_line(sandbox_server, client, cli):
    status, out, err = cli(client(sandbox_server, "tiny"))(
        "generate", PROMPT, "--max-new-tokens", "3", "--remote"
    )
    assert (status, "certified" in out) == (0, True), err


def test_the_doctor(server, client, elsewhere):
    lr.logit_lens(client(server, "tiny"), PROMPT)  # so that it is deployed
    out, _ = ended(elsewhere(server, "-m", "lens_recipes", "doctor", "--remote", "--json"))
    told = json.loads(out)
    assert told["ok"] is True
    assert told["remote"] == {"NDIF key": "not set", "NDIF server": f"{server.url}, answers"}
    assert any(name.startswith(TINY) for name in told["models"])


def test_the_doctor_for_a_person(server, client, cli, monkeypatch):
    monkeypatch.setenv("NDIF_HOST", server.url)
    lr.logit_lens(client(server, "tiny"), PROMPT)
    status, out, err = cli()("doctor", "--remote")
    assert status == 0, err
    assert TINY in out
    assert server.url in out
