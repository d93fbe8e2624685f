"""Bad rows: each has its index and a reason; they are counted, or the first one is fatal."""

import reprlib
from dataclasses import dataclass, field
from typing import Any


class BadRowError(ValueError):
    """A row that training cannot use. The message says why, as in "row 3 ... has an empty answer"."""


@dataclass
class BadRows:
    """The rows that were left out: `(index in the source, counted from 0; reason)`, and how many were looked at."""

    name: str
    rows: list[tuple[int, str]] = field(default_factory=list)
    num_seen: int = 0

    def report(self, limit: int = 5) -> str:
        """One line with the count, then the first `limit` rows, each with its reason."""
        if not self.rows:
            return f"{self.name}: all {self.num_seen} rows are usable."
        lines = [f"{self.name}: left out {len(self.rows)} of {self.num_seen} rows."]
        lines += [f"  row {index}: {reason}" for index, reason in self.rows[:limit]]
        if len(self.rows) > limit:
            lines.append(f"  and {len(self.rows) - limit} more")
        return "\n".join(lines)


@dataclass
class Policy:
    """What happens to bad rows: the arguments `on_bad_row` and `max_bad_rows` of `load_training_data`."""

    bad_rows: BadRows
    on_bad_row: str
    max_bad_rows: int | None

    def reject(self, index: int, reason: str) -> None:
        """Count a bad row, or raise."""
        if self.on_bad_row == "error":
            raise BadRowError(
                f"{self.bad_rows.name}, row {index}: {reason}. Mend the row, or leave such rows out with "
                '`on_bad_row: "skip"`.'
            )
        self.bad_rows.rows.append((index, reason))
        if self.max_bad_rows is not None and len(self.bad_rows.rows) > self.max_bad_rows:
            raise BadRowError(
                f"More than `max_bad_rows` = {self.max_bad_rows} rows cannot be used.\n{self.bad_rows.report()}"
            )


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 2, 80, 40, 80
        self.maxlist = self.maxtuple = self.maxdict = 12

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= 20 else f"{value[:20]!r} and {len(value) - 20} more bytes"


def shown(value: Any) -> str:
    """A short `repr`, for reasons, of whatever size and depth the value is."""
    try:
        return shorten(_Short().repr(value))
    except Exception:  # an integer of more digits than Python writes, an object with a faulty `__repr__`
        return f"<{type(value).__name__}>"


def shorten(text: str, limit: int = 300) -> str:
    """An exception's message, for reasons."""
    text = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return text.encode(errors="backslashreplace").decode()
