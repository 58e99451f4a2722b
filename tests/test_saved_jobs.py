"""A job's file that an earlier commit wrote goes on today: it is loaded, asked for, sent anew.

Version 1 of the format is frozen, and with it the fingerprint of a run and the digest of each
batch, which a server sends back. `submit(…, path=…).result()` wrote the files in tests/data at
commit f7764eb, through a `Loopback` on port 8001, with the model and the arguments below.
`logit_lens.job` was sent as two jobs, of which one failed at first.

A fingerprint also holds the version of this package and nnsight's key of the model. It holds
neither host nor port, nor any number that a model computed.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import stat
from functools import partial
from pathlib import Path

import pytest
from loopback import REPO, Parcel
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from test_jobs import assert_same

import lens_recipes as lr
from lens_recipes.run.remote.jobs.job import Job

pytest_plugins = ["loopback"]

DATA = Path(__file__).parent / "data"
PROMPTS = ["one prompt", "and another, longer one"]
VECTORS = [
    [round(((37 * row + 11 * column) % 29 - 14) / 7, 3) for column in range(32)] for row in (1, 2)
]
RECIPES = {
    "logit_lens": partial(
        lr.logit_lens,
        prompts=PROMPTS,
        layers=slice(1, None),
        components=("resid_pre", "attn_out", "resid_post"),
        positions=[slice(-2, None), -1],
        targets=[[260], [261]],
        top_k=3,
    ),
    "attribution": partial(
        lr.attribution,
        prompts=PROMPTS,
        targets=[260, 261],
        against=270,
        unit="component",
        at_layer=-2,
    ),
    "generate_lens": partial(
        lr.generate_lens,
        prompts=["one prompt", "A model reads"],
        max_new_tokens=3,
        do_sample=False,
        targets=[260],
        layers=[0, -1],
    ),
    "decode_vectors": partial(lr.decode_vectors, vectors=VECTORS, names=["a", "b"], targets=[260]),
}


@pytest.fixture(autouse=True)
def version(monkeypatch):
    """The version of this package that wrote the files: another one refuses them, as it should."""
    installed = importlib.metadata.version

    def version_then(package: str) -> str:
        return "0.1.0" if package == "lens-recipes" else installed(package)

    monkeypatch.setattr(importlib.metadata, "version", version_then)


def lines_of(path: Path) -> list[dict]:
    """Return the header and the events of a job's file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def saved(name: str) -> list[dict]:
    """Return the header and the events of the file that was written then."""
    return lines_of(DATA / f"{name}.job")


def write(path: Path, server, header: dict, events: list[dict]) -> Path:
    """Write a job's file whose server is the one of this test."""
    lines = [{**header, "host": server.url}, *events]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_what_has_arrived_is_not_asked_for_again(client, server, llama, tmp_path, name):
    header, *events = saved(name)
    job = lr.Job.load(write(tmp_path / "a.job", server, header, events), client)
    assert job.status().state == "done"
    result = job.result()
    assert_same(result, partial(RECIPES[name], llama))
    record = result.provenance["jobs"]
    assert record["jobs"] == len(header["parts"])
    assert record["server_seconds"] == (1.5 if name == "attribution" else 0)
    assert not server.seen


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_server_has_accepted_is_fetched(client, server, llama, tmp_path, name):
    """The digests that come back are those of the batches as they are prepared today."""
    header, *events = saved(name)
    path = write(
        tmp_path / "a.job", server, header, [event for event in events if "arrived" not in event]
    )
    job = lr.Job.load(path, client)
    ids = {event["part"]: event["id"] for event in events if "id" in event}
    arrived = {event["part"]: event["arrived"] for event in events if "arrived" in event}
    for part, number in ids.items():
        server.parcels[number] = parcel_of(server, number, arrived[part])
    assert_same(job.result(), partial(RECIPES[name], llama))
    assert server.posts == 0
    assert [event["arrived"] for event in lines_of(path) if "arrived" in event] == [
        arrived[part] for part in sorted(arrived)
    ]


def parcel_of(server, number: str, arrived: str) -> Parcel:
    """Return a job that is over, with the result that a file held."""
    done = ResponseModel(
        id=number, status=Status.COMPLETED, description="", data=f"{server.url}/store/{number}"
    )
    request = RequestModel(model_key=REPO, compress=True, env={})
    return Parcel(request, b"", last=done, result=base64.b64decode(arrived))


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_never_sent_is_sent(client, server, llama, tmp_path, name):
    header = saved(name)[0]
    job = lr.Job.load(write(tmp_path / "a.job", server, header, []), client)
    assert job.status().state == "not sent"
    assert_same(job.result(), partial(RECIPES[name], llama))
    assert server.posts == len(header["parts"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_of_today_is_the_one_of_then(client, name, settings, tmp_path):
    """But for the versions of other packages."""
    header = saved(name)[0]
    settings(tokens_per_job=1 if len(header["parts"]) > 1 else 16384)
    model = lr.load(client, remote=header["host"])
    Job(RECIPES[name].func.prepare(model, **RECIPES[name].keywords)).save(tmp_path / "a.job")
    (today,) = lines_of(tmp_path / "a.job")
    assert [*today] == [*header]
    assert {**today, "versions": None} == {**header, "versions": None}
    assert [*today["versions"]] == [*header["versions"]]


@pytest.mark.parametrize("name", RECIPES)
def test_the_events_of_today_are_those_of_then(client, server, name, tmp_path):
    """Loading writes the file anew, without what was overtaken: what was being sent, or failed."""
    header, *events = saved(name)
    path = write(tmp_path / "a.job", server, header, events)
    lr.Job.load(path, client)
    _, *today = lines_of(path)
    ids = {event["part"]: event for event in events if "id" in event}
    arrived = {event["part"]: event for event in events if "arrived" in event}
    assert today == [event for part in sorted(ids) for event in (ids[part], arrived[part])]


def test_a_private_file_stays_private(client, server, tmp_path):
    """Loading alone writes the file anew: it holds prompts, and nobody else was to read them."""
    header, *events = saved("decode_vectors")
    path = write(tmp_path / "a.job", server, header, events)
    path.chmod(0o600)
    job = lr.Job.load(path, client)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    job.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
