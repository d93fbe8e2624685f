"""Samples as rows of a data set, with the columns that any of them needs."""

from dataclasses import dataclass, field
from typing import Any

from datasets import Features, Image, List, Value
from PIL import Image as PILImage

from .rows import Sample


_CHAT = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})


@dataclass
class Traits:
    """What the samples seen so far have."""

    is_single: bool = True  # each is one question with one answer
    has_images: bool = False
    has_labels: bool = False
    has_granularity: bool = False
    choices: dict[str, None] = field(default_factory=dict)  # names of columns, in order

    def add(self, sample: Sample) -> None:
        self.is_single &= sum(role == "assistant" for role, _ in sample.chat) == 1
        self.has_images |= bool(sample.images)
        self.has_labels |= sample.labels is not None
        self.has_granularity |= sample.granularity >= 0
        self.choices |= dict.fromkeys(sample.choices)

    def writer(self, layout: str) -> "Writer":
        """Args: `layout` is that of `load_training_data`."""
        chosen = "prompt-completion" if self.is_single and layout == "auto" else "messages"
        return Writer(chosen, self.has_labels, self.has_granularity, tuple(self.choices))


@dataclass(frozen=True)
class Writer:
    """A `Sample` as a row of the data set."""

    layout: str
    has_labels: bool = False
    has_granularity: bool = False
    choices: tuple[str, ...] = ()

    @property
    def features(self) -> Features:
        chats = ("prompt", "completion") if self.layout == "prompt-completion" else ("messages",)
        features: dict[str, Any] = dict.fromkeys(chats, _CHAT)
        features["images"] = List(Image())
        if self.has_labels:
            features["granularity_labels"] = List(Value("float32"))
        if self.has_granularity:
            features["granularity"] = Value("int64")
        return Features(features | dict.fromkeys(self.choices, Value("string")))

    def __call__(self, sample: Sample) -> dict[str, Any]:
        messages = [{"role": role, "content": parts} for role, parts in sample.chat]
        row: dict[str, Any] = {"messages": messages}
        if self.layout == "prompt-completion":
            row = {"prompt": messages[:-1], "completion": messages[-1:]}
        row["images"] = [_stored(image) for image in sample.images]
        if self.has_labels:
            row["granularity_labels"] = sample.labels
        if self.has_granularity:
            row["granularity"] = sample.granularity
        return row | {name: sample.choices.get(name) for name in self.choices}


def _stored(image: str | bytes | PILImage.Image) -> Any:
    """An image as `datasets` stores it; bytes without a path, of which it would take the file there instead."""
    if isinstance(image, PILImage.Image):
        return image
    return {"bytes": None, "path": image} if isinstance(image, str) else {"bytes": image, "path": None}
