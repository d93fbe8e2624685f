"""MMVP: pairs of images that CLIP takes for the same (Tong et al. 2024, arXiv 2401.06209)."""

import re
from typing import Any

from granulon.evaluation.benchmarks.base import LETTER, Benchmark, Item, always, with_options


# rows whose answers are swapped in the first release (https://github.com/tsb0601/MMVP/issues/30), by `Index`
CORRECTED = {99: "(b)", 100: "(a)", 279: "(b)", 280: "(a)"}


def _item(row: dict[str, Any]) -> Item:
    index = int(row["Index"])  # from 1
    choices = [text.strip() for text in re.split(r"\([ab]\)", row["Options"])[1:]]
    answer = CORRECTED.get(index, row["Correct Answer"].strip().lower())
    if len(choices) != 2 or answer not in ("(a)", "(b)"):
        raise ValueError(f"`Options` is {row['Options']!r}, `Correct Answer` {row['Correct Answer']!r}")
    right, pair = "ab".index(answer[1]), str((index - 1) // 2)
    return Item(
        str(index),
        with_options(row["Question"], choices, LETTER),
        f"{'AB'[right]}. {choices[right]}",
        {"references": right, "pairs": pair},
        pair,
    )


BENCHMARKS = [
    Benchmark(
        name="mmvp",
        summary="pairs of images that CLIP takes for the same; a pair counts if both answers are right",
        sources=("lmms-lab-eval/MMVP",),
        split="train",
        columns=("Index", "Question", "Options", "Correct Answer", "image"),
        item=_item,
        metric="mmvp",
        in_groups=True,
        baseline=always("A"),
    )
]
