"""
A chat model as the judge of answers about images, as the paper uses GPT-4o (section 4, supplement sections 1 and 2).

    endpoint = ChatEndpoint.from_environment(model="gpt-4o")  # $OPENAI_BASE_URL, $OPENAI_API_KEY
    summary = judge_predictions(rows, "judged.jsonl", endpoint, max_cost=5.0)

The judge sees the image and the answer, never a reference. A reply that is not exactly what was asked for is counted
and never scored. A run that stops, for whatever reason, is resumed by the same call.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from granulon.chat_client import (
    TOKENS_PER_IMAGE,
    AttemptFailed,
    Budget,
    ChatEndpoint,
    MalformedReply,
    Price,
    image_part,
    read_json,
)
from granulon.chat_runs import JsonCache, ask_each, fingerprint, whole_lines

from .intervals import bootstrap_interval


DEFAULT_CACHE = Path.home() / ".cache" / "granulon" / "judgements"
PROMPTS = Path(__file__).parent / "prompts"
NUM_SEGMENTS = 5

Scores = dict[str, int]


@dataclass(frozen=True)
class Instrument:
    """What the judge is asked: a prompt of `prompts/`, the scores of its reply, and how it cuts an answer."""

    name: str
    fields: tuple[str, ...]
    cut: Callable[[str], list[str]] | None = None

    @property
    def prompt(self) -> str:
        return self._file()[1]

    @property
    def source(self) -> str:
        return self._file()[0]["source"]

    @property
    def version(self) -> str:
        """Changes with each letter of the prompt."""
        return f"{self.name}-{self._file()[0]['version']}-{fingerprint(self.prompt)}"

    @property
    def schema(self) -> dict[str, Any]:
        scores = _object({name: {"type": "integer"} for name in self.fields})
        return scores if self.cut is None else _object({self.name: {"type": "array", "items": scores}})

    def parts(self, prediction: str) -> list[str]:
        """What is scored: the answer as it is, or its parts."""
        return [prediction] if self.cut is None else self.cut(prediction)

    def ask(self, prediction: str) -> str:
        """The prompt about an answer."""
        parts = self.parts(prediction)
        return self.prompt.replace("{pred}", prediction if self.cut is None else json.dumps(parts, ensure_ascii=False))

    def validate(self, record: object, num_parts: int) -> list[Scores]:
        """
        The scores of each part, from what a reply holds.

        Raises:
            ValueError: another number of parts, other keys, or a score that is no whole number from 0 to 100.
        """
        parts: object = [record]
        if self.cut is not None:
            if not isinstance(record, dict) or set(record) != {self.name} or not isinstance(record[self.name], list):
                raise ValueError(f"the reply must be a JSON object with a list `{self.name}` and nothing else")
            parts = record[self.name]
        return self.validate_parts(parts, num_parts)

    def validate_parts(self, parts: object, num_parts: int) -> list[Scores]:
        """As `validate`, of scores that `validate` returned and that were saved."""
        if not isinstance(parts, list) or len(parts) != num_parts:
            count = len(parts) if isinstance(parts, list) else type(parts).__name__
            raise ValueError(f"expected the scores of {num_parts} parts, one for each, but got {count}")
        return [self._validate_part(part) for part in parts]

    def _validate_part(self, part: object) -> Scores:
        if not isinstance(part, dict) or set(part) != set(self.fields):
            keys = sorted(part) if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"scores must be a JSON object with the keys {list(self.fields)}, but have {keys}")
        for name, score in part.items():
            if isinstance(score, bool) or not isinstance(score, int) or not 0 <= score <= 100:
                raise ValueError(f"`{name}` must be a whole number from 0 to 100, but is {str(score)[:50]!r}")
        return {name: part[name] for name in self.fields}

    def _file(self) -> tuple[dict[str, str], str]:
        head, _, prompt = (PROMPTS / f"{self.name}.txt").read_text("utf-8").partition("---\n")
        return dict(line.split(": ", 1) for line in head.splitlines()), prompt.rstrip("\n")


def sentences(text: str) -> list[str]:
    """A text's sentences: up to a line end, or a full stop, question or exclamation mark, with the quotes after it."""
    ends = r"(?:(?<=[.!?])|(?<=[.!?][\"')\]”’]))\s+|(?<=[。！？])|\n+"
    return [sentence.strip() for sentence in re.split(ends, text) if sentence.strip()]


def segments(text: str, count: int = NUM_SEGMENTS) -> list[str]:
    """
    A text cut into `count` consecutive parts of whole sentences, as equal in number as can be, the longer ones first.
    A text of fewer sentences is cut between words; one of fewer words has as many parts as words.
    """
    units = sentences(text)
    if len(units) < count:
        units = text.split()
    size, rest = divmod(len(units), count)
    bounds = [number * size + min(number, rest) for number in range(count + 1)]
    parts = [" ".join(units[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    return [part for part in parts if part]


INSTRUMENTS = {
    instrument.name: instrument
    for instrument in (
        Instrument("overall", ("accuracy_score", "hallucination_score")),
        Instrument("segments", ("accuracy_score", "hallucination_score"), segments),
        Instrument("sentences", ("granularity_score", "hallucination_score"), sentences),
    )
}


def judge_predictions(
    rows: Iterable[dict[str, Any]],
    output: str | Path,
    endpoint: ChatEndpoint,
    instrument: str = "overall",
    *,
    price: Price | None = None,
    max_cost: float | None = None,
    cache: str | Path | None = DEFAULT_CACHE,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """
    Judge answers about images, or go on with it. `output`, a .jsonl, grows by one line per answer, at once, and is
    never rewritten; answers that it holds are skipped. Failures and their reasons go to `output`'s stem +
    .failed.jsonl, and the next call tries them again.

    Args:
        rows: each with an `id` of its own, the `prediction`, the `image` (a PIL image or a path), and perhaps a
            `group`, what is resampled together for the intervals, such as the image; by default each row alone.
        instrument: "overall" (the paper's prompt), "segments" (five consecutive parts) or "sentences" (granularity).
        price: US dollars per million tokens, where `granulon.chat_client.KNOWN_PRICES` lacks the model.
        max_cost: US dollars; nothing is asked if the estimate is above, and a run stops before they are exceeded.
        cache: folder with the judgements of earlier runs; None for no cache.
        report: called with lines about what is to be done, with the scorer, and with the result.

    Returns:
        `summarise_scores`'s result, with the `scorer` (model, host, prompt, and a fingerprint of the endpoint's `body`
        if it has one), `num_failed` (of them `num_malformed` by their form), `num_empty` (answers without a part to
        score, not asked), `tokens` and `cost` of this run.

    Raises:
        ValueError: wrong arguments or rows, or an output that cannot be gone on with.
        NotStarted: the estimate is above `max_cost`.
        RunStopped: the endpoint refuses us, several answers in a row failed, or the money is spent.
    """
    if instrument not in INSTRUMENTS:
        raise ValueError(f"`instrument` is {instrument!r}, expected one of {sorted(INSTRUMENTS)}.")
    chosen, output, rows = INSTRUMENTS[instrument], Path(output), _check_rows(rows)
    scorer = _scorer(endpoint, chosen)
    store = JsonCache(None if cache is None else Path(cache))
    budget = Budget(price or Price.known(endpoint.model), max_cost)
    predictions = {row["id"]: row["prediction"] for row in rows}
    known = read_scores(output, chosen, scorer, predictions)
    unknown = [row for row in rows if row["id"] not in known]
    todo = [row for row in unknown if chosen.parts(row["prediction"])]
    _report_estimate(todo, len(rows), chosen, endpoint, budget, report)

    def key(row: dict[str, Any]) -> list[Any]:
        return [scorer, row["prediction"], _image_digest(row["image"])] if store.folder else []

    def line(row: dict[str, Any], scores: list[Scores]) -> dict[str, Any]:
        return {"id": row["id"], "prediction": fingerprint(row["prediction"]), "scores": scores, "scorer": scorer}

    def recall(row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return line(row, chosen.validate_parts(store.get(key(row)), len(chosen.parts(row["prediction"]))))
        except ValueError:
            return None  # absent, or damaged: ask again

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        scores = ask_scores(endpoint, chosen, row["prediction"], row["image"], budget)
        store.put(key(row), scores)
        return line(row, scores)

    counts = ask_each(
        todo,
        output,
        recall=recall,
        ask=ask,
        describe=lambda row: {"id": row["id"], "scorer": scorer},
        budget=budget,
        name="judging",
        unit="answer",
    )
    known = read_scores(output, chosen, scorer, predictions)
    scored = [row for row in rows if row["id"] in known]
    summary = {
        "scorer": scorer,
        "instrument": instrument,
        "num_rows": len(rows),
        "num_failed": counts.failed,
        "num_malformed": counts.malformed,
        "num_empty": len(unknown) - len(todo),
        "tokens": list(budget.tokens),
        "cost": budget.cost,
    } | summarise_scores([known[row["id"]] for row in scored], [row.get("group", row["id"]) for row in scored])
    report(f"{_name(scorer)}: {_as_line(summary)}")
    return summary


def ask_scores(
    endpoint: ChatEndpoint,
    instrument: Instrument,
    prediction: str,
    image: Image.Image | str | Path,
    budget: Budget | None = None,
) -> list[Scores]:
    """
    The scores of one answer, one dictionary for each part.

    Raises:
        MalformedReply: the reply is not what was asked for.
        AttemptFailed: no reply, or an image that cannot be read.
        RunStopped: the endpoint refuses us, or `budget` is spent.
    """
    content = [{"type": "text", "text": instrument.ask(prediction)}, image_part(_open(image))]
    reply, _ = endpoint.complete([{"role": "user", "content": content}], budget, instrument.schema)
    try:
        return instrument.validate(read_json(reply), len(instrument.parts(prediction)))
    except ValueError as error:
        raise MalformedReply(f"{endpoint.redact(str(error))}: {endpoint.excerpt(reply)}") from None


def read_scores(
    output: Path, instrument: Instrument, scorer: dict[str, str], predictions: dict[Any, str]
) -> dict[Any, list[Scores]]:
    """
    What an earlier run has judged of `predictions` (by id), by id. A last line that was cut off is removed.

    Raises:
        ValueError: the file was made by another scorer or about other predictions, holds an id twice, or is damaged.
    """
    known: dict[Any, list[Scores]] = {}
    for number, line in whole_lines(output):
        try:
            record = read_json(line)
            if not isinstance(record, dict) or not {"id", "prediction", "scores", "scorer"} <= set(record):
                raise ValueError("expected an object with `id`, `prediction`, `scores` and `scorer`")
            if record["scorer"] != scorer:
                raise ValueError(
                    f"this was judged by {record['scorer']}, but this run uses {scorer}. Write to another file."
                )
            name = record["id"]
            if not isinstance(name, str | int) or name in known:
                raise ValueError(f"the id {name!r} is no text or number, or appears twice. Remove one of the lines.")
            if name not in predictions:
                continue
            if record["prediction"] != fingerprint(predictions[name]):
                raise ValueError(f"{name!r} had another prediction when it was judged. Write to another file.")
            known[name] = instrument.validate_parts(record["scores"], len(instrument.parts(predictions[name])))
        except ValueError as error:
            raise ValueError(f"{output}, line {number}: {error}") from error
    return known


def summarise_scores(scores: Sequence[Sequence[Scores]], groups: Sequence[object]) -> dict[str, Any]:
    """
    Means over answers, where an answer that is judged in parts counts with the mean of its parts.

    Args:
        scores: of each answer, of each part.
        groups: what each answer was about, resampled together.

    Returns:
        `num_scored`; `means`: by score, [mean, low, high] with 95 % intervals, from 0 to 100; and `by_position`: by
        score, [mean, number of answers] for each part's position, first to last.
    """
    fields = list(scores[0][0]) if scores else []
    means, by_position = {}, {}
    for name in fields:
        averages = [sum(part[name] for part in parts) / len(parts) for parts in scores]
        means[name] = list(bootstrap_interval(averages, groups))
        longest = max(len(parts) for parts in scores)
        at = [[parts[place][name] for parts in scores if place < len(parts)] for place in range(longest)]
        by_position[name] = [[sum(values) / len(values), len(values)] for values in at]
    return {"num_scored": len(scores), "means": means, "by_position": by_position}


def _scorer(endpoint: ChatEndpoint, instrument: Instrument) -> dict[str, str]:
    scorer = {"model": endpoint.model, "host": endpoint.host, "prompt": instrument.version}
    if endpoint.body:  # by a fingerprint, since it may hold anything
        scorer["body"] = fingerprint(json.dumps(endpoint.body, sort_keys=True))
    return scorer


def _check_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = list(rows)
    for number, row in enumerate(rows):
        if missing := {"id", "prediction", "image"} - set(row):
            raise ValueError(f"row {number} lacks {sorted(missing)}; it has {sorted(row)}.")
        if not isinstance(row["prediction"], str) or not isinstance(row["id"], str | int):
            raise ValueError(f"row {number}: `prediction` must be a text and `id` a text or a whole number.")
    if repeated := [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]:
        raise ValueError(f"the ids {repeated[:5]} appear more than once. Give each row an `id` of its own.")
    return rows


def _report_estimate(
    todo: Sequence[dict[str, Any]],
    num_rows: int,
    instrument: Instrument,
    endpoint: ChatEndpoint,
    budget: Budget,
    report: Callable[[str], None],
) -> None:
    inputs = sum(len(instrument.ask(row["prediction"])) // 4 + TOKENS_PER_IMAGE for row in todo)
    outputs = sum(20 + 20 * len(instrument.parts(row["prediction"])) for row in todo)
    cost = budget.price.of(inputs, outputs)
    report(
        f"{num_rows} answers, {len(todo)} to ask {endpoint.model} at {endpoint.host} with prompt "
        f"{instrument.version}: at most about {inputs:,} input and {outputs:,} output tokens, "
        + ("at an unknown price" if cost is None else f"{cost:.2f} US dollars without retries")
    )
    budget.check_estimate(endpoint.model, inputs, outputs)


def _name(scorer: dict[str, str]) -> str:
    return f"judged by {scorer['model']} at {scorer['host']} with prompt {scorer['prompt']}"


def _as_line(summary: dict[str, Any]) -> str:
    means = [f"{name} {mean:.1f} [{low:.1f}, {high:.1f}]" for name, (mean, low, high) in summary["means"].items()]
    failed = f"{summary['num_failed']} failed ({summary['num_malformed']} malformed), {summary['num_empty']} empty"
    return ", ".join([f"{summary['num_scored']} of {summary['num_rows']} scored", failed, *means])


def _open(image: Image.Image | str | Path) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as opened:
            opened.load()
            return opened
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AttemptFailed(f"the image {image} cannot be read ({error})") from error


def _image_digest(image: Image.Image | str | Path) -> str:
    return hashlib.sha256(image_part(_open(image))["image_url"]["url"].encode()).hexdigest()


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
