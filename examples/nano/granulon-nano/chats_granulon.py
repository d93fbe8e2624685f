"""
Chats from anywhere: checked message by message, flattened to strings and images, control tokens kept as text.

A chat's texts come from people; the tokens that begin and end turns, and that stand for images, come from the template
and the processor. So that no text can write them, each one in a text is put between two marks, private characters of
the library's: what is marked is encoded as the letters that it is made of (`sanitize_control_tokens`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens


START, END = mark_control_tokens("x", re.compile("x")).split("x")
_MARKS = re.compile(f"[{START}{END}]")
_MARKED = re.compile(f"{START}[^{START}{END}]*{END}")
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_SOURCES = ("image", "url", "path", "base64")  # the fields of an image item that may hold the image


# ---------------------------------------------------------------------- texts and the tokens in them


class ControlTokens(NamedTuple):
    """What may not come from a text, as patterns; longer tokens first."""

    of_users: re.Pattern[str]  # special tokens, and other added tokens that the template writes
    of_assistants: re.Pattern[str]  # special tokens alone: a model that was taught to write `<think>` goes on doing so


def control_tokens(tokenizer: Any, template: str, slots: tuple[str, ...]) -> ControlTokens:
    """The control tokens of a tokenizer and its chat template, with the tokens of image `slots` among them."""
    special, written = set(slots), set(getattr(tokenizer, "chat_control_tokens", None) or ())
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            special.add(token.content)
        elif token.content in template and not token.content.isspace():
            written.add(token.content)
    return ControlTokens(_any_of(special | written), _any_of(special))


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens - {""}, key=lambda token: (-len(token), token)))))


def mark(value: Any, tokens: re.Pattern[str], label: str) -> Any:
    """
    The value with each of `tokens` in its strings between marks, lists and dictionaries walked through.

    The end mark stands twice. Where a mark and what it holds are cut out to count placeholders, as the library does,
    the second one stays, so that `<ima<image>ge>` does not close to another `<image>`.

    Raises:
        ValueError: a string that is no text (half of a surrogate pair).
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{label} holds {value[error.start]!r} at {error.start}, half of a surrogate pair, which is no "
                "character. Decode the text with `errors='replace'`."
            ) from error
        return mark_control_tokens(value, tokens).replace(END, END * 2)
    if isinstance(value, Mapping):
        return {key: mark(item, tokens, label) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mark(item, tokens, label) for item in value]
    return value


def has_marks(value: Any) -> bool:
    """Whether a marked value holds a control token."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(has_marks, value)) if isinstance(value, list) else isinstance(value, str) and START in value


def strip_marks(text: str) -> str:
    return _MARKS.sub("", text)


def cut_marked(text: str) -> str:
    """What the template and the processor wrote: marked tokens are cut out, and what they parted stays apart."""
    return _MARKED.sub(END, text)


def added_around(tokenizer: Any) -> tuple[str, str]:
    """What the tokenizer itself writes before and after a text, such as a token that begins it."""
    bare, whole = (tokenizer("a", add_special_tokens=is_whole)["input_ids"] for is_whole in (False, True))
    before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return tokenizer.decode(whole[:before]), tokenizer.decode(whole[before + len(bare) :])


def encode_with_offsets(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """
    The tokens of a marked text, as the library's `encode_marked_chat` gives them, and the characters that each covers
    (those of a marked token all cover the whole of it), which the library leaves out.
    """
    added = "|".join(map(re.escape, sorted(tokenizer.added_tokens_encoder, key=len, reverse=True)))
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    place = 0
    for found in [*re.finditer(f"{START}({added}){END}|{_MARKS.pattern}", text), None]:
        stop = found.start() if found else len(text)
        plain_ids, spans = _encode_piece(tokenizer, text[place:stop], is_first=place == 0)
        ids += plain_ids
        offsets += [(place + begin, place + end) for begin, end in spans]
        if found and found[1]:
            marked = encode_marked_chat(tokenizer, found[0])
            ids += marked
            offsets += [found.span()] * len(marked)
        place = found.end() if found else stop
    return ids, offsets


def _encode_piece(tokenizer: Any, piece: str, is_first: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """A piece of a text; only the first may get what a tokenizer writes before a text (SentencePiece's space)."""
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if not is_first:
        found = tokenizer("\n" + piece, add_special_tokens=False, return_offsets_mapping=True)
        if found["input_ids"][: len(newline)] == newline:
            spans = found["offset_mapping"][len(newline) :]
            return found["input_ids"][len(newline) :], [(begin - 1, end - 1) for begin, end in spans]
    found = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]


# ---------------------------------------------------------------------- messages


class _Empty(str):
    """An empty text that counts as one: the library makes a list of a content that is false."""

    def __bool__(self) -> bool:
        return True


def read_message(
    message: Any, label: str, image_token: str, tokens: ControlTokens, fetch: Callable[[Any], Any]
) -> tuple[dict[str, Any], list[Any]]:
    """
    The message with its content as one marked string, `image_token` where an image stands, and its images.

    Args:
        label: names the message in errors.
        fetch: opens an image.

    Raises:
        TypeError, ValueError: what is malformed, by message and field.
    """
    if not isinstance(message, Mapping):
        raise TypeError(f"{label} is {_kind(message)}, expected a dictionary with `role` and `content`.")
    role = _text(message.get("role"), f"{label}: `role`")
    control = tokens.of_assistants if role == "assistant" else tokens.of_users
    try:
        fields = {key: mark(value, control, f"{label}: `{key}`") for key, value in message.items() if key != "content"}
    except RecursionError as error:
        raise ValueError(f"{label} holds lists or dictionaries that are nested too deeply.") from error
    content = message.get("content")
    if content is None and any(fields.get(key) is not None for key in _INSTEAD_OF_CONTENT):
        content = ""
    if content is None:
        raise ValueError(f"{label}: `content` is missing, expected a string or a list of items.")
    if not isinstance(content, str | list | tuple):
        raise TypeError(f"{label}: `content` is {_kind(content)}, expected a string or a list of items.")
    parts, images = ([content], []) if isinstance(content, str) else _read_items(content, label, fetch)
    texts = [mark(text, control, f"{label}: `content`") for text in parts]
    return {**fields, "content": image_token.join(texts) or _Empty()}, images


def _read_items(items: Sequence[Any], label: str, fetch: Callable[[Any], Any]) -> tuple[list[str], list[Any]]:
    """The texts before, between and after images; and the images."""
    texts, images = [""], []
    for index, item in enumerate(items):
        place = f"{label}: `content[{index}]"
        if not isinstance(item, Mapping):
            raise TypeError(f"{place}` is {_kind(item)}, expected a dictionary with `type`.")
        if item.get("type") == "text":
            texts[-1] += _text(item.get("text"), f"{place}.text`")
        elif item.get("type") in ("image", "image_url"):
            images += _images(item, place, fetch)
            texts.append("")
        else:
            raise ValueError(
                f"{place}.type` is {item.get('type')!r}, expected `text`, `image` or `image_url`: {_shown(item)}."
            )
    return texts, images


def _images(item: Mapping[str, Any], place: str, fetch: Callable[[Any], Any]) -> list[Any]:
    """The image of an item in a list; none where the item is only the place of one that comes by another way."""
    source: Any = item
    if item["type"] == "image_url":
        source = item.get("image_url", item)
        source = {"url": source} if isinstance(source, str) else source
        if not isinstance(source, Mapping) or not isinstance(source.get("url"), str):
            raise ValueError(f"{place}.image_url` is {_shown(source)}, expected an address, or {{'url': address}}.")
    given = [key for key in _SOURCES if source.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{place}` names its image {len(given)} times, by {given}. Leave one of them.")
    try:
        return [fetch(source[key]) for key in given]
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{place}.{given[0]}`: {error}") from error


def _text(value: Any, label: str) -> str:
    if value is None:
        raise ValueError(f"{label} is missing, expected a string.")
    if not isinstance(value, str):
        raise TypeError(f"{label} is {_kind(value)}, expected a string.")
    return value


def _kind(value: Any) -> str:
    return "None" if value is None else f"of the type {type(value).__name__}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
