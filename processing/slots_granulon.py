"""
Slots: where visual tokens stand in a prompt, how many of them a level uses, and how a level is named.

The processor writes slots and the model fills them, so both read this file: `processing/` holds a copy of
`modeling_granulon/slots_granulon.py`, made by `make fix-copies`.
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import nn


OPEN = -1  # the index of a level that is not chosen yet: the controller decides


# ---------------------------------------------------------------------- how a level is named


def level_index(level: Any, names: Sequence[str]) -> int:
    """
    The index of a level, -1 (`OPEN`) for the controller's choice.

    Args:
        level: a name; an index as a number or as text; `None`, "auto" or -1 for the controller's choice.
        names: of all levels, coarse to fine.

    Raises:
        ValueError: neither of these.
    """
    if level is None or (isinstance(level, str) and level in ("auto", "")):
        return OPEN
    if isinstance(level, str) and level in names:
        return names.index(level)
    if isinstance(level, str) and level.removeprefix("-").isdecimal():
        level = int(level)
    if isinstance(level, Integral) and not isinstance(level, bool) and OPEN <= level < len(names):
        return int(level)
    raise ValueError(
        f"`granularity` got {level!r}, expected one of {list(names)}, an index from 0 to {len(names) - 1}, or "
        '"auto" (also None or -1) for the controller\'s choice.'
    )


def level_indices(granularity: Any, names: Sequence[str], num_rows: int) -> list[int]:
    """
    One index (`level_index`) for each row, of one level for all rows, or of a list or tensor with one for each.

    Raises:
        ValueError: a list of another length, or what is no level.
    """
    if isinstance(granularity, torch.Tensor):
        granularity = granularity.tolist()
    if not isinstance(granularity, list | tuple):
        return [level_index(granularity, names)] * num_rows
    if len(granularity) != num_rows:
        raise ValueError(
            f"`granularity` lists {len(granularity)} levels for {num_rows} rows. Pass one level, or one for each row."
        )
    return [level_index(level, names) for level in granularity]


# ---------------------------------------------------------------------- how many slots a level uses


def pooled_size(grid: tuple[int, int], pool: int) -> tuple[int, int]:
    """Rows and columns of a `(rows, columns)` grid after pooling with edge `pool`; ragged borders count as cells."""
    return math.ceil(grid[0] / pool), math.ceil(grid[1] / pool)


def slot_counts(levels: Sequence[dict[str, Any]], grid: tuple[int, int]) -> list[tuple[int, int]]:
    """`<image>` and `<semantic>` slots that an image of a `(rows, columns)` grid of patches uses at each level."""
    return [(math.prod(pooled_size(grid, level["pixel_pool"])), level["tokens"]) for level in levels]


def slots_to_write(levels: Sequence[dict[str, Any]], grid: tuple[int, int], level: int) -> tuple[int, int]:
    """`<image>` and `<semantic>` slots of an image in a prompt: its level's, or the most of any while it is `OPEN`."""
    counts = slot_counts(levels, grid)
    if level != OPEN:
        return counts[level]
    return max(pixel for pixel, _ in counts), max(semantic for _, semantic in counts)


# ---------------------------------------------------------------------- where slots stand


class Slots(NamedTuple):
    """Where visual tokens enter a prompt; each field `(batch_size, num_tokens)`."""

    is_visual: torch.Tensor  # bool: a slot, used or empty
    is_used: torch.Tensor  # bool
    is_semantic: torch.Tensor  # bool
    image_index: torch.Tensor  # which image of the row, from 0
    rank: torch.Tensor  # place in its run, counted from the right, from 1


def run_starts(flags: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_tokens)` bool: the first True of each run of consecutive Trues."""
    return flags & ~nn.functional.pad(flags, (1, 0))[:, :-1]


def rank_from_right(flags: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_tokens)`: the place in its run of Trues, counted from the right, from 1; 0 outside runs."""
    reversed_flags = flags.flip(1).long()
    count = reversed_flags.cumsum(1)
    before = torch.where(reversed_flags.bool(), 0, count).cummax(1).values  # Trues up to the last False
    return (count - before).flip(1)


def locate_slots(
    input_ids: torch.Tensor, image_token_id: int, semantic_token_id: int, slots_per_image: torch.Tensor
) -> Slots:
    """
    An image is a run of `<image>` slots and a run of `<semantic>` slots. Of each run the *last* slots are used: the
    token after an image then follows a used one, and its prediction does not rest on a masked position.

    Args:
        input_ids: `(batch_size, num_tokens)`.
        slots_per_image: `(batch_size, 2)`, `<image>` and `<semantic>` slots that each image of a row uses.
    """
    is_image, is_semantic = input_ids.eq(image_token_id), input_ids.eq(semantic_token_id)
    rank = torch.where(is_semantic, rank_from_right(is_semantic), rank_from_right(is_image))
    used = torch.where(is_semantic, slots_per_image[:, 1:], slots_per_image[:, :1])
    is_visual = is_image | is_semantic
    image_index = (run_starts(is_image).cumsum(1) - 1).clamp_min(0)
    return Slots(is_visual, is_visual & (rank <= used), is_semantic, image_index, rank)
