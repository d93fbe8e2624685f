"""Rows to batches: TRL's vision collator, with levels and granularity labels."""

from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from granulon.modeling_granulon.slots_granulon import OPEN, level_indices


class _ProcessorAtLevels:
    """A processor that writes exactly the slots of the given levels, one for each text."""

    def __init__(self, processor: Any, levels: list[int]):
        self.processor, self.levels = processor, levels

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.processor(*args, granularity=self.levels, **kwargs)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("tokenize"):
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "granularity": self.levels}
        return self.processor.apply_chat_template(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)


def mask_after_end(labels: torch.Tensor, eos_token_id: int) -> torch.Tensor:
    """`labels` `(batch_size, num_tokens)` with -100 in place of what follows the end token in a run of labels."""
    is_label, is_end = labels != -100, (labels == eos_token_id).long()
    before = is_end.cumsum(1) - is_end  # ends before each position, in the whole row
    before_run = torch.where(is_label, 0, before).cummax(1).values
    return torch.where(is_label & (before > before_run), -100, labels)


@dataclass
class GranulonDataCollator(DataCollatorForVisionLanguageModeling):
    """
    TRL's collator for prompt/completion and messages. Labels are -100 for padding, prompt, image slots, and what a
    chat template writes after the end of a turn, where generation has stopped. Optional columns of a row:

    - `granularity`: a level's name or index fixes the row's level, -1, "auto" or null leaves it to the controller. A
      batch carries `granularity` `(batch_size,)` where a level is fixed; such a row has exactly its level's slots.
    - `granularity_labels`: one weight for each level, coarse to fine, that sum to 1, or null. A batch carries
      `granularity_labels` `(batch_size, num_levels)`, zeros for a row without.
    - `id`: names the row in messages. A batch carries `row_ids`, a list of text.

    Raises:
        ValueError: labels of the wrong number, negative, or with another sum; a level that the model does not have; a
            row of which nothing is to be learned.
    """

    processor: Any

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        examples = [dict(example) for example in examples]
        ids = [example.pop("id", None) for example in examples]
        names = [f"row {place} of the batch" if name is None else f"row {name!r}" for place, name in enumerate(ids)]
        levels = level_indices(
            [example.pop("granularity", None) for example in examples], self.processor.level_names, len(examples)
        )
        weights = [example.pop("granularity_labels", None) for example in examples]
        processor = self.processor
        if any(level != OPEN for level in levels):
            self.processor = _ProcessorAtLevels(processor, levels)
        try:
            batch = super().torch_call(examples)
        finally:
            self.processor = processor
        batch["labels"] = mask_after_end(batch["labels"], processor.tokenizer.eos_token_id)
        for name, labels, input_ids in zip(names, batch["labels"], batch["input_ids"], strict=True):
            if not bool((labels[1:] != -100).any()):
                slots = set(processor.image_token_ids)
                text = processor.tokenizer.decode([token for token in input_ids.tolist() if token not in slots])
                raise ValueError(
                    f"In {name} no token is left to learn: all labels are masked. The answer is empty or was cut by "
                    f"`max_length` ({self.max_length}), or the chat template marks no assistant turn in it. The row "
                    f"reads {text[:300]!r}."
                )
        if any(weight is not None for weight in weights):
            rows = [self._check_weights(weight, name) for weight, name in zip(weights, names, strict=True)]
            batch["granularity_labels"] = torch.tensor(rows, dtype=torch.float32)
        if any(name is not None for name in ids):
            batch["row_ids"] = [str(name) for name in ids]
        # rows before images: libraries read the batch size off the first entry
        return {"input_ids": batch["input_ids"], **batch}

    def _check_weights(self, weights: Any, name: str) -> list[float]:
        num_levels = len(self.processor.levels)
        if weights is None:
            return [0.0] * num_levels
        weights = [float(weight) for weight in weights]
        if len(weights) != num_levels:
            raise ValueError(
                f"`granularity_labels` of {name} has {len(weights)} weights, expected one for each of the "
                f"{num_levels} levels {self.processor.level_names}."
            )
        if not min(weights) >= 0 or not abs(sum(weights) - 1) <= 1e-3:
            raise ValueError(
                f"`granularity_labels` of {name} are {weights}, with the sum {sum(weights):g}; expected weights of at "
                "least 0 that sum to 1."
            )
        return [weight / sum(weights) for weight in weights]
