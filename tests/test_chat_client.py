"""The chat client over real HTTP, against a server on 127.0.0.1 that misbehaves. Waiting is recorded, not done."""

import base64
import email.utils
import gzip
import io
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from chat_server import ChatServer, Handler, serving
from PIL import Image

from granulon.chat_client import (
    TOKENS_PER_IMAGE,
    AttemptFailed,
    Budget,
    ChatEndpoint,
    NotStarted,
    Price,
    RunStopped,
    estimate_input,
    image_part,
    read_json,
    retry_after,
)


KEY = "sk-0123456789-abcdef"
MESSAGES = [{"role": "user", "content": "What is it?"}]
DEEP = "[" * 100_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(ChatServer(default="a cup")) as server:
        yield server


class Waiting:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def endpoint(server: ChatServer, waiting: Waiting) -> ChatEndpoint:
    return ChatEndpoint(
        server.base_url,
        "m",
        api_key=KEY,
        timeout=60,
        max_retries=3,
        requests_per_minute=1e9,
        sleep=waiting.sleep,
        clock=waiting.clock,
    )


def drip(handler: Handler, headers: bytes, size: int) -> None:
    """One byte, then another, each soon enough for a time-out that counts per read; for a minute at most."""
    handler.wfile.write(headers)
    for _ in range(min(size, 6000)):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.01)


def drip_body(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 6000\r\n\r\n", 6000)


def drip_header(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nX-Slow:", 6000)


def drip_error(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 503 Busy\r\nContent-Length: 6000\r\n\r\n", 6000)


def never_ending(handler: Handler) -> None:
    """Chunks without end, or until the client hangs up."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_off(handler: Handler) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"choices"')
    handler.connection.shutdown(socket.SHUT_RDWR)


def test_a_reply_and_its_usage(server: ChatServer, endpoint: ChatEndpoint):
    assert endpoint.complete(MESSAGES) == ("a cup", {"prompt_tokens": 1000, "completion_tokens": 100})
    (request,), (headers,) = server.requests, server.headers
    assert request == {
        "model": "m",
        "messages": MESSAGES,
        "temperature": 0,
        "response_format": {"type": "json_object"},
    }
    assert headers["Authorization"] == f"Bearer {KEY}" and headers["Accept-Encoding"] == "identity"


def test_without_a_key_that_of_the_environment_goes_nowhere(server: ChatServer, monkeypatch: pytest.MonkeyPatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    ChatEndpoint(server.base_url, "m").complete(MESSAGES)
    assert "Authorization" not in server.headers[0] and KEY not in str(server.headers[0])


def test_structured_output_and_images_are_asked_for(server: ChatServer, endpoint: ChatEndpoint):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    part = image_part(Image.new("RGB", (5, 4), "red"))
    endpoint.complete([{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}], schema=schema)
    (request,) = server.requests
    assert request["response_format"]["json_schema"]["schema"] == schema
    assert request["messages"][0]["content"][1] == part


def test_an_image_is_sent_upright_small_and_without_its_metadata():
    photo, exif = Image.new("RGB", (3000, 1000), "red"), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"  # turned by 90 degrees
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif, icc_profile=b"profile")
    head, _, data = image_part(Image.open(buffer))["image_url"]["url"].partition(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64" and sent.size == (683, 2048)
    assert not sent.getexif() and "icc_profile" not in sent.info


def test_it_works_where_an_event_loop_runs(endpoint: ChatEndpoint):
    import asyncio

    async def cell() -> str:
        return endpoint.complete(MESSAGES)[0]

    assert asyncio.run(cell()) == "a cup"


@pytest.mark.parametrize("misbehave", [drip_body, drip_header, drip_error])
def test_a_drip_of_bytes_does_not_outlive_the_deadline(server: ChatServer, endpoint: ChatEndpoint, misbehave):
    server.plans[""] = [misbehave]
    endpoint.timeout, endpoint.max_retries = 0.3, 0
    with pytest.raises(AttemptFailed, match="TimeoutError: no whole reply in 0.3 seconds"):
        endpoint.complete(MESSAGES)


def test_a_late_reply_is_asked_for_again(server: ChatServer, endpoint: ChatEndpoint):
    released = threading.Event()
    server.plans[""] = [lambda handler: released.wait(60), "a cup"]
    endpoint.timeout = 2
    assert endpoint.complete(MESSAGES)[0] == "a cup"
    released.set()


def test_a_huge_reply_is_not_read_to_its_end(server: ChatServer, endpoint: ChatEndpoint):
    server.plans[""] = [never_ending]
    with pytest.raises(AttemptFailed, match="the reply is larger than 4,194,304 bytes"):
        endpoint.complete(MESSAGES)
    assert len(server.requests) == 1


def test_a_huge_error_is_not_read_to_its_end(server: ChatServer, endpoint: ChatEndpoint):
    server.plans[""] = [lambda handler: handler.answer(500, "x" * 10_000)]
    endpoint.max_reply_bytes = 1000
    with pytest.raises(AttemptFailed, match="the reply is larger than 1,000 bytes"):
        endpoint.complete(MESSAGES)


def test_a_reply_that_would_unpack_to_a_huge_one_is_refused(server: ChatServer, endpoint: ChatEndpoint):
    def bomb(handler: Handler) -> None:
        body = gzip.compress(b" " * 10_000_000)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body))
        handler.wfile.write(body)

    server.plans[""] = [bomb]
    with pytest.raises(AttemptFailed, match="the reply is compressed"):
        endpoint.complete(MESSAGES)


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        '{"choices": ' + DEEP,
        "no JSON",
        "[]",
        '{"choices": []}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": [1]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"total": NaN}}',
    ],
)
def test_an_answer_without_a_chat_reply_is_a_failure(server: ChatServer, endpoint: ChatEndpoint, content: str):
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content.encode()))

    server.plans[""] = [answer]
    with pytest.raises(AttemptFailed, match=r"holds no chat reply: .*\(4 attempts\)") as failure:
        endpoint.complete(MESSAGES)
    assert len(str(failure.value)) < 400
    assert len(server.requests) == 4


def test_an_error_of_deep_json_is_a_failure(server: ChatServer, endpoint: ChatEndpoint):
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(DEEP), DEEP.encode()))

    server.plans[""] = [answer]
    with pytest.raises(AttemptFailed, match="HTTP 400"):
        endpoint.complete(MESSAGES)


def test_usage_that_is_no_count_is_not_believed(server: ChatServer, endpoint: ChatEndpoint):
    usage = {"prompt_tokens": -5, "completion_tokens": True}
    record = {"choices": [{"message": {"content": "a cup"}}], "usage": usage}
    server.plans[""] = [lambda handler: handler.answer(200, record)]
    budget = Budget(Price(1, 1))
    assert endpoint.complete(MESSAGES, budget) == ("a cup", {})
    assert budget.tokens == (estimate_input(MESSAGES), 1)


def test_a_reply_can_be_saved_whatever_it_holds(server: ChatServer, endpoint: ChatEndpoint):
    server.plans[""] = [lambda handler: handler.reply("\ud800!")]
    assert endpoint.complete(MESSAGES)[0] == "?!"


@pytest.mark.parametrize("trouble", [408, 429, 500, 503, hang_up, cut_off])
def test_trouble_that_may_pass_is_met_with_patience(server: ChatServer, endpoint: ChatEndpoint, waiting, trouble):
    server.plans[""] = [trouble, trouble, "a cup"]
    assert endpoint.complete(MESSAGES)[0] == "a cup"
    first, second = waiting.pauses
    assert 1 <= first <= 1.25 and 2 <= second <= 2.5


def test_the_pauses_obey_the_server_within_reason(server: ChatServer, endpoint: ChatEndpoint, waiting: Waiting):
    server.plans[""] = [
        lambda handler: handler.answer(429, {}, Retry_After="50"),
        lambda handler: handler.answer(503, {}, Retry_After="999999"),
        lambda handler: handler.answer(429, {}, Retry_After="soon"),
        "a cup",
    ]
    endpoint.complete(MESSAGES)
    assert waiting.pauses[:2] == [50, 120] and 4 <= waiting.pauses[2] <= 5


def test_a_date_to_retry_after():
    later = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3000 < retry_after({"Retry-After": later}) <= 3600
    assert [retry_after({"Retry-After": value}) for value in ("-5", "nan", "", "x" * 50)] == [0, 0, 0, 0]


def test_a_dead_server_is_a_failure(endpoint: ChatEndpoint, waiting: Waiting):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        endpoint.base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(AttemptFailed, match="ConnectError.*4 attempts"):
            endpoint.complete(MESSAGES)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_rejected_request_is_not_repeated(server: ChatServer, endpoint: ChatEndpoint, status: int):
    server.plans[""] = [status]
    with pytest.raises(AttemptFailed, match=f"HTTP {status}"):
        endpoint.complete(MESSAGES)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_stops_the_run(server: ChatServer, endpoint: ChatEndpoint, status: int):
    server.plans[""] = [status]
    with pytest.raises(RunStopped, match=f"HTTP {status}.*Check --base-url, --model and the API key"):
        endpoint.complete(MESSAGES)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_another_host_are_not_followed(server: ChatServer, endpoint: ChatEndpoint, status: int):
    with serving(ChatServer(default="from elsewhere")) as other:
        place = f"{other.base_url}/chat/completions".replace("127.0.0.1", "localhost")
        server.plans[""] = [lambda handler: handler.answer(status, {}, Location=place)]
        with pytest.raises(RunStopped, match=f"HTTP {status}"):
            endpoint.complete(MESSAGES)
        assert not other.requests


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_the_server_echoes_is_shown_nowhere(
    server: ChatServer, endpoint: ChatEndpoint, caplog: pytest.LogCaptureFixture, status: int
):
    caplog.set_level(logging.DEBUG)
    echo = f"x{KEY}", {"error": {"message": f"you sent {KEY}"}}
    server.plans[""] = [lambda handler: handler.answer(status, echo)]
    endpoint.max_retries = 0
    with pytest.raises((AttemptFailed, RunStopped)) as caught:
        endpoint.complete(MESSAGES)
    chain, error = "", caught.value
    while error is not None:
        chain, error = chain + f"{error!r}{error}", error.__cause__
    assert "[API key]" in chain and KEY not in chain
    assert KEY not in caplog.text and KEY not in repr(endpoint)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("key", ["a\nb", "a b", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_without_quoting_it(key: str):
    with pytest.raises(ValueError, match="`api_key` holds spaces") as error:
        ChatEndpoint("http://localhost/v1", "m", api_key=key)
    assert key not in str(error.value)


@pytest.mark.parametrize("address", ["http://me:secret@host/v1", "http://host/v1?key=secret", "me:secret@host"])
def test_credentials_in_an_address_are_refused_without_quoting_them(address: str):
    with pytest.raises(ValueError, match="`base_url`") as error:
        ChatEndpoint(address, "m")
    assert "secret" not in str(error.value)


def test_the_rate_is_limited(endpoint: ChatEndpoint, waiting: Waiting):
    endpoint.requests_per_minute = 30
    for _ in range(4):
        endpoint.complete(MESSAGES)
    assert waiting.pauses == pytest.approx([2, 2, 2])


def test_the_cap_holds_before_each_request(server: ChatServer, endpoint: ChatEndpoint):
    budget = Budget(Price(1000, 0), max_cost=2.5)  # the server reports 1,000 tokens: a dollar
    messages = [{"role": "user", "content": "x" * 2400}]  # 0.6 dollars are expected
    endpoint.complete(messages, budget)
    endpoint.complete(messages, budget)
    with pytest.raises(RunStopped, match="2.00 US dollars are spent, and the next request takes about 0.6000"):
        endpoint.complete(messages, budget)
    assert len(server.requests) == 2


def test_what_a_request_may_reply_counts_as_well(endpoint: ChatEndpoint):
    endpoint.body = {"max_tokens": 1000}
    with pytest.raises(RunStopped, match="takes about 10.0020"):
        endpoint.complete(MESSAGES, Budget(Price(1000, 10_000), max_cost=5))


def test_retries_stop_at_the_cap(server: ChatServer, endpoint: ChatEndpoint):
    server.plans[""] = [drip_body]
    endpoint.timeout = 1
    messages = [{"role": "user", "content": "x" * 4000}]  # a dollar, to be paid although the reply came too late
    with pytest.raises(RunStopped, match="1.00 US dollars are spent"):
        endpoint.complete(messages, Budget(Price(1000, 0), max_cost=1.5))
    assert len(server.requests) <= 1


def test_a_run_that_would_cost_too_much_does_not_start():
    with pytest.raises(NotStarted, match="above --max-cost 1"):
        Budget(Price(1, 1), max_cost=1).check_estimate("m", 10**6, 1)
    with pytest.raises(ValueError, match="needs the price of m"):
        Budget(Price(1, None), max_cost=1).check_estimate("m", 1, 1)


def test_images_are_part_of_the_estimate():
    part = {"type": "image_url", "image_url": {"url": "data:..."}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "x" * 40}, part]}]
    assert estimate_input(messages) == 10 + TOKENS_PER_IMAGE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEEP, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "a key appears twice"),
        ("[NaN]", "NaN is no number"),
        ("[1", "Expecting"),
        ("1" * 10_000, "digits"),
    ],
)
def test_json_that_no_one_should_trust(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        read_json(text)


def test_without_openai_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs openai. Run `pip install 'granulon\[chat\]'`"):
        ChatEndpoint("http://localhost/v1", "m")


def test_the_record_of_a_request_is_json(server: ChatServer, endpoint: ChatEndpoint):
    endpoint.body = {"temperature": None, "seed": 3, "model": "other"}
    endpoint.complete(MESSAGES)
    (request,) = server.requests
    assert "temperature" not in request and (request["seed"], request["model"]) == (3, "other")
    assert json.loads(json.dumps(request)) == request
