"""Relaxed accuracy, for numbers that are read off a chart: ChartQA, PlotQA."""

import math

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT


class RelaxedAccuracy(Metric):
    """
    The share of answers that are right: numbers within 5 % of the reference (`tolerance`), anything else the same text
    but for case; from 0 to 1.

    "12%" is the number 0.12. A reference of 0 allows 0 alone. Thousands separators and units make a number a text.
    """

    columns = {"predictions": TEXT, "references": TEXT}
    source = (
        "Methani et al., PlotQA, WACV 2020, arXiv 1909.00997; Masry et al., ChartQA, ACL Findings 2022, "
        "arXiv 2203.10244, section 5.1; percentages as in lmms-eval"
    )

    def score(
        self, predictions: list[str], references: list[str], tolerance: float = 0.05
    ) -> tuple[dict[str, float], list[float | None]]:
        """
        Args:
            tolerance: the largest error that is right, as a fraction of the reference.
        """
        if not 0 <= tolerance < 1:
            raise ValueError(f"`tolerance` is {tolerance}; it is a fraction of the reference, from 0 to below 1.")
        rows: list[float | None] = [
            float(_is_right(answer, reference, tolerance))
            for answer, reference in zip(predictions, references, strict=True)
        ]
        return {"relaxed_accuracy": mean(rows)}, rows


def _is_right(answer: str, reference: str, tolerance: float) -> bool:
    given, wanted = _number(answer), _number(reference)
    if given is None or wanted is None:
        return answer.strip().lower() == reference.strip().lower()
    return abs(given - wanted) <= tolerance * abs(wanted)


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        number = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
