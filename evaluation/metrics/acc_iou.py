"""ACC@IoU, for boxes that an expression refers to: RefCOCO, RefCOCO+, RefCOCOg."""

import re
from collections.abc import Sequence

from granulon.evaluation.metrics.base import Metric, mean
from granulon.evaluation.metrics.columns import BOX, TEXT


NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
QUADRUPLE = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")


class AccIou(Metric):
    """
    The share of answers whose box overlaps the right one by an intersection over union of at least a threshold, for
    each of `thresholds`, and the mean IoU; from 0 to 1.

    An answer's box is its first [x1, y1, x2, y2], left, top, right and bottom in the units of the references. An
    answer without one overlaps nothing; `unread` is the share of those.
    """

    columns = {
        "predictions": TEXT,
        "references": BOX._replace(expected="four finite numbers, the right box"),
    }
    source = (
        "Kazemzadeh et al., ReferItGame, EMNLP 2014; Yu et al., RefCOCO, ECCV 2016, arXiv 1608.00272; "
        "an answer's box as in lmms-eval"
    )

    def score(
        self,
        predictions: list[str],
        references: list[list[float]],
        thresholds: Sequence[float] = (0.5,),
        box_format: str = "xyxy",
    ) -> tuple[dict[str, float], list[float | None]]:
        """
        Args:
            thresholds: of the IoU; the first one's accuracy is the one that `per_row` is about.
            box_format: of the references: "xyxy", or "xywh" (left, top, width, height), as COCO writes boxes.
        """
        if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
            raise ValueError(f"`thresholds` is {thresholds}; expected at least one IoU above 0 and at most 1.")
        right = [_corners(row, box, box_format) for row, box in enumerate(references)]
        given = [QUADRUPLE.search(answer) for answer in predictions]
        overlaps = [
            _iou([float(number) for number in match.groups()], box) if match else 0.0
            for match, box in zip(given, right, strict=True)
        ]
        hits: dict[str, list[float | None]] = {
            f"acc@{threshold:g}": [float(overlap >= threshold) for overlap in overlaps] for threshold in thresholds
        }
        results = {name: mean(rows) for name, rows in hits.items()}
        return results | {"iou": mean(overlaps), "unread": given.count(None) / len(given)}, next(iter(hits.values()))


def _corners(row: int, box: list[float], box_format: str) -> list[float]:
    if box_format not in ("xyxy", "xywh"):
        raise ValueError(f"`box_format` is {box_format!r}; it is xyxy or xywh.")
    left, top, right, bottom = box
    if box_format == "xywh":
        right, bottom = left + right, top + bottom
    if right <= left or bottom <= top:
        raise ValueError(
            f"`references[{row}]` is {box}, which has no area as {box_format}. Are the boxes of the other format?"
        )
    return [left, top, right, bottom]


def _area(box: list[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _iou(one: list[float], other: list[float]) -> float:
    shared = _area([max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])])
    return shared / (_area(one) + _area(other) - shared) if _area(one) else 0.0
