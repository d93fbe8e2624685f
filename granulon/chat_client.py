"""
One client for chat endpoints that speak OpenAI's protocol: OpenAI itself, vLLM, transformers serve, llama.cpp, Ollama.

The `openai` package carries the requests. What it leaves open is settled here, since an endpoint may be slow, broken
or hostile: a deadline for the whole of a request, a bound on the size of a reply, no redirects, a rate, a cap on the
cost, and an API key that appears in nothing that is shown, logged or saved.
"""

import asyncio
import base64
import email.utils
import functools
import io
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image, ImageOps


T = TypeVar("T")

# US dollars per million tokens, (input, output), as published when this was written. Other models: give a `Price`.
KNOWN_PRICES = {"gpt-4o": (2.50, 10.00)}
OPENAI_HOST = "api.openai.com"
LONGEST_WAIT = 120.0  # seconds between two attempts
LARGEST_REPLY = 4 * 2**20  # bytes; the longest replies of today's models take a tenth
LARGEST_IMAGE = 2048  # pixels of the longer side; gpt-4o shrinks larger ones, too
TOKENS_PER_IMAGE = 1445  # the most that gpt-4o counts for one in high detail: 85 + 8 tiles of 170


class RunStopped(RuntimeError):
    """Going on with other requests would not help: the endpoint refuses us, or the money is spent."""


class NotStarted(RunStopped):
    """Nothing was asked: it would cost too much, or nobody agreed to the cost."""


class AttemptFailed(Exception):
    """
    A request, or all requests for one thing, gave no answer. `wait` is how many seconds the server asks us to wait,
    `tokens` the input and output tokens spent in vain.
    """

    def __init__(
        self, reason: str, wait: float = 0.0, is_worth_retrying: bool = True, tokens: tuple[int, int] = (0, 0)
    ):
        super().__init__(reason)
        self.wait = wait
        self.is_worth_retrying = is_worth_retrying
        self.tokens = tokens


class MalformedReply(AttemptFailed):
    """The model replied, but not in the form that was asked for."""


@dataclass
class Price:
    """US dollars per million tokens; None where unknown."""

    input: float | None
    output: float | None

    @classmethod
    def known(cls, model: str, input: float | None = None, output: float | None = None) -> "Price":
        """The published price of `model`, as far as it is not given."""
        published = KNOWN_PRICES.get(model, (None, None))
        return cls(published[0] if input is None else input, published[1] if output is None else output)

    def of(self, input_tokens: int, output_tokens: int) -> float | None:
        if self.input is None or self.output is None:
            return None
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass
class Budget:
    """What was spent, in tokens, and the most that may be, in US dollars (None: no limit)."""

    price: Price
    max_cost: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> tuple[int, int]:
        return self.input_tokens, self.output_tokens

    @property
    def cost(self) -> float | None:
        return self.price.of(*self.tokens)

    def add(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def check_estimate(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """
        Before a run that is expected to take so many tokens.

        Raises:
            ValueError: there is a limit, but the price is unknown.
            NotStarted: the run would exceed the limit.
        """
        if self.max_cost is None:
            return
        cost = self.price.of(input_tokens, output_tokens)
        if cost is None:
            raise ValueError(f"--max-cost needs the price of {model}: give --price-input and --price-output.")
        if cost > self.max_cost:
            raise NotStarted(f"the estimate is above --max-cost {self.max_cost}.")

    def check(self, input_tokens: int, output_tokens: int) -> None:
        """
        Before a request that is expected to take so many tokens.

        Raises:
            RunStopped: the limit is reached, or would be exceeded.
        """
        spent = self.cost
        if self.max_cost is None or spent is None:
            return
        if spent > self.max_cost:
            raise RunStopped(f"{spent:.2f} US dollars are spent, more than --max-cost {self.max_cost}.")
        request = self.price.of(input_tokens, output_tokens) or 0.0
        if spent + request > self.max_cost:
            raise RunStopped(
                f"{spent:.2f} US dollars are spent, and the next request takes about {request:.4f}, which would "
                f"exceed --max-cost {self.max_cost}."
            )


@dataclass
class ChatEndpoint:
    """
    An OpenAI-compatible chat endpoint with retries and a rate limit.

    `timeout` is how many seconds one request may take in all, however slowly its reply comes. `backoff` is the first
    pause in seconds; it doubles with each attempt and grows by up to a quarter at random. `body` is merged into each
    request; a null removes a key that we set ourselves (`temperature`, `response_format`).

    Raises:
        ValueError: wrong arguments.
        ModuleNotFoundError: `openai` is not installed.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    max_retries: int = 5
    backoff: float = 1.0
    requests_per_minute: float = 60.0
    body: dict[str, Any] = field(default_factory=dict)
    max_reply_bytes: int = LARGEST_REPLY
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _next_request: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_address(self.base_url)
        for name in ("requests_per_minute", "timeout", "max_reply_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}, but must be above 0.")
        for name in ("max_retries", "backoff"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}, but must be at least 0.")
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key):
            raise ValueError("`api_key` holds spaces, line ends or characters beyond ASCII, which no key has.")
        _import_openai()

    @classmethod
    def from_environment(
        cls, base_url: str | None = None, model: str = "gpt-4o", api_key: str | None = None, **options: Any
    ) -> "ChatEndpoint":
        """
        An endpoint whose address and key, where they are not given, are $OPENAI_BASE_URL and $OPENAI_API_KEY.

        Raises:
            ValueError: there is no address, or OpenAI's own without a key.
        """
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        if not base_url:
            raise ValueError(
                "there is no endpoint to ask. Give `base_url` or set OPENAI_BASE_URL: https://api.openai.com/v1 (with "
                "OPENAI_API_KEY), or the address of a server of your own. Nothing else stands in for it."
            )
        endpoint = cls(base_url, model, (api_key or os.environ.get("OPENAI_API_KEY", "")).strip() or None, **options)
        if endpoint.host == OPENAI_HOST and not endpoint.api_key:
            raise ValueError(f"{OPENAI_HOST} answers nobody without a key. Set OPENAI_API_KEY, or ask another server.")
        return endpoint

    @property
    def host(self) -> str:
        """Name and port of the server, without what else an address may hold."""
        return urllib.parse.urlsplit(self.base_url).netloc

    def redact(self, text: str) -> str:
        """`text` without the API key, also as JSON and Python write it inside of strings."""
        if self.api_key:
            for form in (self.api_key, json.dumps(self.api_key)[1:-1], repr(self.api_key)[1:-1]):
                text = text.replace(form, "[API key]")
        return text

    def excerpt(self, text: str, limit: int = 200) -> str:
        """The beginning of a text from the server, fit for a message: one line, quoted, without the API key."""
        text = " ".join(self.redact(text).split())
        return repr(text if len(text) <= limit else f"{text[:limit]}...")

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        budget: Budget | None = None,
        schema: dict[str, Any] | None = None,
    ) -> tuple[str, dict[str, int]]:
        """
        The reply to a conversation, and the token usage that the server reports ({} if none).

        Args:
            budget: is checked before each attempt, and what an attempt took is added.
            schema: JSON schema of the reply, for servers with structured output; by default any JSON object.

        Raises:
            AttemptFailed: no reply, after all retries.
            RunStopped: the server refuses us (key, address or model), or `budget` is spent.
        """
        budget = Budget(Price(None, None)) if budget is None else budget
        body = self._body(messages, schema)
        expected = estimate_input(messages), _most_output(body)
        for attempt in range(self.max_retries + 1):
            budget.check(*expected)
            try:
                reply, usage = self._read_reply(self._request(body))
            except AttemptFailed as failure:
                budget.add(*failure.tokens)
                if not failure.is_worth_retrying:
                    raise
                if attempt == self.max_retries:
                    raise AttemptFailed(f"{failure} ({attempt + 1} attempts)") from None
                pause = self.backoff * 2**attempt * (1 + random.random() / 4)
                self.sleep(min(max(pause, failure.wait), LONGEST_WAIT))
            else:
                budget.add(usage.get("prompt_tokens", expected[0]), usage.get("completion_tokens", len(reply) // 4))
                return reply, usage
        raise AssertionError("the last attempt returns or raises")

    def _body(self, messages: Sequence[Mapping[str, Any]], schema: dict[str, Any] | None) -> dict[str, Any]:
        form: dict[str, Any] = {"type": "json_object"}
        if schema is not None:
            form = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "response_format": form} | self.body
        return {key: value for key, value in body.items() if value is not None}

    def _request(self, body: dict[str, Any]) -> str:
        """The text of the server's answer. Errors are raised without their cause, which may quote the API key."""
        openai = _import_openai()
        self._wait_for_turn()
        charged = estimate_input(body["messages"]), 0  # who began to answer may ask to be paid
        try:
            return _run(self._post(openai, body), self.timeout)
        except TimeoutError:
            raise AttemptFailed(f"TimeoutError: no whole reply in {self.timeout:g} seconds", tokens=charged) from None
        except UnicodeEncodeError:
            reason = "the request holds half of a surrogate pair, which is no character"
            raise AttemptFailed(reason, is_worth_retrying=False) from None
        except _Unfit as error:
            raise AttemptFailed(str(error), is_worth_retrying=False, tokens=charged) from None
        except openai.APIStatusError as error:
            raise self._status_failure(error) from None
        except openai.APIConnectionError as error:  # refused or broken connections, DNS, TLS
            cause = error.__cause__ or error
            raise AttemptFailed(f"{type(cause).__name__}: {self.redact(str(cause))}") from None

    async def _post(self, openai: ModuleType, body: dict[str, Any]) -> str:
        import httpx2

        async def bound(response: httpx2.Response) -> None:
            coding = response.headers.get("Content-Encoding", "identity")
            if coding != "identity":
                raise _Unfit(f"the reply is compressed ({self.excerpt(coding)}), though none was asked for")
            response.stream = _bounded_stream(response.stream, self.max_reply_bytes)

        http = httpx2.AsyncClient(
            timeout=None,  # there is one deadline for all
            follow_redirects=False,  # another host would get the key and the question
            headers={"Accept-Encoding": "identity"},  # a small compressed reply may be a huge one
            event_hooks={"response": [bound]},
        )
        client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key or "none",
            max_retries=0,
            timeout=None,
            http_client=http,
        )
        rest = dict(body)
        model, messages = rest.pop("model", openai.omit), rest.pop("messages")
        async with client:
            answer = await client.chat.completions.with_raw_response.create(
                model=model,
                messages=messages,
                extra_headers=dict.fromkeys(self._omitted_headers(), openai.Omit()),
                extra_body=rest,
            )
            return answer.http_response.content.decode("utf-8", "replace")

    def _omitted_headers(self) -> list[str]:
        """What `openai` would take from the environment, though it is not meant for this server."""
        names = [] if self.api_key else ["Authorization"]
        return names if self.host == OPENAI_HOST else [*names, "OpenAI-Organization", "OpenAI-Project"]

    def _status_failure(self, error: Any) -> Exception:
        """What to make of an answer with an HTTP status other than success."""
        response = error.response
        address = f"{self.base_url.rstrip('/')}/chat/completions"
        reason = f"HTTP {response.status_code} from {address}: {self.excerpt(response.text)}"
        if response.status_code in (408, 429) or response.status_code >= 500:
            return AttemptFailed(reason, retry_after(response.headers))
        if response.status_code in (400, 413, 422):  # may be this question's fault, such as a content filter
            return AttemptFailed(reason, is_worth_retrying=False)
        return RunStopped(f"{reason}. Check --base-url, --model and the API key.")

    def _read_reply(self, answer: str) -> tuple[str, dict[str, int]]:
        try:
            record = read_json(answer)
            reply = record["choices"][0]["message"]["content"]
            usage = record.get("usage") or {}
            if not isinstance(reply, str) or not isinstance(usage, dict):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError):
            raise AttemptFailed(f"the server's answer holds no chat reply: {self.excerpt(answer)}") from None
        counts = {key: usage[key] for key in ("prompt_tokens", "completion_tokens") if _is_count(usage.get(key))}
        return reply.encode("utf-8", "replace").decode(), counts  # lone surrogates could be neither saved nor sent

    def _wait_for_turn(self) -> None:
        now = self.clock()
        if now < self._next_request:
            self.sleep(self._next_request - now)
        self._next_request = max(now, self._next_request) + 60 / self.requests_per_minute


def read_json(text: str) -> Any:
    """
    JSON from elsewhere.

    Raises:
        ValueError: it is damaged, nested too deeply, holds NaN or Infinity, or names a key twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not JSON that can be read (nested too deeply)") from None


def image_part(image: Image.Image) -> dict[str, Any]:
    """
    An image as a part of a message: a data URI of a PNG, at most `LARGEST_IMAGE` pixels long, upright, without the
    metadata of the original, such as the place where a photograph was taken.
    """
    upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((LARGEST_IMAGE, LARGEST_IMAGE))
    bare, buffer = Image.frombytes("RGB", upright.size, upright.tobytes()), io.BytesIO()
    bare.save(buffer, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()},
    }


def estimate_input(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a conversation, at four characters a token, and for an image the most that gpt-4o counts."""
    parts = [
        part
        for message in messages
        for part in ([message["content"]] if isinstance(message["content"], str) else message["content"])
    ]
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    return sum(TOKENS_PER_IMAGE if text is None else len(text) // 4 for text in texts)


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds to wait that a server asks for, as a number or as a date; 0 if it does not say."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, AttributeError):
        return 0.0  # our own pause will do


class _Unfit(Exception):
    """A reply that is not read to its end."""


def _bounded_stream(stream: Any, limit: int) -> Any:
    """`stream`, which ends with an error where it exceeds `limit` bytes."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in stream:
                size += len(chunk)
                if size > limit:
                    raise _Unfit(f"the reply is larger than {limit:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, so that deadlines hold in notebooks, too, whose own loop is busy."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="granulon-chat", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_loop.cache_clear)  # threads do not survive a fork


def _run(work: Coroutine[Any, Any, T], timeout: float) -> T:
    """
    Raises:
        TimeoutError: `work` takes longer, whatever it waits for.
    """
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), _loop())
    try:
        return future.result()
    except BaseException:  # Ctrl-C, too: nothing goes on behind the user's back
        future.cancel()
        raise


def _import_openai() -> ModuleType:
    try:
        import openai
        import openai.resources.chat.completions  # loaded when first used, which would be within a deadline
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Asking a chat model needs {error.name}. Run `pip install 'granulon[chat]'`.", name=error.name
        ) from error
    return openai


def _check_address(base_url: str) -> None:
    address = urllib.parse.urlsplit(base_url)
    if "@" in base_url or address.query or address.fragment:
        raise ValueError("`base_url` holds credentials, a query or a fragment. Give the address alone, and `api_key`.")
    if address.scheme not in ("http", "https") or not address.netloc:
        raise ValueError(f"`base_url` is {base_url!r}, expected an address such as http://localhost:8000/v1.")


def _most_output(body: Mapping[str, Any]) -> int:
    """The tokens that a request limits its reply to; 0 if it does not."""
    limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
    return next((limit for limit in limits if isinstance(limit, int)), 0)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("not JSON that can be read (a key appears twice)")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"not JSON ({name} is no number of JSON)")
