"""POPE: is an object there, or hallucinated?"""

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT


class Pope(Metric):
    """
    Accuracy, precision, recall and F1 of "yes", and the share of yes among the answers; each from 0 to 1.

    An answer says no if its first sentence has one of the words No, no, not, and yes otherwise, be it empty or about
    something else: that is the authors' rule. Precision, recall and F1 are 0 where nothing was there to count.
    """

    columns = {"predictions": TEXT, "references": TEXT}
    source = "Li et al., POPE, EMNLP 2023, arXiv 2305.10355, and evaluate.py of https://github.com/AoiDragon/POPE"

    def score(self, predictions: list[str], references: list[str]) -> tuple[dict[str, float], list[float | None]]:
        said = [_says_yes(answer) for answer in predictions]
        true = [_is_yes(row, label) for row, label in enumerate(references)]
        hits = sum(a and b for a, b in zip(said, true, strict=True))
        rows: list[float | None] = [float(a == b) for a, b in zip(said, true, strict=True)]
        return {
            "accuracy": mean(rows),
            "precision": _share(hits, sum(said)),
            "recall": _share(hits, sum(true)),
            "f1": _share(2 * hits, sum(said) + sum(true)),
            "yes_ratio": sum(said) / len(said),
        }, rows


def _says_yes(answer: str) -> bool:
    return not {"No", "no", "not"} & set(answer.partition(".")[0].replace(",", "").split())


def _is_yes(row: int, label: str) -> bool:
    if label.strip().lower() not in ("yes", "no"):
        raise ValueError(f"`references[{row}]` is {label!r}; POPE's labels are yes and no.")
    return label.strip().lower() == "yes"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
