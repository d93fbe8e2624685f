"""BLEU of one to four words."""

from itertools import zip_longest
from typing import Any

from sacrebleu.metrics import BLEU

from granulon.evaluation.metrics.base import Metric
from granulon.evaluation.metrics.columns import TEXT, TEXTS


class Bleu(Metric):
    """
    BLEU-1 to BLEU-4 of all rows together: the geometric mean of the n-gram precisions up to n, clipped by the
    references, times the penalty for brevity; from 0 to 1.

    Of several references the closest in length counts for the penalty. No smoothing. `tokenize="none"` with
    `lowercase=False` splits at spaces alone, as the Granulon authors do.
    """

    columns = {"predictions": TEXT, "references": TEXTS}
    source = "Papineni et al., BLEU, ACL 2002; computed by sacrebleu"

    def score(
        self, predictions: list[str], references: list[list[str]], tokenize: str = "13a", lowercase: bool = False
    ) -> tuple[dict[str, float], None]:
        """
        Args:
            tokenize: sacrebleu's name for how words are split: "13a" sets punctuation apart, "none" splits at spaces.
        """
        if tokenize not in BLEU.TOKENIZERS:
            raise ValueError(f"`tokenize` is {tokenize!r}; sacrebleu has {', '.join(sorted(BLEU.TOKENIZERS))}.")
        # sacrebleu wants the first reference of each row, then the second of each; None where a row has no more
        columns: list[Any] = list(zip_longest(*references))
        metric = BLEU(tokenize=tokenize, lowercase=lowercase, smooth_method="none", force=True)
        counts = metric.corpus_score(predictions, columns)
        return {
            f"bleu_{n}": BLEU.compute_bleu(
                counts.counts[:n],
                counts.totals[:n],
                counts.sys_len,
                counts.ref_len,
                smooth_method="none",
                max_ngram_order=n,
            ).score
            / 100
            for n in range(1, 5)
        }, None
