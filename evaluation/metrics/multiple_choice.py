"""Accuracy where the answer is one of several options."""

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import INDEX, TEXT, TEXTS
from granulon.evaluation.metrics.text import letter_index, option_index


FORMS = ("letter", "first_character", "text")


class MultipleChoice(Metric):
    """
    The share of rows whose answer gives the right option; from 0 to 1.

    How an answer gives an option is its form: "letter" (B, (b), B. a cat, the answer is B), "first_character" (as
    SEED-Bench's evaluation reads letters), or "text" (the option's words, or the only option whose words occur in the
    answer). An answer that gives none is wrong; `unread` is the share of those.
    """

    columns = {
        "predictions": TEXT,
        "references": INDEX._replace(expected="the right option's place among `choices`, from 0"),
        "choices": TEXTS._replace(expected="the options' texts"),
    }
    source = (
        "letters: Li et al., SEED-Bench, CVPR 2024, arXiv 2307.16125; "
        "texts: Schwenk et al., A-OKVQA, ECCV 2022, arXiv 2206.01718"
    )

    def score(
        self, predictions: list[str], references: list[int], choices: list[list[str]], form: str = "letter"
    ) -> tuple[dict[str, float], list[float | None]]:
        """
        Args:
            form: "letter", "first_character" or "text", whichever the prompt asked for. Report it with the number.
        """
        if form not in FORMS:
            raise ValueError(f"`form` is {form!r}; an answer's form is one of {', '.join(FORMS)}.")
        for row, (right, options) in enumerate(zip(references, choices, strict=True)):
            if right >= len(options):
                raise ValueError(
                    f"`references[{row}]` is {right}, but `choices[{row}]` has {len(options)} options, counted from 0."
                )
            if form != "text" and len(options) > 26:
                raise ValueError(f"`choices[{row}]` has {len(options)} options, more than letters. Use form='text'.")
        given = [_read(answer, options, form) for answer, options in zip(predictions, choices, strict=True)]
        rows: list[float | None] = [float(one == right) for one, right in zip(given, references, strict=True)]
        return {"accuracy": mean(rows), "unread": given.count(None) / len(given)}, rows


def _read(answer: str, options: list[str], form: str) -> int | None:
    if form == "text":
        return option_index(answer, options)
    return letter_index(answer.strip()[:1] if form == "first_character" else answer, len(options))
