"""Token recall, the "Recall" of the Granulon paper's tables."""

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT
from granulon.evaluation.metrics.text import words


class TokenRecall(Metric):
    """
    The share of the reference's different words that the answer contains, averaged over rows; from 0 to 1.

    Words are lower-cased runs of letters, digits and underscores; how often and in which order they come does not
    matter. Rows whose reference has no word do not count.
    """

    columns = {"predictions": TEXT, "references": TEXT}
    source = (
        "arXiv 2603.08800, section 4, and `recall_metric` in code/eval.py of https://github.com/jinlab-imvr/Granulon "
        "(commit 38a2d55)"
    )

    def score(self, predictions: list[str], references: list[str]) -> tuple[dict[str, float], list[float | None]]:
        rows = [_recall(answer, reference) for answer, reference in zip(predictions, references, strict=True)]
        return {"token_recall": mean(rows)}, rows


def _recall(answer: str, reference: str) -> float | None:
    wanted = set(words(reference))
    return len(wanted & set(words(answer))) / len(wanted) if wanted else None
