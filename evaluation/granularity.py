"""How well a controller's probabilities agree with labelled granularities: agreement, calibration, confusion."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .intervals import bootstrap_interval


def calibration_bins(confidence: torch.Tensor, is_right: torch.Tensor, num_bins: int = 15) -> list[dict[str, float]]:
    """
    The reliability diagram: equal bins ((b-1)/B, b/B] of confidence, those with questions only, low to high. Each has
    its `count`, mean `confidence` and `accuracy`.

    Args:
        confidence: `(num_questions,)`, the largest probability of each question.
        is_right: `(num_questions,)` bool.
    """
    index = (confidence.double() * num_bins).ceil().long().clamp(1, num_bins) - 1
    bins = []
    for number in index.unique().tolist():
        inside = index == number
        bins.append(
            {
                "count": int(inside.sum()),
                "confidence": confidence[inside].double().mean().item(),
                "accuracy": is_right[inside].double().mean().item(),
            }
        )
    return bins


def expected_calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """ECE = sum_b (n_b / N) |accuracy_b - confidence_b|, over the bins of `calibration_bins`, from 0 to 1."""
    total = sum(entry["count"] for entry in bins)
    return sum(entry["count"] * abs(entry["accuracy"] - entry["confidence"]) for entry in bins) / total


def measure_agreement(
    probabilities: torch.Tensor, weights: torch.Tensor, groups: Sequence[object] | None = None
) -> dict[str, Any]:
    """
    A controller against labels. A question's label is the level of its largest weight, ties to the coarsest.

    Args:
        probabilities: `(num_questions, num_levels)`, the controller's, coarse to fine.
        weights: `(num_questions, num_levels)`, the labels', rows summing to 1.
        groups: what is resampled together for the intervals, such as families; by default each question alone.

    Returns:
        `agreement` and `within_one`: [mean, low, high] with 95 % bootstrap intervals, as fractions: share of questions
        whose most probable level is the label's, or the label's or a neighbour of it; `cross_entropy` in nats against
        the weights; `expected_calibration_error` (15 bins) and its `reliability` bins; `confusion`: a row for each
        label, a column for each choice, counts; `histogram` and `label_histogram`: questions per level.

    Raises:
        ValueError: the two shapes differ, or there are no questions.
    """
    if probabilities.shape != weights.shape or probabilities.ndim != 2 or not len(weights):
        raise ValueError(
            f"`probabilities` has the shape {tuple(probabilities.shape)} and `weights` {tuple(weights.shape)}; both "
            "must be (num_questions, num_levels), with at least one question."
        )
    num_levels = weights.shape[1]
    chosen, label = probabilities.argmax(-1), weights.argmax(-1)
    distance = (chosen - label).abs()
    groups = list(range(len(weights))) if groups is None else groups
    bins = calibration_bins(probabilities.max(-1).values, distance == 0)
    counts = (label * num_levels + chosen).bincount(minlength=num_levels**2)
    return {
        "num_questions": len(weights),
        "agreement": list(bootstrap_interval((distance == 0).double().tolist(), groups)),
        "within_one": list(bootstrap_interval((distance <= 1).double().tolist(), groups)),
        "cross_entropy": -(weights * probabilities.clamp_min(1e-12).log()).sum(-1).mean().item(),
        "expected_calibration_error": expected_calibration_error(bins),
        "reliability": bins,
        "confusion": counts.reshape(num_levels, num_levels).tolist(),
        "histogram": chosen.bincount(minlength=num_levels).tolist(),
        "label_histogram": label.bincount(minlength=num_levels).tolist(),
    }


def draw_agreement(metrics: dict[str, Any], level_names: Sequence[str], path: str | Path) -> None:
    """
    A picture of `measure_agreement`'s result: confusion on the left, reliability on the right.

    Raises:
        ImportError: matplotlib is not installed (`pip install matplotlib`, or the extra `demo`).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    confusion = torch.tensor(metrics["confusion"])
    left.imshow(confusion / confusion.sum(1, keepdim=True).clamp_min(1), cmap="Blues", vmin=0, vmax=1)
    for row, counts in enumerate(confusion.tolist()):
        for column, count in enumerate(counts):
            dark = count > 0.5 * sum(counts)
            left.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    ticks = range(len(level_names))
    left.set_xticks(ticks, level_names)
    left.set_yticks(ticks, level_names)
    left.set(xlabel="chosen", ylabel="label", title=f"Agreement {100 * metrics['agreement'][0]:.1f} %")
    bins = metrics["reliability"]
    total = sum(entry["count"] for entry in bins)
    right.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    right.scatter(
        [entry["confidence"] for entry in bins],
        [entry["accuracy"] for entry in bins],
        s=[2000 * entry["count"] / total for entry in bins],
        alpha=0.6,
    )
    error = 100 * metrics["expected_calibration_error"]
    right.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.05))
    right.set(title=f"Expected calibration error {error:.1f} %")
    figure.savefig(path, dpi=80)
