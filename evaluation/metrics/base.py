"""What the metrics have in common: they check what they are given, and tell each row's score on request."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import evaluate
from datasets import Features

from granulon.evaluation.metrics.columns import Column


class Metric(evaluate.Metric, ABC):
    """
    A metric whose `compute` takes the columns in `columns`, the options of `score`, and `per_row`.

    The class's docstring is its description. Abstract, since `evaluate.load` takes the first concrete metric of a
    script.
    """

    columns: ClassVar[dict[str, Column]]
    source: ClassVar[str]  # the paper or the code that defines it

    @abstractmethod
    def score(self, **inputs: Any) -> tuple[dict[str, float], list[float | None] | None]:
        """
        The results by name, and each row's share in the first of them, whose mean that is: None for a row that does
        not count, and None in place of the list where the whole is no mean of its rows.
        """

    def _info(self) -> evaluate.MetricInfo:
        columns = "\n".join(f"    {name}: {column.expected}." for name, column in self.columns.items())
        return evaluate.MetricInfo(
            description=inspect.getdoc(type(self)) or "",
            citation=self.source,
            inputs_description=f"\nArgs, one entry for each row:\n{columns}\n",
            features=Features({name: column.feature for name, column in self.columns.items()}),
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **inputs: Any) -> dict[str, Any] | None:
        """
        The results of these rows and of those that were added before, by name.

        With `per_row=True` also `per_row`: each row's score, whose mean the first result is, for intervals (None where
        a row does not count).
        """
        if predictions is None and references is None and self.writer is None:
            raise ValueError(f"There is nothing to score: give `compute` {self._wanted()}, or add rows first.")
        options = inputs.keys() - self.columns.keys()
        if unknown := options - {*inspect.signature(self.score).parameters, "per_row"}:
            known = [name for name in inspect.signature(self.score).parameters if name not in self.columns]
            raise TypeError(
                f"{self.name} has no {_quoted(sorted(unknown))}: "
                f"its columns are {self._wanted()}, its options {_quoted([*known, 'per_row'])}."
            )
        return super().compute(predictions=predictions, references=references, **inputs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **others: Any) -> None:
        """Rows for a later `compute`: lists of equal length."""
        given = {"predictions": predictions, "references": references, **others}
        if missing := [name for name in self.columns if given.get(name) is None]:
            raise ValueError(f"{self.name} scores {self._wanted()}; without {_quoted(missing)} it cannot.")
        batch = {name: column.cells(name, given.pop(name)) for name, column in self.columns.items()}
        lengths = {name: len(cells) for name, cells in batch.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
            raise ValueError(f"Each row needs an entry in every column, but {counts}.")
        if not lengths["predictions"]:
            raise ValueError("`predictions` is empty: there is nothing to score.")
        super().add_batch(**batch, **{name: value for name, value in given.items() if value is not None})

    def add(self, *, prediction: Any = None, reference: Any = None, **others: Any) -> None:
        """One row for a later `compute`."""
        self.add_batch(
            predictions=None if prediction is None else [prediction],
            references=None if reference is None else [reference],
            **{name: [value] for name, value in others.items()},
        )

    def _compute(self, *, per_row: bool = False, **inputs: Any) -> dict[str, Any]:
        results, rows = self.score(**inputs)
        if not per_row:
            return results
        if rows is None:
            raise ValueError(f"{self.name} is counted over all rows at once; a single row has no score in it.")
        return results | {"per_row": rows}

    def _wanted(self) -> str:
        return _quoted(self.columns)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def mean(scores: Sequence[float | None]) -> float:
    """Of the rows that count."""
    counted = [score for score in scores if score is not None]
    if not counted:
        raise ValueError(f"None of the {len(scores)} rows counts, so there is no mean.")
    return sum(counted) / len(counted)
