"""ANLS, for answers that are read off a document: DocVQA, InfographicVQA, ST-VQA."""

from nltk.metrics.distance import edit_distance

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT, TEXTS


class Anls(Metric):
    """
    Average normalised Levenshtein similarity: 1 - edits / length of the longer text, 0 where that many edits or more
    are a half of it (`threshold`), the best of a row's references, averaged over rows; from 0 to 1.

    Case and the number of spaces do not matter.
    """

    columns = {"predictions": TEXT, "references": TEXTS}
    source = "Biten et al., Scene Text Visual Question Answering, ICCV 2019, arXiv 1905.13648, equation 1"

    def score(
        self, predictions: list[str], references: list[list[str]], threshold: float = 0.5
    ) -> tuple[dict[str, float], list[float | None]]:
        """
        Args:
            threshold: from this normalised distance on an answer is worth nothing. The paper's is 0.5.
        """
        if not 0 < threshold <= 1:
            raise ValueError(f"`threshold` is {threshold}; a normalised distance is above 0 and at most 1.")
        rows: list[float | None] = [
            max(_similarity(_tidy(answer), _tidy(reference), threshold) for reference in row)
            for answer, row in zip(predictions, references, strict=True)
        ]
        return {"anls": mean(rows)}, rows


def _tidy(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(answer: str, reference: str, threshold: float) -> float:
    distance = edit_distance(answer, reference) / max(len(answer), len(reference), 1)
    return 1 - distance if distance < threshold else 0.0
