"""Every fault of a server says what happened, whether the job may still finish, and what to do; no key is told."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from functools import partial

import httpx
import loopback
import pytest
from loopback import KEY, Loopback, breaks_off, hangs_up, hangs_up_after_reading, says
from nnsight.schema.response import Status

import lens_recipes as lr
from lens_recipes.run.remote.http import settings
from lens_recipes.run.remote.server import Server

pytest_plugins = ["loopback"]

BUSY = [429, 503]
BROKEN = [500, 502, 504]
MOST = 2**20
CUTS = [hangs_up, hangs_up_after_reading, loopback.accepts_and_hangs_up]


@pytest.fixture
def another():
    """A second server, that nobody has named."""
    with Loopback(None) as other:
        yield other


@pytest.fixture
def down(server):
    """That server, switched off until the test is over, or until it says otherwise."""
    server.close()
    yield server
    if not server.is_open:
        server.open()


@pytest.fixture
def key(server, monkeypatch):
    """A key in the environment."""
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    return KEY


def send(server: Loopback, blob: bytes = b"a block") -> str:
    return Server(server.url).submit("a model", {"a": "setting"}, blob)


def refused(call) -> lr.RemoteLensError:
    with pytest.raises(lr.RemoteLensError) as caught:
        call()
    return caught.value


# -- sending -----------------------------------------------------------


def test_a_job_arrives_whole_and_says_who_sends_it(server):
    blob = os.urandom(100_000)
    job = send(server, blob)
    parcel = server.parcels[job]
    assert parcel.blob == blob
    assert (parcel.request.model_key, parcel.request.env, parcel.request.compress) == (
        "a model",
        {"a": "setting"},
        True,
    )
    headers = server.seen[0].headers
    assert headers["nnsight-version"]
    assert headers["python-version"]
    assert float(headers["ndif-timestamp"]) > 1e9
    assert "ndif-api-key" not in headers


@pytest.mark.parametrize("status", BUSY)
def test_a_busy_server_is_asked_again(server, clock, status):
    server.script("request", says(status, {"detail": "later"}, Retry_After="7"), says(status))
    job = send(server)
    assert server.posts == 3
    assert [*server.parcels] == [job]
    assert clock.slept[0] >= 7 > clock.slept[1] > 0


@pytest.mark.parametrize("status", BUSY)
@pytest.mark.parametrize("after", ["1000000000", "inf", "nan", "-3", "soon"])
def test_a_server_that_stays_busy_is_asked_for_a_time(server, clock, settings, status, after):
    settings(patience_s=5.0)
    server.always("request", says(status, {"detail": "Too many jobs."}, Retry_After=after))
    error = refused(lambda: send(server))
    assert server.posts >= (
        1 if after in ("1000000000", "inf") else 3
    )  # what asks for too long is believed
    assert sum(clock.slept) <= 5.0
    assert f"answered {status}: Too many jobs. It has no room" in error.happened
    assert not error.may_finish
    assert error.todo == "Run it again later."


def test_a_server_that_is_down_is_tried_again(down, clock):
    clock.events = [lambda: None, down.open]
    job = send(down)
    assert [*down.parcels] == [job]
    assert down.posts == 1
    assert len(clock.slept) == 2


def test_a_server_that_stays_down_is_tried_for_a_time(down, clock, settings):
    settings(patience_s=5.0)
    error = refused(lambda: send(down))
    assert 1 <= sum(clock.slept) <= 5
    assert f"{down.url} cannot be reached" in error.happened
    assert "refused" in error.happened
    assert not error.may_finish
    assert "doctor --remote" in error.todo


@pytest.mark.parametrize("fault", CUTS)
def test_a_job_that_may_have_been_accepted_is_not_sent_twice(server, clock, fault):
    server.script("request", fault)
    error = refused(lambda: send(server, os.urandom(8_000_000)))
    assert server.posts == 1
    assert not clock.slept
    assert error.may_finish
    assert "broke off" in error.happened
    assert "may still finish" in str(error)
    assert "not sent again by itself" in error.todo


@pytest.mark.parametrize("status", BROKEN)
def test_a_server_that_broke_over_a_job_is_not_sent_it_again(server, clock, status):
    server.always("request", says(status, {"detail": "Internal server error."}))
    error = refused(lambda: send(server))
    assert server.posts == 1
    assert error.may_finish
    assert f"answered {status}: Internal server error." in error.happened
    assert "not sent a second time" in error.todo


NOT_VALID = "Missing or invalid API key. Please visit https://login.ndif.us/ to create a new one."
FORMAT = "Invalid API key format: 'x'. API keys must be in the format: xxxxxxxx."
OLD = "Client nnsight version 0.5.0 is below the minimum supported 0.8.0. Please `pip install --upgrade nnsight`."


@pytest.mark.parametrize(
    ("status", "detail", "happened", "todo"),
    [
        (401, NOT_VALID, "It wants a valid API key, and no key is set", "NDIF_API_KEY"),
        (403, "Invalid API key.", "It wants a valid API key, and no key is set", "NDIF_API_KEY"),
        (400, FORMAT, "It wants a valid API key, and no key is set", "NDIF_API_KEY"),
        (
            400,
            OLD,
            "0.5.0 is below the minimum supported 0.8.0",
            "Install what the server asks for",
        ),
        (413, "Body too long", "too large", "fewer prompts"),
        (422, [{"loc": ["data"]}], "answered 422: [{'loc': ['data']}]", "doctor --remote"),
        (404, "Not Found", "answered 404: Not Found", "doctor --remote"),
        (418, "a\n  teapot", "answered 418: a teapot", "doctor --remote"),
    ],
)
def test_what_is_refused_is_not_asked_again(server, clock, status, detail, happened, todo):
    server.always("request", says(status, {"detail": detail}))
    error = refused(lambda: send(server))
    assert (server.posts, clock.slept) == (1, [])
    assert happened in error.happened
    assert todo in error.todo
    assert not error.may_finish


def test_a_key_that_is_not_accepted_is_said_to_be_there(server, key):
    server.always("request", says(403, {"detail": "Invalid API key."}))
    assert "the key that is set was not accepted" in refused(lambda: send(server)).happened


@pytest.mark.parametrize(
    "body", [b"<HTML><body>" + b"x" * 9000, b"", b"plain words\nand more", b"\xff\xfe" * 4000]
)
def test_a_refusal_is_one_short_line(server, body):
    server.always("request", says(418, body))
    text = str(refused(lambda: send(server)))
    assert len(text) < 700
    assert "\n" not in text
    assert "<" not in text


# -- asking ------------------------------------------------------------


def asking(server: Loopback) -> dict:
    """What only asks, by the route that it asks."""
    return {
        "response": partial(Server(server.url).state, "job"),
        "status": partial(Server(server.url).ask, "/status"),
        "store": partial(Server(server.url).fetch, f"{server.url}/store/job", MOST),
    }


@pytest.mark.parametrize("route", ["response", "status", "store"])
@pytest.mark.parametrize(
    "fault", [*map(says, BUSY + BROKEN), hangs_up], ids=[*map(str, BUSY + BROKEN), "cut"]
)
def test_a_question_is_asked_again(server, clock, settings, route, fault):
    server.script(
        route,
        fault,
        fault,
        loopback.reports(Status.QUEUED) if route == "response" else says(200, b"7"),
    )
    answer = asking(server)[route]()
    assert answer == {"status": 7, "store": b"7"}.get(route, answer)
    assert len(server.asked(route)) == 3
    server.always(route, fault)
    settings(patience_s=5.0)
    before = len(server.seen)
    error = refused(asking(server)[route])
    assert len(server.seen) > before + 2
    assert sum(clock.slept) < 15
    assert error.may_finish
    assert "job.result() goes on" in error.todo
    assert (
        "the store" if route == "store" else server.url
    ) in error.happened or "answered" in error.happened


def test_a_server_that_is_down_may_still_finish_its_job(down, clock):
    error = refused(lambda: Server(down.url).state("job"))
    assert "cannot be reached" in error.happened
    assert error.may_finish
    assert "job.result() goes on" in error.todo


def test_a_job_that_nothing_is_known_of_has_no_state(server):
    assert Server(server.url).state("job") is None
    assert server.asked("response")[0].path == "/response/job"


def test_the_id_of_a_job_stays_one_part_of_the_address(server):
    assert Server(server.url).state("../status?x=/#") is None
    assert server.seen[0].path == "/response/..%2Fstatus%3Fx%3D%2F%23"


STRANGE = [
    b"<html>Hello, this is a router.</html>",
    b"{}",
    b"[1, 2]",
    b'{"id": 3, "status": "COMPLETED"}',
    b"",
]


@pytest.mark.parametrize("body", STRANGE)
def test_what_is_no_answer_of_an_ndif_server_is_said_so(server, clock, body):
    server.always("request", says(200, body))
    server.always("response", says(200, body))
    for call in (lambda: send(server), asking(server)["response"]):
        error = refused(call)
        assert "something that NDIF servers do not say" in error.happened
        assert "address" in error.todo
    assert server.posts == 1
    assert not clock.slept


def test_a_question_whose_answer_is_no_json(server):
    server.always("status", says(200, STRANGE[0]))
    assert "NDIF servers do not say" in refused(asking(server)["status"]).happened


def test_a_question_that_a_server_does_not_know(server):
    assert (
        "it is no NDIF server, or an old one"
        in refused(lambda: Server(server.url).ask("/nothing")).happened
    )


def test_an_answer_for_another_job_is_none(server):
    server.always(
        "response",
        says(200, {"id": "another", "status": "COMPLETED", "data": f"{server.url}/store/x"}),
    )
    assert "answered for another" in refused(asking(server)["response"]).happened


# -- the store ---------------------------------------------------------


def accepted(server: Loopback, result: bytes) -> str:
    """Where a result is."""
    job = send(server)
    server.parcels[job].result = result
    return f"{server.url}/store/{job}"


def test_a_download_that_breaks_off_begins_again(server, clock):
    whole = os.urandom(300_000)
    url = accepted(server, whole)
    server.script("store", breaks_off, hangs_up)
    assert Server(server.url).fetch(url, MOST) == whole
    server.always("store", breaks_off)
    error = refused(lambda: Server(server.url).fetch(url, MOST))
    assert f"the connection to the store 127.0.0.1:{server.port} broke off" in error.happened
    assert "without sending complete message body" in error.happened
    assert error.may_finish


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_store_that_keeps_a_result_no_longer(server, clock, status):
    server.always("store", says(status, b"<Error><Message>Request has expired</Message></Error>"))
    assert Server(server.url).fetch(f"{server.url}/store/job", MOST) is None
    assert not clock.slept


def test_a_store_that_refuses_for_another_reason(server, clock):
    server.always("store", says(400, b"<Error/>"))
    error = refused(asking(server)["store"])
    assert "answered 400" in error.happened
    assert not clock.slept


def test_more_than_a_result_can_have_is_not_taken(server, clock):
    url = accepted(server, os.urandom(300_000))
    error = refused(lambda: Server(server.url).fetch(url, 299_999))
    assert "sends more than the 299999 bytes that its answer can have" in error.happened
    assert not clock.slept
    assert len(Server(server.url).fetch(url, 300_000)) == 300_000


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "None",
        7,
        "ftp://host/x",
        "file:///etc/passwd",
        "http://[::1",
        "http://h:99999",
        "/x",
    ],
)
def test_a_result_without_an_address(server, clock, url):
    assert (
        "not where its result is" in refused(lambda: Server(server.url).fetch(url, MOST)).happened
    )
    assert not clock.slept


def test_a_result_is_not_taken_over_plain_http_from_a_server_on_https(monkeypatch):
    monkeypatch.setattr(httpx, "Client", None)
    server = Server("https://ndif.example.org")
    error = refused(lambda: server.fetch("http://store.example.org/x", MOST))
    assert "plain http (store.example.org)" in error.happened


# -- the key -----------------------------------------------------------


def test_the_key_is_that_of_this_moment_and_the_environment_goes_first(server, monkeypatch):
    for environment, configured, sent in (
        ("", None, None),
        ("", "b", "b"),
        ("a", "b", "a"),
        (" c\n", None, "c"),
    ):
        monkeypatch.setenv("NDIF_API_KEY", environment)
        monkeypatch.setattr("nnsight.CONFIG.API.APIKEY", configured)
        send(server)
        assert server.seen[-1].headers.get("ndif-api-key") == sent


def test_the_key_goes_to_the_server_and_not_to_its_store(server, key):
    for route, ask in asking(server).items():
        server.script(
            route, loopback.reports(Status.QUEUED) if route == "response" else says(200, b"7")
        )
        ask()
    send(server)
    told = {seen.path.split("/")[1]: seen.headers.get("ndif-api-key") for seen in server.seen}
    assert told == {"response": KEY, "status": KEY, "request": KEY, "store": None}


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.7:8001",
        "http://ndif.example.org",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "http://0.0.0.0:8001",
        "HTTP://ndif.example.org/localhost",
    ],
)
def test_the_key_is_not_sent_where_others_can_listen(key, monkeypatch, url):
    monkeypatch.setattr(httpx, "Client", None)
    error = refused(lambda: Server(url))
    assert "plain http to another machine" in error.happened
    assert "https, or a tunnel" in error.todo
    assert KEY not in str(error)
    monkeypatch.delenv("NDIF_API_KEY")
    assert Server(url).host == url


@pytest.mark.parametrize(
    "url",
    ["https://ndif.example.org", "http://localhost:1", "http://127.0.0.9", "http://[::1]:8001"],
)
def test_the_key_may_go_where_nobody_listens(key, url):
    assert Server(url).host == url


def test_ndif_itself_wants_a_key(server, monkeypatch):
    monkeypatch.setattr("nnsight.CONFIG.API.HOST", settings.PUBLIC)
    error = refused(lambda: Server(True))
    assert "needs an API key, and none is set" in error.happened
    assert "login.ndif.us" in error.todo
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    assert Server(True).host == settings.PUBLIC


@pytest.mark.parametrize(
    "bad", ["schlüssel", f"{KEY}\r\nX-Other: 1", f"{KEY}\x00{KEY}", f"{KEY}\n{KEY}"]
)
def test_what_can_be_no_key_is_not_sent_and_not_shown(server, monkeypatch, bad):
    monkeypatch.setattr("nnsight.CONFIG.API.APIKEY", bad)
    error = refused(lambda: send(server))
    assert not server.seen
    assert "API key that is set is none" in error.happened
    assert KEY not in str(error)
    assert bad not in str(error)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("route", ["request", "response", "status", "store"])
def test_a_redirect_is_not_followed(server, another, key, clock, status, route):
    server.always(route, says(status, Location=f"{another.url}/{route}/job"))
    calls = {**asking(server), "request": lambda: send(server)}
    error = refused(calls[route])
    assert f"answered {status}" in error.happened
    assert not another.seen
    assert len(server.seen) == 1


def test_no_proxy_is_told_what_is_meant_for_this_machine(server, another, key, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, another.url)
    job = send(server)
    Server(server.url).state(job)
    Server(server.url).fetch(f"{server.url}/store/{job}", MOST)
    assert len(server.seen) == 3
    assert not another.seen


ECHOES = {
    "request": [
        says(400, {"detail": f"Invalid API key format: '{KEY}'."}),
        says(500, {"detail": KEY}),
        says(503, KEY.encode()),
        says(200, {"id": KEY}),
        hangs_up_after_reading,
    ],
    "response": [
        loopback.reports(Status.ERROR, f"Traceback\nError: key {KEY} is bad"),
        says(403, {"detail": KEY}),
    ],
}


@pytest.mark.parametrize(
    ("route", "fault"), [(route, fault) for route, faults in ECHOES.items() for fault in faults]
)
def test_the_key_is_shown_nowhere(server, key, clock, settings, caplog, capfd, route, fault):
    caplog.set_level(logging.DEBUG)
    settings(patience_s=1.0)
    server.always(route, fault)
    said = [repr(Server(server.url))]
    try:
        if route == "request":
            send(server)
        else:
            said.append(repr(Server(server.url).state("job")))
    except lr.RemoteLensError as error:
        said += [
            str(error),
            repr(error),
            *traceback.format_exception(error),
            repr(pickle.dumps(error)),
        ]
        said.append(str(pickle.loads(pickle.dumps(error))))
    assert any(seen.headers.get("ndif-api-key") == KEY for seen in server.seen)
    assert KEY not in "".join([*said, caplog.text, *capfd.readouterr()])


# -- addresses ---------------------------------------------------------


@pytest.mark.parametrize(
    "remote",
    [
        "", "x", "localhost:8001", "http://", "http:///path", "ftp://host", "http://[::1", "http://h:99999",
        "http://h:x", " http://h", "http://h/ ", "http://a b", "http://h\n", "http://h/?q=1", "http://h/#part", "http://h\\@k",
        "LOCAL", 3, b"http://h",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(server, remote):
    error = refused(lambda: Server(remote))
    assert "no address of a server" in error.happened
    assert "remote=True for NDIF" in error.todo


def test_a_password_in_an_address_is_refused_and_not_shown(server):
    error = refused(lambda: Server("https://me:secret@ndif.example.org"))
    assert "no address of a server" in error.happened
    assert "secret" not in str(error)


def test_the_address_of_ndif_is_that_of_this_moment(server, monkeypatch):
    monkeypatch.setattr("nnsight.CONFIG.API.HOST", "https://one.example.org")
    assert Server(True).host == "https://one.example.org"
    monkeypatch.setenv("NDIF_HOST", "https://two.example.org/api/")
    assert Server(True).host == "https://two.example.org/api"
    assert Server("https://three.example.org").host == "https://three.example.org"


def test_a_slow_server_is_given_the_time_that_is_set(server, settings, monkeypatch):
    given, client = [], httpx.Client

    def noted(**options):
        given.append(options["timeout"])
        return client(**options)

    monkeypatch.setattr(httpx, "Client", noted)
    settings(read_s=30.0, connect_s=2.0)
    send(server)
    Server(server.url).fetch(f"{server.url}/store/{next(iter(server.parcels))}", MOST)
    assert given == [httpx.Timeout(30.0, connect=2.0)] * 2
