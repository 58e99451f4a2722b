"""A run on a server is the run here; it outlives its process, and whatever happens nothing is computed twice."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import re
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path

import loopback
import numpy as np
import pytest
import tiny
import torch
import zstandard
from agreement import assert_same_as
from lenses import random_lens
from loopback import KEY, REPO, Loopback, as_result, reports, says
from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.response import ResponseModel, Status

import lens_recipes as lr
from lens_recipes.arrays import attribution as attribution_result
from lens_recipes.run.remote.jobs import file as job_file
from lens_recipes.run.remote.jobs import job as jobs
from lens_recipes.run.remote.jobs import restore
from lens_recipes.run.remote.jobs.file import fingerprint
from lens_recipes.run.remote.server import Server

pytest_plugins = ["loopback"]

PROMPTS = ["one prompt", "and another, longer one"]
MANY = [[7 + n, *range(10, 15 + n)] for n in range(5)]  # each a batch by itself: no two are as long
VECTORS = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)

RECIPES = {
    "lens": partial(lr.logit_lens, prompts=PROMPTS, targets=[[260], [261]]),
    "last position": partial(
        lr.logit_lens, prompts=PROMPTS, positions=-1, layers=[0, -1], track=None, top_k=2
    ),
    "raw": partial(lr.logit_lens, prompts=MANY, track=3, apply_norm=False),
    "components": partial(
        lr.logit_lens, prompts=PROMPTS, components=("embed", "attn_out", "mlp_out", "resid_post")
    ),
    "heads": partial(
        lr.logit_lens,
        prompts=PROMPTS,
        components="head_out",
        heads=[(0, 1), (2, 3)],
        positions=[0, -1],
    ),
    "by layer": partial(lr.attribution, prompts=PROMPTS, targets=[260, 261], against="mean"),
    "by component": partial(
        lr.attribution, prompts=PROMPTS, targets=260, unit="component", at_layer=1
    ),
    "by head": partial(
        lr.attribution, prompts=PROMPTS, targets=260, against=261, unit="head", positions=None
    ),
    "greedy": partial(
        lr.generate_lens, prompts=PROMPTS, max_new_tokens=5, do_sample=False, targets=[260]
    ),
    "prompt too": partial(
        lr.generate_lens, prompts=PROMPTS, max_new_tokens=3, do_sample=False, include_prompt=True
    ),
    "sampled": partial(
        lr.generate_lens, prompts=PROMPTS[0], max_new_tokens=6, temperature=1.5, seed=3
    ),
    "penalised": partial(
        lr.generate_lens,
        prompts=PROMPTS,
        max_new_tokens=4,
        generation_config={"repetition_penalty": 1.3},
    ),
    "biased": partial(
        lr.generate_lens,
        prompts=PROMPTS,
        max_new_tokens=3,
        generation_config={"sequence_bias": {(260,): 9.0}},
    ),
    "edited text": partial(
        lr.generate_lens,
        prompts=PROMPTS,
        max_new_tokens=3,
        do_sample=False,
        edits=[
            lr.steer((260, 261), layer=1, scale=0.5),
            lr.ablate(layer=2, component="mlp_out", to="mean", over=[[5, 6, 7]], when="written"),
        ],
    ),
    "edited parts": partial(
        lr.attribution,
        prompts=PROMPTS,
        targets=260,
        unit="head",
        edits=[lr.patch(0, layer=1, positions=0), lr.ablate(component="embed", positions=1)],
    ),
    "vectors": partial(lr.decode_vectors, vectors=VECTORS, names=["a", "b", "c"], targets=[260]),
    "raw vector": partial(lr.decode_vectors, vectors=VECTORS[0], apply_norm=False),
}


def assert_same(there, run_here) -> None:
    """A result says what a recipe says here, wherever it was computed."""
    here = run_here()
    if isinstance(here, lr.Attribution):
        for name in attribution_result.AXES:
            np.testing.assert_allclose(
                getattr(there, name), getattr(here, name), atol=3e-4, err_msg=name
            )
    else:
        assert_same_as(there, run_here, atol=3e-4)
    for name in here.tokens.__dataclass_fields__:
        np.testing.assert_array_equal(
            *_close(getattr(there.tokens, name), getattr(here.tokens, name)), err_msg=name
        )
    assert there.prompts == here.prompts
    assert getattr(there, "responses", None) == getattr(here, "responses", None)


def _close(a, b):
    """Floats rounded, the rest as it is."""
    return [np.round(x, 3) if np.asarray(x).dtype.kind == "f" else x for x in (a, b)]


def failure(call, kind=lr.RemoteLensError):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def times_read(server: Loopback) -> collections.Counter:
    """How often each prompt was computed."""
    return collections.Counter(tuple(ids) for batch in server.read for ids in batch)


@pytest.fixture
def once(settings):
    """Each batch a job by itself."""
    settings(tokens_per_job=1)


# -- the same as here --------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_says_there_what_it_says_here(client, server, llama, name):
    recipe = RECIPES[name]
    there, here = recipe(client), recipe(llama)
    assert_same(there, partial(recipe, llama))
    assert there.certificate is here.certificate is None or there.certificate.passed
    record = there.provenance["jobs"]
    assert (record["host"], record["jobs"]) == (server.url, 1)
    (parcel,) = server.parcels.values()
    assert parcel.runs == 1
    assert record["bytes_up"] == len(parcel.blob)
    assert record["bytes_back"] == len(parcel.result)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_goes_on_from_its_file(client, server, llama, tmp_path, name):
    recipe, path = RECIPES[name], tmp_path / "a.job"
    lr.submit(recipe.func, client, **recipe.keywords, path=path)
    assert_same(lr.Job.load(path, client).result(), partial(recipe, llama))
    assert server.posts == 1


def test_several_jobs_say_what_one_says(client, server, llama, once):
    there = lr.logit_lens(client, MANY, targets=[9])
    assert_same(there, partial(lr.logit_lens, llama, MANY, targets=[9]))
    assert there.provenance["jobs"]["jobs"] == server.posts == len(MANY)
    assert set(times_read(server).values()) == {1}


def test_all_that_has_come_may_be_asked_for_again(client, server, llama):
    job = lr.submit(lr.generate_lens, client, PROMPTS, max_new_tokens=3, do_sample=False)
    first = job.result()
    asked = len(server.seen)
    again = job.result()
    assert len(again.tokens.id) == len(first.tokens.id) == 6
    assert_same(again, partial(lr.generate_lens, llama, PROMPTS, max_new_tokens=3, do_sample=False))
    assert len(server.seen) == asked


# -- submitting, and how far it is -------------------------------------


def test_a_job_is_sent_and_not_waited_for(client, server, llama):
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    assert server.posts == 1
    assert not server.read
    server.script("response", says(404), reports(Status.QUEUED, "Moved to position 3\n in Queue."))
    assert str(job.status()) == "queued, 0 of 1 jobs done"
    assert str(job.status()) == "queued, 0 of 1 jobs done: Moved to position 3 in Queue."
    server.script("response", reports(Status.RUNNING, "Your job has started running."))
    assert job.status() == ("running", "Your job has started running.", 0, 1)
    assert job.status() == ("done", "", 1, 1)
    assert not server.asked("store")
    assert_same(job.result(), partial(lr.logit_lens, llama, PROMPTS))
    assert job.status() == ("done", "", 1, 1)
    assert set(times_read(server).values()) == {1}
    assert server.url in repr(job)
    assert next(iter(server.parcels)) in repr(job)


@pytest.mark.parametrize(
    "status", [Status.PROVISIONING, Status.DEPLOYING, Status.DISPATCHED, Status.RECEIVED]
)
def test_a_job_before_it_runs_is_queued(client, server, status):
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    server.script("response", reports(status, "Patience."))
    assert job.status() == ("queued", "Patience.", 0, 1)


def test_the_status_of_several_jobs_tells_of_the_one_that_failed(client, server, once):
    job = lr.submit(lr.logit_lens, client, MANY)
    server.script(
        "response",
        loopback.ordinary,
        reports(Status.QUEUED, "Later."),
        reports(Status.ERROR, "Boom."),
    )
    assert job.status() == ("failed", "Boom.", 3, 5)
    server.script("response", *[loopback.ordinary] * 2, reports(Status.ERROR, "Boom."))
    error = failure(job.result)
    assert "Boom." in error.happened
    assert job.status().state == "not sent"
    job.result()
    assert job.status() == ("done", "", 5, 5)


def test_progress_is_silent_where_the_run_is_short(client, once, capfd, monkeypatch):
    # Two seconds are short; on a machine that is busy with other things a minute is.
    bar = jobs.tqdm
    monkeypatch.setattr(jobs, "tqdm", lambda delay, **options: bar(delay=30 * delay, **options))
    lr.logit_lens(client, MANY)
    lr.submit(lr.logit_lens, client, MANY).result()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_where_a_job_stands_is_shown_while_it_is_waited_for(client, server, clock, monkeypatch):
    shown = []
    monkeypatch.setattr(jobs.tqdm, "set_postfix_str", lambda bar, said, refresh: shown.append(said))
    server.script("response", *(reports(Status.QUEUED, f"Position {n}.") for n in (2, 1)))
    lr.logit_lens(client, PROMPTS)
    assert shown == ["Position 2.", "Position 1."]


@pytest.mark.parametrize("remote", [None, False, "local"])
def test_there_must_be_a_server_to_submit_to(llama, remote):
    with pytest.raises(ValueError, match="no server to submit to: pass remote=True"):
        lr.submit(lr.logit_lens, llama, PROMPTS, remote=remote)


@pytest.mark.parametrize("wrong", [print, "logit_lens", lr.load, None, 7])
def test_what_is_submitted_is_a_recipe(client, server, wrong):
    with pytest.raises(
        ValueError, match="the functions attribution, decode_vectors, fit_lens, generate_lens, "
    ):
        lr.submit(wrong, client, PROMPTS)
    assert not server.seen


def test_a_result_is_no_recipe(client, llama):
    with pytest.raises(ValueError, match=r"as in submit\(logit_lens, model, prompts\)") as caught:
        lr.submit(lr.logit_lens(llama, PROMPTS), client)
    assert len(str(caught.value)) < 600


def test_wrong_arguments_are_refused_before_anything_is_sent(client, server):
    with pytest.raises(ValueError, match="top_k=0"):
        lr.submit(lr.logit_lens, client, PROMPTS, top_k=0)
    with pytest.raises(TypeError):
        lr.submit(lr.logit_lens, client, PROMPTS, no_such=1)
    with pytest.raises(lr.LensError, match='unit="token" is not possible'):
        lr.submit(lr.attribution, client, PROMPTS, 260, unit="token")
    with pytest.raises(lr.RemoteLensError, match="no address of a server"):
        lr.submit(lr.logit_lens, client, PROMPTS, remote="nowhere")
    assert not server.seen


# -- waiting -----------------------------------------------------------


def test_a_job_that_never_finishes_is_waited_for_as_long_as_said(client, server, clock):
    server.always("response", reports(Status.RUNNING, "Still at it."))
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    error = failure(lambda: job.result(timeout=100))
    assert 99 <= sum(clock.slept) <= 101
    assert max(clock.slept) <= lr.remote_settings.poll_s
    assert (
        "not finished in the time that was given; running, 0 of 1 jobs done: Still at it."
        in error.happened
    )
    assert error.may_finish
    assert "job.result() waits again" in error.todo
    assert error.job is job
    server.always("response", loopback.ordinary)
    assert job.result().certificate.passed
    assert server.posts == 1


@pytest.mark.parametrize(
    "fault", [says(503, Retry_After="50"), loopback.hangs_up], ids=["busy", "cut"]
)
def test_no_longer_than_said_is_waited_for_a_server_in_trouble(client, server, clock, fault):
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    server.always("response", fault)
    error = failure(lambda: job.result(timeout=5))
    assert sum(clock.slept) <= 5
    assert error.may_finish
    failure(job.status)  # has the patience of the settings again
    assert sum(clock.slept) > 10
    server.always("response", loopback.ordinary)
    assert job.result(timeout=5).certificate.passed


def test_no_time_at_all_is_one_question(client, server, clock):
    server.always("response", reports(Status.QUEUED))
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    failure(lambda: job.result(timeout=0))
    assert sum(clock.slept) == 0
    server.always("response", loopback.ordinary)
    assert job.result(timeout=0).certificate.passed


def test_a_recipe_waits_as_long_as_the_settings_say(client, server, clock, settings):
    settings(timeout_s=7.0)
    server.always("response", reports(Status.QUEUED, "Position 9."))
    error = failure(lambda: lr.logit_lens(client, PROMPTS))
    assert 6 <= sum(clock.slept) <= 8
    server.always("response", loopback.ordinary)
    assert error.job.result().certificate.passed
    assert server.posts == 1


def test_ctrl_c_while_waiting_loses_nothing(client, server, clock, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    clock.events = [lambda: None, interrupt]
    server.script("response", *[reports(Status.RUNNING)] * 4)
    job = lr.submit(lr.logit_lens, client, PROMPTS, path=tmp_path / "a.job")
    with pytest.raises(KeyboardInterrupt) as caught:
        job.result()
    assert caught.value.job is job  # for a recipe, which gives no job away
    assert job.result().certificate.passed
    assert lr.Job.load(tmp_path / "a.job", client).result().certificate.passed
    assert server.posts == 1
    assert set(times_read(server).values()) == {1}


def test_a_connection_that_is_cut_while_waiting_is_taken_up_again(client, server, clock):
    server.script("response", loopback.hangs_up, says(503), says(502))
    server.script("store", loopback.breaks_off)
    assert lr.logit_lens(client, PROMPTS).certificate.passed
    assert server.posts == 1


def test_a_server_that_goes_down_keeps_its_jobs(client, server, clock, settings):
    settings(patience_s=5.0)
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    server.close()
    try:
        error = failure(job.result)
        assert "cannot be reached" in error.happened
        assert error.may_finish
        assert error.job is job
    finally:
        server.open()
    assert job.result().certificate.passed
    assert server.posts == 1


# -- jobs that fail ----------------------------------------------------

TRACE = 'Traceback (most recent call last):\n  File "actor.py", line 7, in timeout\n    factor = evicted()\n'
MISMATCH = (
    "The model architecture on this server doesn't match the one your code was traced against: it has no module at "
    "'model.layers.3'.\n\nThis usually means the package versions differ.\n\n    print(ndif.compare())\n\nand re-run."
)


@pytest.mark.parametrize(
    ("said", "happened", "todo"),
    [
        (
            f"{TRACE}ValueError: a factor is 3",
            "the job failed on the server: ValueError: a factor is 3",
            "__cause__",
        ),
        (
            f"{TRACE}ValueError: lens-recipes: no such luck.",
            "no such luck.",
            "Nothing was computed.",
        ),
        (
            "Could not deploy this model. Repository Not Found.",
            "could not deploy lens-recipes/tiny",
            "doctor --remote",
        ),
        (
            f"{TRACE}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "ran out of mem",
            "positions",
        ),
        ("Your job exceeded the execution timeout of 20s.", "for its time limit", "tokens_per_job"),
        (
            MISMATCH,
            "has not the modules that are known here: The model architecture",
            "same revision",
        ),
        (
            "Error submitting request to model deployment. Please try again later.",
            "went away",
            "sends this part again",
        ),
        (
            "Replica was evicted while processing your request. Sorry.",
            "went away",
            "sends this part again",
        ),
        (
            "Your job was cancelled or preempted by the server.",
            "went away",
            "sends this part again",
        ),
        ("Request cancelled by operator.", "went away", "sends this part again"),
        (
            f"{TRACE}Exception: Impossible to guess which tokenizer to use. Please provide a path.",
            "cannot build its model apart from the weights",
            "transformers 5.22",
        ),
        ("", "the job failed on the server: it says nothing", "doctor --remote"),
    ],
)
def test_what_a_failure_means(client, server, said, happened, todo):
    server.script("response", reports(Status.ERROR, said))
    error = failure(lambda: lr.logit_lens(client, PROMPTS))
    assert happened in error.happened
    assert todo in error.todo
    assert not error.may_finish
    assert isinstance(error.__cause__, RemoteError)
    assert str(error.__cause__) == said
    assert error.job.result().certificate.passed  # a job that failed is sent again
    assert server.posts == 2


def test_an_exception_in_the_block_comes_back_as_one(client, server, monkeypatch):
    def broken(model, plan, batch):
        with model.trace(**batch.inputs):
            out = model.output.no_such_thing.save()
        return {"x": out}

    run = lr.logit_lens.prepare(client, PROMPTS)
    run.traced = broken
    error = failure(jobs.Job(run).result)
    assert "no_such_thing" in error.happened
    assert "Traceback" in str(error.__cause__)


@pytest.fixture
def other_server():
    """A function from a module to a server of it."""
    running = []

    def of(module) -> Loopback:
        running.append(Loopback(lr.load(module, tokenizer=tiny.tiny_tokenizer())))
        running[-1].open()
        return running[-1]

    yield of
    for server in running:
        server.close()


@pytest.mark.parametrize(
    ("module", "happened"),
    [
        (partial(tiny.llama, tiny.STRING_VOCAB, 5), "layers 5 there, 4 here"),
        (partial(tiny.llama, tiny.STRING_VOCAB + 1), "vocabulary 321 there, 320 here"),
        (partial(tiny.llama, tiny.STRING_VOCAB, 3), "has not the modules that are known here"),
    ],
    ids=["more layers", "vocabulary", "fewer layers"],
)
def test_a_server_of_another_model_computes_nothing(client, other_server, module, happened):
    server = other_server(module())
    for name in ("lens", "by head", "greedy", "vectors"):
        error = failure(lambda name=name: RECIPES[name](client, remote=server.url))
        assert happened in error.happened
        assert "revision" in str(error)
    assert not server.read


def test_a_server_of_another_revision_computes_nothing(client, server, llama, monkeypatch):
    monkeypatch.setattr(client._module.config, "_commit_hash", "a" * 40, raising=False)
    assert lr.logit_lens(
        client, PROMPTS
    ).certificate.passed  # what the server does not know is not compared
    monkeypatch.setattr(llama._module.config, "_commit_hash", "b" * 40, raising=False)
    server.read.clear()
    error = failure(lambda: lr.logit_lens(client, PROMPTS))
    assert f"revision {'b' * 40} there, {'a' * 40} here" in error.happened
    assert not server.read


def test_a_job_that_the_server_forgets_is_sent_again(client, server, clock):
    job = lr.submit(lr.logit_lens, client, PROMPTS)
    server.script("response", loopback.forgets)
    error = failure(job.result)
    assert sum(clock.slept) > 100
    assert re.search("know(s|n) nothing of", error.happened)
    assert not error.may_finish
    assert "sends this part again" in error.todo
    assert job.result().certificate.passed
    assert server.posts == 2


@pytest.mark.parametrize("status", [403, 404])
def test_a_result_that_is_kept_no_longer_is_computed_again(client, server, clock, tmp_path, status):
    """NDIF's address of a result is good for an hour: a job that is taken up the next day has none."""
    path = tmp_path / "a.job"
    job = lr.submit(lr.logit_lens, client, PROMPTS, path=path)
    server.script("store", says(status, b"<Error>Request has expired</Error>"))
    error = failure(job.result)
    assert "keeps the result of a finished job no longer" in error.happened
    assert not error.may_finish
    assert "sends this part again" in error.todo
    assert lr.Job.load(path, client).result().certificate.passed
    assert server.posts == 2


# -- results that are none ---------------------------------------------


class _Runs:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _content(blob: bytes) -> dict:
    raw = zstandard.ZstdDecompressor().decompress(blob)
    return torch.load(io.BytesIO(raw), weights_only=True)


def _changed(change) -> callable:
    def spoil(blob: bytes, _path: Path) -> bytes:
        saved = _content(blob)
        change(saved["found"])
        return as_result(saved)

    return spoil


def _relabelled(number: int, place: int, value) -> callable:
    return _changed(lambda found: found[0]["layout"][number].__setitem__(place, value))


SPOILT = {
    "nothing": lambda blob, path: b"",
    "noise": lambda blob, path: np.random.default_rng(0).bytes(5000),
    "half": lambda blob, path: blob[: len(blob) // 2],
    "no zstd": lambda blob, path: zstandard.ZstdDecompressor().decompress(blob),
    "no torch": lambda blob, path: zstandard.ZstdCompressor().compress(b"text"),
    "code": lambda blob, path: as_result({"found": _Runs(path)}),
    "code beside it": lambda blob, path: as_result({**_content(blob), "more": _Runs(path)}),
    "no such name": lambda blob, path: as_result({"lost": []}),
    "a list": lambda blob, path: as_result([1, 2]),
    "of another": _changed(lambda found: found[0].update(of="another")),
    "of nobody": _changed(lambda found: found[0].pop("of")),
    "no batches": _changed(lambda found: found.clear()),
    "a batch too many": _changed(lambda found: found.append(found[0])),
    "an array is missing": _changed(lambda found: found[0]["layout"].pop()),
    "another name": _relabelled(0, 0, "hidden"),
    "another type": _relabelled(1, 1, "int32"),
    "objects": _relabelled(1, 1, "object"),
    "no type": _relabelled(1, 1, "nonsense"),
    "another shape": _relabelled(0, 2, [7, 2, 10]),
    "no shape": _relabelled(0, 2, [-1, 5]),
    "a vast shape": _relabelled(0, 2, [2**40, 2**40]),
    "bytes missing": _changed(lambda found: found[0].update(bytes=found[0]["bytes"][:-1])),
    "bytes too many": _changed(lambda found: found[0].update(bytes=found[0]["bytes"].repeat(2))),
    "no bytes": _changed(lambda found: found[0].update(bytes=found[0]["bytes"].float())),
    "many for few": lambda blob, path: zstandard.ZstdCompressor().compress(bytes(2**26)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_result_of_this_run_is_not_taken(client, server, tmp_path, name):
    touched, path = tmp_path / "touched", tmp_path / "a.job"
    job = lr.submit(lr.logit_lens, client, PROMPTS[0], path=path)
    assert job.status().state == "done"
    (parcel,) = server.parcels.values()
    right, parcel.result = parcel.result, SPOILT[name](parcel.result, touched)
    error = failure(job.result)
    assert "not a whole result of this run" in error.happened
    assert "fetches it anew" in error.todo
    assert not touched.exists()
    assert "arrived" not in path.read_text()
    parcel.result = right
    assert job.result().certificate.passed
    assert (server.posts, parcel.runs) == (1, 1)


def test_a_small_answer_that_would_fill_the_memory_is_not_unpacked(client, server, monkeypatch):
    job = lr.submit(lr.logit_lens, client, PROMPTS[0])
    job.status()
    (parcel,) = server.parcels.values()
    parcel.result = zstandard.ZstdCompressor().compress(bytes(2**26))
    assert len(parcel.result) < 2**16
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    assert "not a whole result" in failure(job.result).happened


def test_the_result_of_another_run_is_not_taken(client, server):
    """Not even where it has the same shape."""
    one, other = (lr.submit(lr.logit_lens, client, ids) for ids in ([7, 8, 9], [7, 8, 10]))
    other.status()
    one.status()
    first, second = server.parcels
    server.parcels[first].result = server.parcels[second].result
    assert "not a whole result of this run" in failure(one.result).happened
    assert other.result().certificate.passed


def test_a_state_that_is_said_of_another_job_is_not_believed(client, server):
    one, other = (lr.submit(lr.logit_lens, client, PROMPTS[0]) for _ in range(2))
    second = [*server.parcels][1]
    other.status()
    server.script("response", lambda exchange: exchange.say(server.parcels[second].last))
    assert "answered for another" in failure(one.result).happened


COSTS = [
    (None, 0, 0),
    ({"runtime": 1.5, "max_memory_usage": 7, "max_mem_by_gpu": {"0": 7}}, 1.5, 7),
    ({"runtime": None}, 0, 0),
    ({"runtime": "long", "max_memory_usage": [1]}, 0, 0),
]


@pytest.mark.parametrize(("meta", "seconds", "memory"), COSTS)
def test_what_a_server_says_that_it_took_is_kept_if_it_is_a_number(
    client, server, tmp_path, meta, seconds, memory
):
    path = tmp_path / "a.job"
    job = lr.submit(lr.logit_lens, client, PROMPTS, path=path)
    job.status()
    (parcel,) = server.parcels.values()
    parcel.last = parcel.last.model_copy(update={"meta": meta})
    for one in (
        lr.Job.load(path, client),
        lr.Job.load(path, client),
    ):  # as it comes, and out of the file
        record = one.result().provenance["jobs"]
        assert (record["server_seconds"], record["server_bytes"]) == (seconds, memory)


@pytest.mark.parametrize("data", [None, "", "ftp://host/x", 7])
def test_a_result_that_is_nowhere(client, server, clock, data):
    server.always("response", reports(Status.COMPLETED, "Done.", data))
    error = failure(lambda: lr.logit_lens(client, PROMPTS))
    assert "not where its result is" in error.happened
    assert not clock.slept


# -- many prompts ------------------------------------------------------


def test_a_run_goes_on_where_a_job_failed(client, server, llama, once):
    server.script("response", loopback.ordinary, reports(Status.ERROR, "Replica was evicted."))
    error = failure(lambda: lr.logit_lens(client, MANY))
    assert error.job.status().done == 4
    assert_same(error.job.result(), partial(lr.logit_lens, llama, MANY))
    assert set(times_read(server).values()) == {1}
    assert server.posts == len(MANY) + 1


@pytest.mark.parametrize(
    ("fault", "state"),
    [(says(413), "not sent"), (says(500), "sending"), (loopback.accepts_and_hangs_up, "sending")],
    ids=["413", "500", "cut"],
)
@pytest.mark.parametrize("again", ["here", "from its file"])
def test_a_run_goes_on_where_sending_ended(
    client, server, llama, once, tmp_path, fault, state, again
):
    path = tmp_path / "a.job"
    server.script("request", loopback.ordinary, loopback.ordinary, fault)
    job = failure(lambda: lr.submit(lr.logit_lens, client, MANY, path=path)).job
    assert server.posts == 3
    job = job if again == "here" else lr.Job.load(path, client)
    assert str(job.status()) == f"{state}, 2 of 5 jobs done"
    if state == "sending":  # what may have been accepted is sent again only if that is said
        error = failure(job.result)
        assert "may have accepted it without this process knowing" in error.happened
        assert error.may_finish
        assert "job.send(again=True)" in error.todo
        assert server.posts == 3
        job.send(again=True)
    assert_same(job.result(), partial(lr.logit_lens, llama, MANY))
    assert set(times_read(server).values()) == {1}
    assert server.posts == len(MANY) + 1


@pytest.mark.parametrize("how", [KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("again", ["here", "from its file"])
def test_a_run_goes_on_where_the_client_ended(
    client, server, llama, once, tmp_path, monkeypatch, how, again
):
    fetch, path, fetched = Server.fetch, tmp_path / "a.job", []

    def dies(self, *args):
        if len(fetched) == 2:
            raise how
        fetched.append(args)
        return fetch(self, *args)

    job = lr.submit(lr.logit_lens, client, MANY, path=path)
    with monkeypatch.context() as patch:
        patch.setattr(Server, "fetch", dies)
        with pytest.raises(how):
            job.result()
    if again == "from its file":
        job = lr.Job.load(path, client)
        assert job.status().done >= 2
    assert_same(job.result(), partial(lr.logit_lens, llama, MANY))
    assert set(times_read(server).values()) == {1}
    assert server.posts == len(server.asked("store")) == len(MANY)


def test_a_run_goes_on_from_a_file_whose_process_died_while_it_sent(
    client, server, llama, once, tmp_path, monkeypatch
):
    path, submit = tmp_path / "a.job", Server.submit

    def dies(self, *args):
        if server.posts == 3:
            raise KeyboardInterrupt
        return submit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Server, "submit", dies)
        with pytest.raises(KeyboardInterrupt):
            lr.submit(lr.logit_lens, client, MANY, path=path)
    job = lr.Job.load(path, client)
    assert "part 3 was being sent" in failure(job.result).happened
    assert_same(job.send(again=True).result(), partial(lr.logit_lens, llama, MANY))
    assert set(times_read(server).values()) == {1}
    assert server.posts == len(MANY)


def test_a_run_goes_on_in_another_process(client, server, llama, hub, once, tmp_path):
    path, out = tmp_path / "a.job", tmp_path / "out.npz"
    lr.submit(lr.logit_lens, client, MANY, layers=slice(1, None), path=path)
    server.script(
        "response", *[loopback.ordinary] * 2, reports(Status.ERROR, "Replica was evicted.")
    )
    failure(lr.Job.load(path, client).result)
    code = (
        "import sys, nnsight.modeling.huggingface as hf, lens_recipes as lr\n"
        f"hf._ID_CACHE[{REPO!r}] = {REPO!r}\n"
        "lr.Job.load(sys.argv[1]).result().save(sys.argv[2])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path), str(out)],
        env=loopback.environment(hub),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert_same(lr.LensResult.load(out), partial(lr.logit_lens, llama, MANY, layers=slice(1, None)))
    assert set(times_read(server).values()) == {1}
    assert server.posts == len(MANY) + 1


# -- the file ----------------------------------------------------------


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_file_tells_what_happened_in_lines_of_json_and_no_key(
    client, server, once, tmp_path, monkeypatch
):
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    path = tmp_path / "a.job"
    job = lr.submit(lr.logit_lens, client, MANY[:3], path=path)
    server.script(
        "response", loopback.ordinary, reports(Status.ERROR, f"Your key {KEY} is of no use.")
    )
    error = failure(job.result)
    header, *events = lines_of(path)
    assert (header["format"], header["version"]) == ("lens-recipes/job", 1)
    assert (header["model"], header["host"], header["recipe"]) == (REPO, server.url, "logit_lens")
    happened = [
        next(word for word in ("sending", "id", "arrived", "failed") if word in event)
        for event in events
    ]
    assert happened == [*["sending", "id"] * 3, "arrived", "failed"]
    provenance = job.result().provenance
    job.save(tmp_path / "again.job")
    saved = job.result().save(tmp_path / "result.json")
    texts = [file.read_text() for file in tmp_path.iterdir()]
    texts += [
        repr(job),
        str(job.status()),
        str(saved),
        json.dumps(provenance),
        *traceback.format_exception(error),
    ]
    assert KEY not in "".join(texts)
    assert any(seen.headers.get("ndif-api-key") == KEY for seen in server.seen)
    assert not [seen for seen in server.asked("store") if "ndif-api-key" in seen.headers]


def told(path: Path) -> set[str]:
    """What a job's file says of what is not over: that a part was being sent is told by its id, too."""
    return {str(line) for line in lines_of(path) if "sending" not in line}


def test_a_line_that_was_torn_never_happened(client, server, llama, once, tmp_path):
    path, torn = tmp_path / "a.job", tmp_path / "torn.job"
    lr.submit(lr.logit_lens, client, MANY[:2], path=path).result()
    here, whole = partial(lr.logit_lens, llama, MANY[:2]), path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in (last, last + 1, (last + len(whole)) // 2, len(whole) - 2):
        torn.write_bytes(whole[:end])
        job = lr.Job.load(torn, client)
        assert told(torn) == told(path) - {str(lines_of(path)[-1])}
        assert_same(job.result(), here)
        assert told(torn) == told(path)
    assert server.posts == 2


def test_a_line_that_was_torn_does_not_take_the_next_one_with_it(
    client, server, llama, once, tmp_path
):
    """A disk that was full for a moment."""
    path = tmp_path / "a.job"
    job = lr.submit(lr.logit_lens, client, MANY[:2], path=path)
    with path.open("a") as file:
        file.write('{"part": 0, "arri')
    job.result()
    fetched = len(server.asked("store"))
    assert_same(lr.Job.load(path, client).result(), partial(lr.logit_lens, llama, MANY[:2]))
    assert len(server.asked("store")) == fetched == 2


def test_a_job_that_was_just_begun_is_sent(client, server, tmp_path):
    path = tmp_path / "a.job"
    jobs.Job(lr.logit_lens.prepare(client, PROMPTS)).save(path)
    assert not server.seen
    job = lr.Job.load(path, client)
    assert str(job.status()) == "not sent, 0 of 1 jobs done"
    assert job.send() is job
    assert job.send().result().certificate.passed
    assert server.posts == 1


def test_a_result_in_the_file_that_was_spoilt_is_fetched_anew(client, server, llama, tmp_path):
    path = tmp_path / "a.job"
    lr.submit(lr.logit_lens, client, PROMPTS, path=path).result()
    lines = lines_of(path)
    lines[-1]["arrived"] = "AAAA" + lines[-1]["arrived"][4:]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = lr.Job.load(path, client)
    error = failure(job.result)
    assert "not a whole result of this run" in error.happened
    assert_same(error.job.result(), partial(lr.logit_lens, llama, PROMPTS))
    assert server.posts == 1


def altered(path: Path, **values) -> None:
    """The same file with another header."""
    header, *events = lines_of(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in [{**header, **values}, *events]))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"version": 2}, "of version 2"),
        ({"format": "lens-recipes/result"}, "lens-recipes/result"),
        ({"recipe": "load"}, "'load', which is no recipe"),
        (
            {"recipe": "attribution"},
            "is not possible with this model and version of this package: attribution() got",
        ),
        ({"arguments": {"prompts": [[7, 8, 9]]}}, "of another model, tokenizer"),
        (
            {"arguments": {"prompts": [[7, 8, 999]]}},
            "is not possible with this model and version of this package",
        ),
        ({"fingerprint": "0"}, "of another model, tokenizer"),
        ({"parts": [[0, 9]]}, None),
        ({"parts": "x"}, None),
        ({"host": None}, "its 'host' is of type NoneType"),
        ({"host": "None"}, "'None' is no address of a server"),
    ],
)
def test_a_file_of_something_else_is_refused(client, server, tmp_path, values, match):
    path = tmp_path / "a.job"
    lr.submit(lr.logit_lens, client, PROMPTS, path=path)
    altered(path, **values)
    before = path.read_bytes()
    error = failure(lambda: lr.Job.load(path, client), lr.LensError)
    assert (match or "is not a job's file") in str(error)
    assert str(path) in str(error) or "host" in values
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"{}",
        b"[1]\n",
        b"null\n",
        b"\xff\xfe\n",
        b"PK\x03\x04",
        b'{"format": "lens-recipes/job"}\n',
    ],
)
def test_a_file_that_is_no_job(client, tmp_path, content):
    path = tmp_path / "a.job"
    path.write_bytes(content)
    with pytest.raises(lr.LensError, match="is not a job's file"):
        lr.Job.load(path, client)


def test_a_file_with_a_line_that_is_none_of_its_lines(client, server, tmp_path):
    path = tmp_path / "a.job"
    lr.submit(lr.logit_lens, client, PROMPTS, path=path)
    whole = path.read_text()
    for line in ("3", '{"part": 7, "id": "x", "bytes_up": 1}', '{"part": 0, "arrived": 7}', "[]"):
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(lr.LensError, match="is not a job's file"):
            lr.Job.load(path, client)


def test_a_file_that_is_not_there_or_cannot_be_read(client, tmp_path):
    with pytest.raises(lr.LensError, match="there is no file"):
        lr.Job.load(tmp_path / "none.job", client)
    with pytest.raises(lr.LensError, match="is no plain file but a folder"):
        lr.Job.load(tmp_path, client)


def unsent(client, server, path):
    """The file of a job that the server refused for the time being."""
    server.script("request", says(400, b"{}"))
    with pytest.raises(lr.RemoteLensError):
        lr.submit(lr.logit_lens, client, PROMPTS, path=path)
    server.seen.clear()
    return path


def test_of_two_processes_with_one_unsent_file_one_sends(client, server, tmp_path):
    path = unsent(client, server, tmp_path / "a.job")
    one, other = lr.Job.load(path, client), lr.Job.load(path, client)
    one.send()
    other.send()
    assert server.posts == 1
    assert repr(one) == repr(other)
    assert (one.result().top_ids == other.result().top_ids).all()
    assert [parcel.runs for parcel in server.parcels.values()] == [1]


def test_what_another_process_notes_is_not_lost_by_a_load(client, server, tmp_path):
    """A load writes the file anew: what happened since it was read has to be in it."""
    path = unsent(client, server, tmp_path / "a.job")
    one = lr.Job.load(path, client)
    prepare = restore.RECIPES["logit_lens"].prepare

    def meanwhile(*args, **kwargs):
        one.send()
        return prepare(*args, **kwargs)

    recipe = dataclasses.replace(restore.RECIPES["logit_lens"], prepare=meanwhile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(restore.RECIPES, "logit_lens", recipe)
        other = lr.Job.load(path, client)
    assert repr(one) == repr(other)
    other.send()
    assert server.posts == 1


def test_a_file_beside_which_nothing_can_be_written_is_told(client, server, tmp_path, monkeypatch):
    def closed(lock, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(job_file.FileLock, "acquire", closed)
    with pytest.raises(lr.LensError, match=r"cannot write beside .*Permission denied"):
        lr.submit(lr.logit_lens, client, PROMPTS, path=tmp_path / "a.job")
    assert not server.seen


def test_a_job_cannot_be_kept_where_there_is_no_folder(client, server, tmp_path):
    with pytest.raises(lr.LensError, match="cannot write"):
        lr.submit(lr.logit_lens, client, PROMPTS, path=tmp_path / "none" / "a.job")
    assert not server.seen


def test_a_job_of_another_model_is_refused(client, server, tmp_path, other_server, hub):
    path, checkpoint = tmp_path / "a.job", tmp_path / "other"
    lr.submit(lr.logit_lens, client, PROMPTS, path=path)
    tiny.save(tiny.llama(tiny.STRING_VOCAB, 3), checkpoint)
    loopback.lay_out(tmp_path / "hub", REPO, checkpoint)
    with loopback.hub_at(tmp_path / "hub"):
        other = lr.load(REPO, remote=server.url)
        with pytest.raises(lr.LensError, match="another model, tokenizer"):
            lr.Job.load(path, other)
        with pytest.raises(lr.LensError, match="another model, tokenizer"):
            lr.Job.load(path)


ARGUMENTS = [
    (lr.logit_lens, {"layers": slice(1, 3)}),
    (lr.logit_lens, {"layers": slice(None, None, 2), "positions": slice(-2, None)}),
    (lr.logit_lens, {"positions": [slice(0, 2), None]}),
    (lr.logit_lens, {"positions": [[0, 1], slice(None, 3)], "targets": [[260], [261]]}),
    (lr.logit_lens, {"components": ("head_out", "resid_post"), "heads": slice(1, 3)}),
    (lr.logit_lens, {"components": "head_out", "heads": [(0, 1), (3, 2)]}),
    (lr.logit_lens, {"targets": np.array([260, 261]), "layers": np.int64(2), "track": None}),
    (lr.logit_lens, {"layers": range(0, 4, 2), "positions": torch.tensor([0, 1])}),
    (lr.attribution, {"targets": [[260], [261]], "against": [270, 271], "positions": slice(0, 2)}),
    (lr.attribution, {"targets": 260, "against": "mean", "unit": "head", "at_layer": -2}),
    (
        lr.generate_lens,
        {"max_new_tokens": 2, "generation_config": {"repetition_penalty": 1.2}, "layers": slice(2)},
    ),
    (
        lr.generate_lens,
        {"max_new_tokens": 3, "top_p": 0.9, "seed": 1, "stop": ["e", "th"], "include_prompt": True},
    ),
]


@pytest.mark.parametrize(("recipe", "options"), ARGUMENTS)
def test_arguments_survive_the_file(client, server, tmp_path, recipe, options):
    path = tmp_path / "a.job"
    run = recipe.prepare(client, PROMPTS, **options)
    jobs.Job(run).save(path)
    again = lr.Job.load(path, client)._run
    assert fingerprint(again) == fingerprint(run)
    assert again.recipe == run.recipe


def test_what_json_does_not_hold_is_refused_before_anything_is_sent(client, server, tmp_path):
    run = lr.generate_lens.prepare(client, PROMPTS, max_new_tokens=2)
    run.arguments["stop"] = object()
    with pytest.raises(lr.LensError, match="cannot be kept in a file, which holds JSON"):
        jobs.Job(run).save(tmp_path / "a.job")
    assert not server.seen
    assert not [*tmp_path.iterdir()]


def test_a_result_of_settings_that_json_does_not_hold_is_saved_all_the_same(
    client, server, tmp_path
):
    there = RECIPES["biased"](client)
    assert there.provenance["arguments"]["generation_config"] == {"sequence_bias": [[[260], 9.0]]}
    there.save(tmp_path / "a.json")
    assert (
        lr.LensResult.load(tmp_path / "a.json").provenance["arguments"]
        == there.provenance["arguments"]
    )


def test_a_file_stays_where_it_is_when_the_process_goes_elsewhere(
    client, server, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    job = lr.submit(lr.logit_lens, client, PROMPTS, path="a.job")
    monkeypatch.chdir(tmp_path / "there")
    job.result()
    assert "arrived" in (tmp_path / "here" / "a.job").read_text()
    assert not [*(tmp_path / "there").iterdir()]


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_text("")], ids=["deleted", "emptied"]
)
def test_a_file_that_is_cleared_away_is_written_again(client, server, once, tmp_path, spoil):
    path = tmp_path / "a.job"
    job = lr.submit(lr.logit_lens, client, MANY[:2], path=path)
    spoil(path)
    assert job.result().certificate.passed
    assert lr.Job.load(path, client).status().state == "done"
    assert server.posts == len(server.asked("store")) == 2


# -- whom a file may name ----------------------------------------------


def test_a_file_does_not_make_a_stranger_of_the_host_that_gets_the_key(
    client, server, tmp_path, monkeypatch
):
    path, host = tmp_path / "a.job", "https://ndif.example.org"
    jobs.Job(lr.logit_lens.prepare(client, PROMPTS, remote=host)).save(path)
    assert lr.Job.load(path, client)  # without a key there is none to lose
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    for given in (None, client):
        error = failure(lambda given=given: lr.Job.load(path, given), lr.LensError)
        assert f"on {host}, a server that you have not named" in str(error)
        assert f"remote='{host}'" in str(error)
        assert KEY not in str(error)
    assert lr.Job.load(path, lr.load(client, remote=host))
    lr.load(client, remote=server.url)
    monkeypatch.setenv("NDIF_HOST", host)
    assert lr.Job.load(path)
    altered(path, host="http://ndif.example.org")
    with pytest.raises(lr.LensError, match="a server that you have not named"):
        lr.Job.load(path, client)
    monkeypatch.setenv("NDIF_HOST", "http://ndif.example.org")
    with pytest.raises(lr.RemoteLensError, match="plain http to another machine"):
        lr.Job.load(path, client)


def test_the_answer_of_a_server_is_read_as_json():
    """As NDIF sends it to those who ask by an id: a pickled answer comes only over a websocket, which is not used."""
    said = ResponseModel(id="a", status=Status.COMPLETED, data="http://h/x")
    assert ResponseModel.model_validate_json(said.model_dump_json()) == said


# -- lenses ------------------------------------------------------------


def test_a_job_goes_on_with_its_lens(client, server, llama, tmp_path):
    random_lens(llama).save(tmp_path / "lens.safetensors")
    lens = tmp_path / "lens.safetensors"
    path = tmp_path / "a.job"
    there = lr.submit(lr.logit_lens, client, PROMPTS, lens=lens, path=path).result()
    again = lr.Job.load(path, client).result()
    here = lr.logit_lens(llama, PROMPTS, lens=lr.load_lens(lens))
    np.testing.assert_allclose(there.top_logprobs, here.top_logprobs, atol=2e-3)
    assert there.lens == again.lens == here.lens
    assert str(tmp_path) not in json.dumps(there.provenance)


def test_a_job_goes_on_with_a_lens_that_was_fitted_into_a_file(client, server, llama, tmp_path):
    rows = tiny.random_ids(batch=40, length=20, seed=0).tolist()
    lens = lr.fit_lens(llama, rows, path=tmp_path / "fit.safetensors", quality_tokens=0)
    path = tmp_path / "a.job"
    there = lr.submit(lr.logit_lens, client, PROMPTS, lens=lens, path=path).result()
    assert lr.Job.load(path, client).result().lens == there.lens


def test_a_job_whose_lens_was_changed_is_not_resumed(client, server, llama, tmp_path):
    random_lens(llama).save(tmp_path / "lens.safetensors")
    path = tmp_path / "a.job"
    lr.submit(lr.logit_lens, client, PROMPTS, lens=tmp_path / "lens.safetensors", path=path)
    random_lens(llama, seed=1).save(tmp_path / "lens.safetensors")
    with pytest.raises(lr.LensError, match="is not the one of this run: its digest is"):
        lr.Job.load(path, client)
    (tmp_path / "lens.safetensors").unlink()
    with pytest.raises(lr.LensError, match="is not there: pass it"):
        lr.Job.load(path, client)


def test_a_lens_in_memory_cannot_outlive_its_process(client, llama, tmp_path):
    with pytest.raises(lr.LensError, match="in memory alone"):
        lr.submit(lr.logit_lens, client, PROMPTS, lens=random_lens(llama), path=tmp_path / "a.job")
