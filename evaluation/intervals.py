"""Accuracies and differences of accuracies with 95 % intervals, resampled by image."""

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Interval(NamedTuple):
    """A mean and the bounds of its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """As percent, `81.2 [80.1, 82.3]`; with "+" signs are shown."""
        sign = "+" if spec == "+" else ""
        return f"{100 * self.mean:{sign}.1f} [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


def bootstrap_interval(
    scores: Sequence[float], groups: Sequence[object], resamples: int = 2000, seed: int = 0
) -> Interval:
    """
    Mean of `scores` with its percentile bootstrap interval. Whole groups are resampled: questions about one image
    succeed and fail together, so drawing them one by one would pretend to more evidence than there is.

    Args:
        scores: one number for each question: 0 or 1 for an accuracy, the difference of two for a paired comparison.
        groups: what each question was asked about, such as the image's path.

    Raises:
        ValueError: no scores, or another number of groups.
    """
    if not len(scores) or len(scores) != len(groups):
        raise ValueError(f"Expected as many groups as scores and at least one, got {len(groups)} and {len(scores)}.")
    index = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    group_of = torch.tensor([index[group] for group in groups])
    values = torch.tensor(scores, dtype=torch.float64)
    totals = torch.zeros(len(index), dtype=torch.float64).index_add(0, group_of, values)
    sizes = torch.zeros(len(index), dtype=torch.float64).index_add(0, group_of, torch.ones_like(values))
    drawn = torch.randint(len(index), (resamples, len(index)), generator=torch.Generator().manual_seed(seed))
    means = totals[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high)
