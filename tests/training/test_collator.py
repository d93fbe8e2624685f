"""What a batch asks the model to learn."""

import pytest
import torch
from tiny import make_granulon
from training_tools import make_rows

from granulon.training.collator import GranulonDataCollator, mask_after_end


def test_nothing_is_learnt_after_the_end_of_a_turn():
    eos, line = 9, 5
    labels = torch.tensor(
        [
            [-100, -100, 3, 4, eos, line, -100, -100],  # an answer, its end, and the template's line break
            [-100, 3, eos, line, -100, 4, eos, line],  # two turns
            [-100, 3, 4, line, 3, 4, line, -100],  # no end
            [-100, 3, eos, eos, -100, -100, 4, 3],  # a second end follows the first
        ]
    )
    expected = labels.clone()
    expected[0, 5] = expected[1, 3] = expected[1, 7] = expected[3, 3] = -100
    assert torch.equal(mask_after_end(labels, eos), expected)


def test_a_rows_level_is_named_as_everywhere():
    collate = GranulonDataCollator(make_granulon()[1], completion_only_loss=True)

    def levels(*named):
        rows = make_rows(len(named), with_labels=False)
        batch = collate([{**row, "granularity": level} for row, level in zip(rows, named, strict=True)])
        return batch["granularity"].tolist() if "granularity" in batch else None

    assert levels("fine", "2", 2, None, "auto", -1) == [2, 2, 2, -1, -1, -1]
    assert levels(None, "auto", -1, "") is None
    with pytest.raises(ValueError, match="'microscopic', expected one of .*'coarse'"):
        levels("microscopic")
