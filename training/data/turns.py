"""From turns with any content to turns of texts and images, in which every image has its place."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .faults import BadRowError, shown
from .formats import IMAGE_TAG, Turn


Part = dict[str, Any]  # {"type": "text", "text": ...} or {"type": "image", "text": None}
Chat = list[tuple[str, list[Part]]]  # roles and parts


def check_text(text: Any, what: str) -> str:
    """The text, or a `BadRowError` for what is none, or what no file system, table or tokenizer takes as one."""
    if not isinstance(text, str):
        raise BadRowError(f"has {shown(text)} as {what}, expected a text")
    if "\0" in text:
        raise BadRowError(f"has a zero byte in {what} ({shown(text)})")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(
            f"has {text[error.start]!r} in {what}, half of a surrogate pair or a byte that is not UTF-8"
        ) from error
    return text


def place_images(
    turns: Iterable[Turn], images: Sequence[Any], marks_images: bool, locate: Callable[[Any], Any]
) -> tuple[Chat, list[Any]]:
    """
    Args:
        images: of the row; without any, those that image parts name.
        marks_images: as of a `Format`.
        locate: an image as it stands in a part to what a `Sample` holds.

    Returns:
        the chat, and its images in the order of their places.
    """
    chat: Chat = []
    named: list[Any] = []  # images that parts bring along
    order: list[int] = []  # which image belongs to a place, where parts say so
    for role, content in turns:
        parts: list[Part] = []
        for part in _parts(content):
            if part.get("type") == "image":
                parts.append(_image_part())
                named += [locate(part[key]) for key in ("image", "path", "url") if part.get(key) is not None][:1]
                order += _index(part)
            elif part.get("type") == "text":
                text = "" if part.get("text") is None else check_text(part["text"], "a text")
                parts += _split_text(text, has_marks=role == "user", is_whole=isinstance(content, str))
            else:
                raise BadRowError(f"has a part of the type {shown(part.get('type'))}, expected `text` or `image`")
        chat.append((role, parts))
    images = list(images) or named
    if not marks_images:
        _put_in_front(chat, len(images))
    num_places = _count_places(chat)
    if num_places != len(images):
        raise BadRowError(f"marks the place of {num_places} images ({IMAGE_TAG}), but has {len(images)}")
    if len(order) == len(images) and sorted(order) == list(range(len(images))):
        images = [images[index] for index in order]
    return chat, images


def check_turns(chat: Chat, reserved: Iterable[str] = ()) -> None:
    """A `BadRowError` for roles out of order, empty turns, images beside a question, or `reserved` tokens in texts."""
    spoken = [turn for turn in chat if turn[0] != "system"]
    if not spoken or any(role != ("user", "assistant")[index % 2] for index, (role, _) in enumerate(spoken)):
        roles = [role for role, _ in chat]
        raise BadRowError(f"has turns of {shown(roles)}, expected the user and the assistant in turn, the user first")
    if len(spoken) % 2:
        raise BadRowError("ends with a question that has no answer")
    following = [role for role, _ in chat[1:]] + ["assistant"]
    if ("system", "assistant") in zip((role for role, _ in chat), following, strict=True):
        raise BadRowError("has a system turn that no question follows")
    names = {"user": "question", "assistant": "answer", "system": "system turn"}
    for role, parts in chat:
        text = "".join(part["text"] or "" for part in parts).strip()
        if not text and (role == "assistant" or (role == "user" and not parts)):
            raise BadRowError(f"has an empty {names[role]}")
        if role != "user" and any(part["type"] == "image" for part in parts):
            raise BadRowError(f"has an image in its {names[role]}")
        for token in (*reserved, *(() if role == "user" else (IMAGE_TAG,))):
            if token in text:
                raise BadRowError(f"has {token!r} in its {names[role]}, which is reserved for images")


def _parts(content: Any) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:
        return []
    if not isinstance(content, list | tuple) or not all(isinstance(part, Mapping) for part in content):
        raise BadRowError(f"has the content {shown(content)}, expected a text or a list of parts")
    return list(content)


def _split_text(text: str, has_marks: bool, is_whole: bool) -> list[Part]:
    """Texts, and images in place of the marks between them."""
    parts: list[Part] = []
    texts = text.split(IMAGE_TAG) if has_marks else [text]
    for index, piece in enumerate(texts):
        # without the line break that LLaVA writes beside the mark: a chat template has none
        piece = piece.strip() if is_whole or len(texts) > 1 else piece
        parts += [_image_part()] if index else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def _image_part() -> Part:
    return {"type": "image", "text": None}  # with `text`, so that all parts have the same columns


def _index(part: Mapping[str, Any]) -> list[int]:
    index = part.get("index")
    if index is None:
        return []
    if not isinstance(index, int) or isinstance(index, bool):
        raise BadRowError(f"has an image part with the `index` {shown(index)}, expected a number from 0")
    return [index]


def _count_places(chat: Chat) -> int:
    return sum(part["type"] == "image" for _, parts in chat for part in parts)


def _put_in_front(chat: Chat, num_images: int) -> None:
    """Images without any place, in front of the first question, as TRL does."""
    question = next((parts for role, parts in chat if role == "user"), None)
    if question is not None and not _count_places(chat):
        question[:0] = [_image_part() for _ in range(num_images)]
