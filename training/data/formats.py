"""
The formats of a row: one line of `FORMATS`, and one function that finds the turns of a chat in a row.

To add a format, write both, and a line in the table of docs/training.md; tests/training/data/test_formats.py has an
example of every format. A row is a mapping from names of columns to whatever values there are: say what is wrong with
it by a `BadRowError`. Images, texts, the order of turns and granularity are looked after for all formats in `rows.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .faults import BadRowError, shown


IMAGE_TAG = "<image>"  # marks the place of an image in a user's text
SURGICAL_TASKS = ("phase", "instrument")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}

Turn = tuple[str, Any]  # the role, "user", "assistant" or "system"; and a text, or a list of parts as of `messages`


# ---------------------------------------------------------------------- turns of rows


def read_llava(row: Mapping[str, Any]) -> list[Turn]:
    """`conversations` of `{"from": "human" or "gpt", "value": text}`."""
    return [_turn(turn, "from", "value") for turn in _turns(row, "conversations")]


def read_messages(row: Mapping[str, Any]) -> list[Turn]:
    """`messages` of `{"role": ..., "content": text or parts}`."""
    return [_turn(turn, "role", "content") for turn in _turns(row, "messages")]


def read_prompt_and_completion(row: Mapping[str, Any]) -> list[Turn]:
    """`prompt` and `completion`, each a text or a list of messages."""
    turns: list[Turn] = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        is_text = isinstance(row[key], str)
        turns += [(role, row[key])] if is_text else [_turn(turn, "role", "content") for turn in _turns(row, key)]
    return turns


def read_question_and_answer(row: Mapping[str, Any]) -> list[Turn]:
    """`question` and `answer`, both texts."""
    return [("user", row["question"]), ("assistant", row["answer"])]


# ---------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Format:
    """
    Args:
        name: for the argument `format` of `load_training_data`.
        columns: a row is of the first format for which it has values in all of these.
        read: the turns of such a row.
        marks_images: texts mark the place of every image with `<image>`. Otherwise images without a mark stand in
            front of the first question.
        is_guessed: also where `format` does not name it.
        needs_image: a row without one is bad.
        choices: columns that go into the training rows, each with its permitted values.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], list[Turn]]
    marks_images: bool = False
    is_guessed: bool = True
    needs_image: bool = False
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def shown_columns(self) -> str:
        return " and ".join(f"`{column}`" for column in self.columns)


FORMATS = (
    Format("llava", ("conversations",), read_llava, marks_images=True),
    Format("messages", ("messages",), read_messages),
    Format("prompt-completion", ("prompt", "completion"), read_prompt_and_completion),
    Format("question-answer", ("question", "answer"), read_question_and_answer),
    Format(
        "surgical",
        ("question", "answer", "task"),
        read_question_and_answer,
        is_guessed=False,
        needs_image=True,
        choices={"task": SURGICAL_TASKS},
    ),
)

FormatName: Any = Literal[("auto", *(each.name for each in FORMATS))]  # type: ignore[valid-type]


def formats_named(name: str) -> tuple[Format, ...]:
    """The formats to choose from: the one of that name, or with "auto" those that are guessed."""
    return tuple(each for each in FORMATS if (each.is_guessed if name == "auto" else each.name == name))


def choose_format(columns: Iterable[str], formats: Iterable[Format]) -> Format | None:
    """The first format whose columns are all there."""
    have = set(columns)
    return next((each for each in formats if have.issuperset(each.columns)), None)


def expected_columns(formats: Iterable[Format]) -> str:
    """For messages: "`messages`, or `prompt` and `completion`; with `image` or `images`"."""
    return f"{', or '.join(each.shown_columns for each in formats)}; with `image` or `images`"


# ---------------------------------------------------------------------- what functions share


def _turns(row: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(row[key], list | tuple) or not row[key]:
        raise BadRowError(f"has {shown(row[key])} as `{key}`, expected a list of turns")
    return list(row[key])


def _turn(turn: Any, role_key: str, content_key: str) -> Turn:
    if not isinstance(turn, Mapping) or role_key not in turn or content_key not in turn:
        raise BadRowError(f"has the turn {shown(turn)}, expected `{role_key}` and `{content_key}`")
    role = turn[role_key]
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRowError(f"has a turn of {shown(role)}, expected one of {list(_ROLES)}")
    return _ROLES[role], turn[content_key]
