"""CIDEr."""

from pycocoevalcap.cider.cider_scorer import CiderScorer

from granulon.evaluation.metrics.base import Metric
from granulon.evaluation.metrics.columns import TEXT, TEXTS
from granulon.evaluation.metrics.text import caption_words


class Cider(Metric):
    """
    How alike a caption and its references are in n-grams of one to four words, each weighted by how rare it is among
    the references of all rows, averaged over rows; from 0 to 10.

    What COCO's evaluation calls CIDEr: the variant CIDEr-D, with clipped counts and a penalty for another length. Its
    tokenizer needs Java, so captions are split here by NLTK's Penn Treebank rules and lose their punctuation.
    """

    columns = {"predictions": TEXT, "references": TEXTS}
    source = "Vedantam et al., CIDEr, CVPR 2015, arXiv 1411.5726; computed by pycocoevalcap"

    def score(
        self, predictions: list[str], references: list[list[str]]
    ) -> tuple[dict[str, float], list[float | None]]:
        if len(predictions) < 2:
            raise ValueError(
                "CIDEr weighs n-grams by how few of the rows have them: for one row it is 0, whatever the caption "
                "says. Give all rows of the benchmark at once."
            )
        scorer = CiderScorer()
        for row, (caption, others) in enumerate(zip(predictions, references, strict=True)):
            tokenised = [" ".join(caption_words(other)) for other in others]
            if not any(tokenised):
                raise ValueError(f"`references[{row}]` has no word: {others}. Leave the row out of every column.")
            scorer += (" ".join(caption_words(caption)), tokenised)
        mean, rows = scorer.compute_score()
        return {"cider": float(mean)}, rows.tolist()
