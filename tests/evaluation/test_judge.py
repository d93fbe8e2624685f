"""The judge over real HTTP, against a server on 127.0.0.1 that misbehaves."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, serving
from PIL import Image

from granulon.chat_client import TOKENS_PER_IMAGE, ChatEndpoint, NotStarted, Price, RunStopped
from granulon.evaluation.judge import INSTRUMENTS, judge_predictions, segments, sentences


GOOD = {"accuracy_score": 80, "hallucination_score": 10}
KEY = "sk-0123456789-abcdef"
# the supplement of arXiv 2603.08800, section 2, as published
PUBLISHED = """You are an objective evaluator for AI image descriptions. Evaluate the following MODEL OUTPUT against \
the PROVIDED IMAGE, and assign TWO INDEPENDENT scores (0-100 Accuracy, 0-100 Hallucination).

1. ACCURACY SCORE (0-100): how well the text matches the actual image content.
2. HALLUCINATION SCORE (0-100): how much content is NOT present in the image.

MODEL OUTPUT: {pred}

Return ONLY a valid JSON object:

```
{"accuracy_score": int,
 "hallucination_score": int}
```"""


def text_of(request: dict) -> str:
    return request["messages"][0]["content"][0]["text"]


def prediction_of(request: dict) -> str:
    """The planned prediction that a request is about: a word of its own, such as `bad`."""
    return next((word for word in ("bad", "two") if word in text_of(request).split()), "")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(ChatServer(GOOD, prediction_of)) as server:
        yield server


@pytest.fixture
def endpoint(server: ChatServer) -> ChatEndpoint:
    return ChatEndpoint(server.base_url, "m", KEY, max_retries=1, requests_per_minute=1e9, sleep=lambda seconds: None)


def rows_of(*predictions: str) -> list[dict[str, Any]]:
    return [
        {"id": f"row-{number}", "prediction": prediction, "image": Image.new("RGB", (4, 4), (number, 0, 0))}
        for number, prediction in enumerate(predictions)
    ]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def judge(endpoint: ChatEndpoint, tmp_path: Path):
    def judge(*predictions: str, **options: Any) -> dict[str, Any]:
        options = {"cache": tmp_path / "cache"} | options
        return judge_predictions(rows_of(*predictions), tmp_path / "judged.jsonl", endpoint, **options)

    return judge


def test_the_prompt_is_the_published_one(server: ChatServer, judge):
    judge("a {pred} red cup")
    assert text_of(server.requests[0]) == PUBLISHED.replace("{pred}", "a {pred} red cup")
    assert "supplement of arXiv 2603.08800" in INSTRUMENTS["overall"].source


def test_the_image_and_the_form_of_the_reply_are_sent(server: ChatServer, judge):
    judge("one")
    (request,) = server.requests
    assert request["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert set(request["response_format"]["json_schema"]["schema"]["properties"]) == set(GOOD)


def test_scores_and_scorer_are_printed_returned_and_saved(server: ChatServer, judge, tmp_path: Path, capsys):
    server.plans["two"] = [{"accuracy_score": 60, "hallucination_score": 30}]
    summary = judge("one", "two")
    host = server.base_url.split("/")[2]
    scorer = {"model": "m", "host": host, "prompt": INSTRUMENTS["overall"].version}
    assert summary["scorer"] == scorer and summary["num_scored"] == summary["num_rows"] == 2
    assert summary["means"]["accuracy_score"][0] == 70 and summary["means"]["hallucination_score"][0] == 20
    assert summary["tokens"] == [2000, 200] and summary["cost"] is None
    assert all(line["scorer"] == scorer for line in lines_of(tmp_path / "judged.jsonl"))
    assert f"judged by m at {host} with prompt overall-1-" in capsys.readouterr().out


@pytest.mark.parametrize(
    "reply",
    [
        "80 and 10",
        "[" * 100_000,
        '```json\n{"accuracy_score": 80, "hallucination_score": 10}\n```',
        [80, 10],
        {"accuracy_score": 80},
        GOOD | {"comment": "well"},
        GOOD | {"accuracy_score": "80"},
        GOOD | {"accuracy_score": 80.5},
        GOOD | {"accuracy_score": True},
        GOOD | {"accuracy_score": 101},
        GOOD | {"accuracy_score": -1},
        GOOD | {"accuracy_score": None},
        '{"accuracy_score": 80, "accuracy_score": 90, "hallucination_score": 10}',
        GOOD | {KEY: 1},
    ],
)
def test_a_malformed_reply_is_counted_and_never_scored(server: ChatServer, judge, tmp_path: Path, reply):
    server.plans["bad"] = [reply]
    summary = judge("one", "bad")
    assert (summary["num_scored"], summary["num_failed"], summary["num_malformed"]) == (1, 1, 1)
    assert summary["means"]["accuracy_score"][0] == 80
    assert [line["id"] for line in lines_of(tmp_path / "judged.jsonl")] == ["row-0"]
    (failure,) = lines_of(tmp_path / "judged.failed.jsonl")
    assert failure["id"] == "row-1" and len(failure["reason"]) < 500
    assert not any(KEY in path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file())


def test_no_reply_is_a_failure_of_another_kind(server: ChatServer, judge):
    server.plans["bad"] = [500]
    summary = judge("bad")
    assert (summary["num_scored"], summary["num_failed"], summary["num_malformed"]) == (0, 1, 0)
    assert summary["means"] == {}


def test_an_image_may_be_a_path(server: ChatServer, endpoint: ChatEndpoint, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 10), "red").save(tmp_path / "photo.jpg", exif=exif)
    rows = [{"id": 1, "prediction": "one", "image": str(tmp_path / "photo.jpg")}]
    assert judge_predictions(rows, tmp_path / "judged.jsonl", endpoint, cache=tmp_path / "cache")["num_scored"] == 1
    url = server.requests[0]["messages"][0]["content"][1]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (10, 30)


def test_an_image_that_cannot_be_read_fails_alone(endpoint: ChatEndpoint, tmp_path: Path):
    rows = rows_of("one", "two")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    rows[0]["image"] = tmp_path / "torn.png"
    summary = judge_predictions(rows, tmp_path / "judged.jsonl", endpoint, cache=tmp_path / "cache")
    assert (summary["num_scored"], summary["num_failed"]) == (1, 1)
    assert "torn.png cannot be read" in lines_of(tmp_path / "judged.failed.jsonl")[0]["reason"]


def test_a_run_is_resumed_and_failures_are_tried_again(server: ChatServer, judge, tmp_path: Path):
    server.plans["bad"] = [500, 500, GOOD]
    assert judge("one", "bad", cache=None)["num_failed"] == 1
    path = tmp_path / "judged.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "row-')  # killed while it wrote
    summary = judge("one", "bad", "three", cache=None)
    assert (summary["num_scored"], summary["num_failed"]) == (3, 0)
    assert [line["id"] for line in lines_of(path)] == ["row-0", "row-1", "row-2"]
    assert len(server.requests) == 5


def test_what_was_judged_is_not_paid_for_twice(server: ChatServer, judge, endpoint: ChatEndpoint, tmp_path: Path):
    judge("one", "three")
    for path in (tmp_path / "cache").rglob("*.json"):
        if "80" in path.read_text():
            path.write_text('[{"accuracy_score": 800}]')
            break
    (tmp_path / "judged.jsonl").unlink()
    assert judge("one", "three")["num_scored"] == 2
    assert len(server.requests) == 3  # the damaged one again
    endpoint.model = "other"
    (tmp_path / "judged.jsonl").unlink()
    judge("one", "three")
    assert len(server.requests) == 5


def test_results_of_others_do_not_mix(server: ChatServer, judge, endpoint: ChatEndpoint, tmp_path: Path):
    judge("one")
    with pytest.raises(ValueError, match="line 1: 'row-0' had another prediction"):
        judge("another")
    with pytest.raises(ValueError, match="this was judged by .* Write to another file"):
        judge("one", instrument="sentences")
    endpoint.model = "other"
    with pytest.raises(ValueError, match="this was judged by .*'m'"):
        judge("one")
    endpoint.model, endpoint.body = "m", {"temperature": 1}
    with pytest.raises(ValueError, match="this was judged by"):
        judge("one")
    endpoint.body = {}
    path = tmp_path / "judged.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match="line 2: the id 'row-0' .* appears twice"):
        judge("one")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "prediction": "x"}], "row 0 lacks"),
        ([{"id": 1, "prediction": None, "image": "x.png"}], "`prediction` must be a text"),
        ([{"id": 1, "prediction": "x", "image": "x.png"}] * 2, r"the ids \[1\] appear more than once"),
    ],
)
def test_rows_that_cannot_be_judged_are_explained(endpoint: ChatEndpoint, tmp_path: Path, rows, message: str):
    with pytest.raises(ValueError, match=message):
        judge_predictions(rows, tmp_path / "judged.jsonl", endpoint)


def test_an_unknown_instrument_lists_the_known_ones(judge):
    with pytest.raises(ValueError, match="'overall', 'segments', 'sentences'"):
        judge("one", instrument="vibes")


def test_a_judge_without_credentials_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="there is no endpoint to ask"):
        ChatEndpoint.from_environment()
    with pytest.raises(ValueError, match="Set OPENAI_API_KEY"):
        ChatEndpoint.from_environment("https://api.openai.com/v1")


def test_the_cost_has_a_cap(server: ChatServer, judge):
    with pytest.raises(NotStarted, match="above --max-cost"):
        judge("one", price=Price(1000, 1000), max_cost=1)  # one image alone takes more
    assert not server.requests
    dear = (TOKENS_PER_IMAGE + 300) / 1e6  # no more than what one request is expected to take
    judge("one", price=Price(1, 0), max_cost=dear)
    with pytest.raises(ValueError, match="needs the price of m"):
        judge("one", max_cost=1)


def test_a_refusal_stops_the_run_and_keeps_what_is_known(server: ChatServer, judge, tmp_path: Path):
    server.plans["bad"] = [401]
    with pytest.raises(RunStopped, match="HTTP 401"):
        judge("one", "bad", "three")
    assert [line["id"] for line in lines_of(tmp_path / "judged.jsonl")] == ["row-0"]


def test_segments_are_judged_one_by_one(server: ChatServer, judge):
    server.default = {"segments": [{"accuracy_score": 90 - 10 * at, "hallucination_score": at} for at in range(5)]}
    summary = judge("One. Two! Three? Four. Five. Six.", "A b c. D e f.", instrument="segments")
    assert json.dumps(["One. Two!", "Three?", "Four.", "Five.", "Six."]) in text_of(server.requests[0])
    assert summary["means"]["accuracy_score"][0] == 70
    assert summary["by_position"]["accuracy_score"] == [[90, 2], [80, 2], [70, 2], [60, 2], [50, 2]]


def test_each_sentence_gets_a_granularity_score(server: ChatServer, judge):
    server.default = {"sentences": [{"granularity_score": 20, "hallucination_score": 0}]}
    pair = [(40, 10), (90, 50)]
    server.plans["two"] = [
        {"sentences": [{"granularity_score": fine, "hallucination_score": wrong} for fine, wrong in pair]}
    ]
    summary = judge("A room.", "It has two chairs. One is torn.", "", instrument="sentences")
    assert (summary["num_scored"], summary["num_empty"]) == (2, 1)
    assert summary["by_position"]["granularity_score"] == [[30, 2], [90, 1]]
    assert summary["means"]["granularity_score"][0] == (20 + 65) / 2


@pytest.mark.parametrize("count", [4, 6])
def test_scores_for_another_number_of_parts_are_malformed(server: ChatServer, judge, count: int):
    server.default = {"segments": [GOOD] * count}
    assert judge("One. Two. Three. Four. Five.", instrument="segments")["num_malformed"] == 1


def test_sentences_end_where_a_reader_would_say():
    assert sentences('He said "stop." Then 3.5 cars came!\n\nWhy? 猫がいる。犬もいる。') == [
        'He said "stop."',
        "Then 3.5 cars came!",
        "Why?",
        "猫がいる。",
        "犬もいる。",
    ]
    assert sentences(" \n ") == []


@pytest.mark.parametrize("count", range(14))
def test_segments_are_the_text_in_order_and_equal_in_size(count: int):
    text = " ".join(f"Sentence {number}." for number in range(count))
    parts = segments(text)
    assert " ".join(parts) == text
    assert len(parts) == min(5, 2 * count)  # of fewer than five sentences, words
    if count >= 5:
        sizes = [part.count(".") for part in parts]
        assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
