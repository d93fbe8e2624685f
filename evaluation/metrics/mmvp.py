"""MMVP: pairs of images that CLIP takes for the same."""

from collections import Counter

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import INDEX, KEY, TEXT
from granulon.evaluation.metrics.text import letter_index


class Mmvp(Metric):
    """
    The share of pairs of which both questions are answered rightly, and of questions; from 0 to 1.

    Questions have two options, (a) and (b), and answers give a letter; `unread` is the share of those that give none.
    The data lie in order: rows 0 and 1 are a pair, rows 2 and 3, and so on.
    """

    columns = {
        "predictions": TEXT,
        "references": INDEX._replace(expected="the right option, 0 for (a) and 1 for (b)"),
        "pairs": KEY._replace(expected="the name or number of the row's pair"),
    }
    source = "Tong et al., Eyes Wide Shut?, CVPR 2024, arXiv 2401.06209"

    def score(
        self, predictions: list[str], references: list[int], pairs: list[str]
    ) -> tuple[dict[str, float], list[float | None]]:
        if odd := [name for name, count in Counter(pairs).items() if count != 2]:
            raise ValueError(
                f"`pairs` must name each pair in two rows, but {len(odd)} are in another number of them: {odd[:5]}."
            )
        if wrong := [row for row, right in enumerate(references) if right > 1]:
            raise ValueError(f"`references[{wrong[0]}]` is {references[wrong[0]]}; MMVP has two options, 0 and 1.")
        given = [letter_index(answer, 2) for answer in predictions]
        right = [float(one == other) for one, other in zip(given, references, strict=True)]
        missed = {pair for pair, hit in zip(pairs, right, strict=True) if not hit}
        rows: list[float | None] = [float(pair not in missed) for pair in pairs]
        return {
            "pair_accuracy": mean(rows),
            "accuracy": mean(right),
            "unread": given.count(None) / len(given),
        }, rows
