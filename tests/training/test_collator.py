"""What a batch asks the model to learn."""

import torch

from granulon.training.collator import mask_after_end


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
