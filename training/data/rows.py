"""A row, whatever it is, as a sample for training, or a `BadRowError` with the reason: nothing else comes of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from granulon.modeling_granulon.slots_granulon import level_index

from ..granularity_corpus import rebin_weights, validate_weights
from .faults import BadRowError, shorten, shown
from .formats import Format, choose_format, expected_columns
from .images import locate_image
from .turns import Chat, check_turns, place_images


_IMAGE_COLUMNS = ("images", "image", "file_name", "file_names")  # the last two: `imagefolder`'s
_ANY_LEVEL = range(256)  # where the model's levels are not known


@dataclass
class Sample:
    """One row in the common form. An image is an absolute path, the bytes of a file, or a PIL image."""

    chat: Chat
    images: list[Any]
    labels: list[float] | None = None
    granularity: int = -1
    choices: dict[str, str] = field(default_factory=dict)  # values of the columns `Format.choices`


@dataclass(frozen=True)
class RowReader:
    """
    Args:
        formats: to choose from.
        columns: our names of columns to the source's.
        question: of rows without one.
        root: the folder that image names are relative to; `None` takes absolute paths.
        level_names: of the model's levels; `None` where they are not known.
        reserved: tokens that no text may hold.
        render: puts messages into the chat template, which may refuse them. Templates refuse roles, so each sequence
            of roles is tried once: a template takes four times as long as all the rest.
    """

    formats: tuple[Format, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None
    root: Path | None = None
    level_names: tuple[str, ...] | None = None
    reserved: tuple[str, ...] = ()
    render: Callable[[list[dict[str, Any]]], Any] | None = None
    _rendered: set[tuple[str, ...]] = field(default_factory=set, init=False, repr=False)  # roles of chats

    def read(self, row: Any) -> Sample:
        """
        Raises:
            BadRowError: whatever is wrong with the row.
        """
        try:
            return self._read(row)
        except BadRowError:
            raise
        except Exception as error:  # a row may hold anything; whatever it breaks, the other rows are good
            raise BadRowError(f"cannot be read ({type(error).__name__}: {shorten(str(error))})") from error

    def _read(self, row: Any) -> Sample:
        if isinstance(row, BadRowError):
            raise row
        if not isinstance(row, Mapping):
            raise BadRowError(f"is a {type(row).__name__}, expected an object with {expected_columns(self.formats)}")
        row = {**row, **{ours: row.get(theirs) for ours, theirs in self.columns.items()}}
        if row.get("question") is None:
            row["question"] = self.question
        filled = [name for name, value in row.items() if value is not None]
        layout = choose_format(filled, self.formats)
        if layout is None:
            raise BadRowError(
                f"has the columns {shown(sorted(filled))}, expected {expected_columns(self.formats)}; `columns` maps "
                "other names"
            )
        chat, images = place_images(layout.read(row), self._images(row), layout.marks_images, self._locate)
        check_turns(chat, self.reserved)
        if layout.needs_image and not images:
            raise BadRowError("has no image")
        self._check_template(chat)
        choices = {name: _choice(row, name, values) for name, values in layout.choices.items()}
        return Sample(chat, images, self._labels(row), self._level(row.get("granularity")), choices)

    def _images(self, row: Mapping[str, Any]) -> list[Any]:
        value: Any = next((row[key] for key in _IMAGE_COLUMNS if row.get(key) is not None), [])
        return [self._locate(image) for image in (value if isinstance(value, list | tuple) else [value])]

    def _locate(self, image: Any) -> Any:
        return locate_image(image, self.root)

    def _check_template(self, chat: Chat) -> None:
        roles = tuple(role for role, _ in chat)
        if self.render is None or roles in self._rendered:
            return
        try:
            self.render([{"role": role, "content": parts} for role, parts in chat])
        except Exception as error:  # templates raise what they like
            raise BadRowError(f"cannot be put into a prompt: {shorten(str(error))}") from error
        self._rendered.add(roles)

    def _labels(self, row: Mapping[str, Any]) -> list[float] | None:
        labels = row.get("granularity_labels")
        if labels is None:
            return None
        try:
            weights = validate_weights(labels)
        except ValueError as error:
            raise BadRowError(f"has bad `granularity_labels`: {shorten(str(error))}") from error
        return rebin_weights(weights, len(self.level_names)) if self.level_names else list(weights)

    def _level(self, level: Any) -> int:
        names: Any = self.level_names or _ANY_LEVEL
        try:
            return level_index(level, names)
        except ValueError as error:
            known = f"one of {list(names)}, " if self.level_names else ""
            hint = "" if self.level_names else " (names need `processor`)"
            raise BadRowError(
                f"has the granularity {shown(level)}, expected {known}an index from 0, or null{hint}"
            ) from error


def _choice(row: Mapping[str, Any], name: str, values: tuple[str, ...]) -> str:
    if row[name] not in values:
        raise BadRowError(f"has the {name} {shown(row[name])}, expected one of {list(values)}")
    return row[name]
