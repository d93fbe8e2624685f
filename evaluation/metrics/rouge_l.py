"""ROUGE-L."""

from rouge_score.rouge_scorer import RougeScorer

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT, TEXTS


class RougeL(Metric):
    """
    The F1 of the longest common subsequence of words of answer and reference, averaged over rows; from 0 to 1.

    Words are lower-cased runs of a-z and 0-9, not stemmed; recall and precision weigh the same (COCO's caption code
    gives recall 1.2 squared). Of several references the best counts.
    """

    columns = {"predictions": TEXT, "references": TEXTS}
    source = "Lin, ROUGE, ACL 2004 workshop Text Summarization Branches Out; computed by rouge-score"

    def score(
        self, predictions: list[str], references: list[list[str]]
    ) -> tuple[dict[str, float], list[float | None]]:
        scorer = RougeScorer(["rougeL"])
        rows: list[float | None] = [
            max(float(scorer.score(reference, answer)["rougeL"].fmeasure) for reference in row)
            for answer, row in zip(predictions, references, strict=True)
        ]
        return {"rouge_l": mean(rows)}, rows
