"""A-OKVQA's direct answers."""

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import FLAG, TEXT, TEXTS
from granulon.evaluation.metrics.text import plain_answer


class AokvqaDirect(Metric):
    """
    An answer is worth min(1, people who gave it / 3), averaged over the rows that are not `difficult`; from 0 to 1.

    Both sides are compared in lower case, with single spaces and without a full stop at the end; the authors' script
    compares to the letter, which `exact=True` does.
    """

    columns = {
        "predictions": TEXT,
        "references": TEXTS,
        "difficult": FLAG._replace(expected="True or False, the data's `difficult_direct_answer`"),
    }
    source = (
        "Schwenk et al., A-OKVQA, ECCV 2022, arXiv 2206.01718, and evaluation/eval_predictions.py of "
        "https://github.com/allenai/aokvqa"
    )

    def score(
        self, predictions: list[str], references: list[list[str]], difficult: list[bool], exact: bool = False
    ) -> tuple[dict[str, float], list[float | None]]:
        read = str if exact else plain_answer
        rows = [
            None if hard else min(1.0, [read(other) for other in people].count(read(answer)) / 3)
            for answer, people, hard in zip(predictions, references, difficult, strict=True)
        ]
        return {"direct_answer": mean(rows)}, rows
