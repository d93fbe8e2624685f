"""VQA's soft accuracy, for VQAv2, OK-VQA, VizWiz and, in EvalAI's form, TextVQA."""

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import TEXT, TEXTS
from granulon.evaluation.metrics.text import evalai_answer, one_line, vqa_answer


NORMALISERS = ("vqa", "evalai")


class VqaAccuracy(Metric):
    """
    An answer is worth min(1, people who gave it / 3), averaged over all ways to leave one of the people out, then over
    rows; from 0 to 1.

    Answers are compared without punctuation and articles, with numbers as digits; where all people agree, to the
    letter. The normaliser "evalai", TextVQA's, also lower-cases, drops commas and always normalises.
    """

    columns = {"predictions": TEXT, "references": TEXTS}
    source = (
        "Antol et al., VQA, ICCV 2015, arXiv 1505.00468, and vqaEval.py of https://github.com/GT-Vision-Lab/VQA; "
        "Singh et al., TextVQA, CVPR 2019, arXiv 1904.08920"
    )

    def score(
        self, predictions: list[str], references: list[list[str]], normaliser: str = "vqa"
    ) -> tuple[dict[str, float], list[float | None]]:
        """
        Args:
            normaliser: "vqa" or "evalai".
        """
        if normaliser not in NORMALISERS:
            raise ValueError(f"`normaliser` is {normaliser!r}; it is one of {', '.join(NORMALISERS)}.")
        for row, people in enumerate(references):
            if len(people) < 2:
                raise ValueError(
                    f"`references[{row}]` is one person's answer, {people}; VQA accuracy compares with those of all "
                    "(ten in VQAv2), leaving one out in turn."
                )
        worth = _vqa if normaliser == "vqa" else _evalai
        rows: list[float | None] = [
            worth(answer, people) for answer, people in zip(predictions, references, strict=True)
        ]
        return {"vqa_accuracy": mean(rows)}, rows


def _vqa(answer: str, people: list[str]) -> float:
    answer, people = one_line(answer), [one_line(other) for other in people]
    if len(set(people)) > 1:
        answer, people = vqa_answer(answer), [vqa_answer(other) for other in people]
    return _agreement(answer, people)


def _evalai(answer: str, people: list[str]) -> float:
    return _agreement(evalai_answer(answer), [evalai_answer(other) for other in people])


def _agreement(answer: str, people: list[str]) -> float:
    """Leaving one out: each that gave the answer sees one person fewer agree."""
    agree = people.count(answer)
    return (agree * min(1, (agree - 1) / 3) + (len(people) - agree) * min(1, agree / 3)) / len(people)
