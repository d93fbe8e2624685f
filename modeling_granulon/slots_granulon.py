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
    """Where visual tokens enter a prompt; `(batch_size, num_tokens)` but for the last."""

    is_visual: torch.Tensor  # bool: a slot, used or empty
    is_used: torch.Tensor  # bool
    image_index: torch.Tensor  # which image of the batch
    token_index: torch.Tensor  # which of the image's tokens, [pixel ; semantic]
    row_of_image: torch.Tensor  # (num_images,)


class _Runs(NamedTuple):
    """The runs of one token in a prompt, each `(batch_size, num_tokens)`."""

    is_slot: torch.Tensor  # bool
    rank: torch.Tensor  # place in its run, from 1 at the right end; 0 outside


def visual_mask(input_ids: torch.Tensor, slot_token_ids: tuple[int, int]) -> torch.Tensor:
    """The mask of visual tokens, bool, of the shape of `input_ids`: True at `<image>` and `<semantic>` slots."""
    return input_ids.eq(slot_token_ids[0]) | input_ids.eq(slot_token_ids[1])


def run_starts(flags: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_tokens)` bool: the first True of each run of consecutive Trues."""
    return flags & ~nn.functional.pad(flags, (1, 0))[:, :-1]


def _find_runs(input_ids: torch.Tensor, token_id: int) -> _Runs:
    is_slot = input_ids.eq(token_id)
    flipped = is_slot.flip(1)
    count = flipped.long().cumsum(1)
    before_run = torch.where(flipped, 0, count).cummax(1).values
    return _Runs(is_slot, (count - before_run).flip(1))


def locate_slots(
    input_ids: torch.Tensor,
    slot_token_ids: tuple[int, int],
    slots_per_image: torch.Tensor,
    num_images: int,
    num_patches: int,
    widest: tuple[int, int],
) -> Slots:
    """
    An image is a run of `<image>` slots and a run of `<semantic>` slots. Of each run the *last* slots are used: the
    token after an image then follows a used one, and its prediction does not rest on a masked position. Shapes do not
    depend on values.

    Args:
        input_ids: `(batch_size, num_tokens)`.
        slot_token_ids: of `<image>` and `<semantic>`.
        slots_per_image: `(batch_size, 2)`, slots of either kind that each image of a row uses.
        num_patches: pixel tokens of an image before any pooling: where its semantic tokens begin.
        widest: slots of either kind in a run whose level is open.

    Raises:
        ValueError: images and placeholders differ in number, or a run of slots was cut. (Not while compiling.)
    """
    pixel, semantic = (_find_runs(input_ids, token_id) for token_id in slot_token_ids)
    if not torch.compiler.is_compiling():
        _check_runs((pixel, semantic), slots_per_image, num_images, widest)
    starts = run_starts(pixel.is_slot)
    images_until = starts.sum(1).cumsum(0)  # (batch_size,), this row's included
    image_index = images_until[:, None] - starts.sum(1, keepdim=True) + starts.cumsum(1) - 1
    rank = torch.where(semantic.is_slot, semantic.rank, pixel.rank)
    used = torch.where(semantic.is_slot, slots_per_image[:, 1:], slots_per_image[:, :1])
    visual = pixel.is_slot | semantic.is_slot
    images = torch.arange(num_images, device=input_ids.device)
    return Slots(
        visual,
        visual & (rank <= used),
        image_index.clamp(0, max(0, num_images - 1)),
        torch.where(semantic.is_slot, num_patches, 0) + (used - rank).clamp_min(0),
        torch.searchsorted(images_until, images, right=True).clamp_max(len(input_ids) - 1),
    )


def _check_runs(
    runs: tuple[_Runs, _Runs], slots_per_image: torch.Tensor, num_images: int, widest: tuple[int, int]
) -> None:
    num_runs = []
    for kind, name in enumerate(("<image>", "<semantic>")):
        begins = run_starts(runs[kind].is_slot)
        lengths = runs[kind].rank[begins]
        wanted = slots_per_image[:, kind : kind + 1].expand_as(begins)[begins]
        wrong = (lengths != wanted) & (lengths != widest[kind])
        if bool(wrong.any()):
            raise ValueError(
                f"Image features and image tokens do not match: a run of {int(lengths[wrong][0])} {name} tokens, "
                f"expected {int(wanted[wrong][0])} for its level or {widest[kind]} while the level is open. "
                "Either the prompt was cut inside an image (raise `max_length` or turn truncation off), or it was "
                "made for another level (pass on the `granularity` that the processor returned) or another image "
                "size."
            )
        num_runs.append(len(lengths))
    if num_runs != [num_images, num_images]:
        raise ValueError(
            f"Image features and image tokens do not match: {num_images} images, but the prompt has {num_runs[0]} "
            f"runs of <image> and {num_runs[1]} of <semantic> tokens. Pass one image for each placeholder, and "
            "prompts that the processor expanded."
        )


def fill_slots(inputs_embeds: torch.Tensor, visual_tokens: torch.Tensor, slots: Slots) -> torch.Tensor:
    """
    `inputs_embeds` `(batch_size, num_tokens, hidden_size)` with a visual token in each used slot.

    Args:
        visual_tokens: `(num_images, num_patches + max_semantic_tokens, hidden_size)`, [pixel ; semantic] of each.
    """
    device = visual_tokens.device
    chosen = visual_tokens[slots.image_index.to(device), slots.token_index.to(device)]
    return torch.where(slots.is_used.unsqueeze(-1), chosen.to(inputs_embeds), inputs_embeds)


def flush(keep: torch.Tensor, side: str) -> torch.Tensor:
    """
    Indices `(batch_size, most_kept)`, at least one column, that gather the kept positions of each row in order, all at
    its `left` or `right` end; what fills up shorter rows are positions that are not kept.

    Args:
        keep: `(batch_size, num_tokens)` bool.
    """
    length = max(1, int(keep.sum(1).max()))
    if side == "left":
        return (~keep).long().argsort(dim=1, stable=True)[:, :length]
    return keep.long().argsort(dim=1, stable=True)[:, keep.shape[1] - length :]
