"""Text-conditioned granularity controller: the question decides how finely to look (paper section 3.2.1)."""

from typing import NamedTuple

import torch
from torch import nn

from .configuration_granulon import GranulonConfig
from .slots_granulon import run_starts, visual_mask


class GranularityChoice(NamedTuple):
    """One level per row of a batch, and where it came from. Rows without an image have -1 and zeros."""

    granularity: torch.Tensor
    logits: torch.Tensor
    descriptor: torch.Tensor
    is_chosen: torch.Tensor  # (batch_size,) bool: the controller chose, nothing fixed the level


class GranularityController(nn.Module):
    """
    p(g_k | T) from the question's hidden states (paper Eq. 5-7), in fp32 whatever the model's dtype.

    h = W_p GELU(mean_i E1_i) describes the question (Eq. 6, W_p is `descriptor`); two Linear + GELU blocks and a last
    Linear turn it into one logit per level (Eq. 7). The mean, of the language model's first block, is an argument
    (`GranulonModel.describe_question`), so that the controller owns only what it trains.
    """

    def __init__(self, config: GranulonConfig):
        super().__init__()
        size = config.controller_hidden_size
        self.activation = nn.GELU()
        self.descriptor = nn.Linear(config.text_config.hidden_size, size)
        self.head = nn.Sequential(
            nn.Linear(size, size), nn.GELU(), nn.Linear(size, size), nn.GELU(), nn.Linear(size, len(config.levels))
        )

    def forward(self, question: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            question: `(batch_size, hidden_size)` fp32, the mean of E1 over each question's tokens.

        Returns:
            logits `(batch_size, num_levels)`, coarse to fine, and h `(batch_size, controller_hidden_size)`, both fp32.
        """
        with torch.autocast(question.device.type, enabled=False):
            # fp32, unless somebody cast the whole model; quantisers leave the controller alone
            descriptor = self.descriptor(self.activation(question).to(self.descriptor.weight.dtype))
            return self.head(descriptor).float(), descriptor.float()


def straight_through(logits: torch.Tensor, granularity: torch.Tensor, is_chosen: torch.Tensor) -> torch.Tensor:
    """
    Weights of the levels, `(batch_size, num_levels)` fp32: exactly one-hot at `granularity` in the forward pass, with
    the gradient of softmax(logits) in the backward pass.

    Args:
        logits: `(batch_size, num_levels)`.
        granularity: `(batch_size,)`; rows of -1 (no image) get the weights of level 0, which nothing reads.
        is_chosen: `(batch_size,)` bool, True where the controller made the choice. A level that was fixed from outside
            passes no gradient to it.
    """
    one_hot = nn.functional.one_hot(granularity.clamp_min(0), logits.shape[-1]).float()
    probabilities = logits.float().softmax(-1)
    return one_hot + (probabilities - probabilities.detach()) * is_chosen.unsqueeze(-1)


def _starts_of(input_ids: torch.Tensor, sequence: list[int]) -> torch.Tensor:
    """`(batch_size, num_tokens)` bool: the positions where `sequence` begins."""
    found = torch.ones_like(input_ids, dtype=torch.bool)
    for offset, token_id in enumerate(sequence):
        found &= nn.functional.pad(input_ids[:, offset:] == token_id, (0, min(offset, input_ids.shape[1])))
    return found


def find_question(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    is_visual: torch.Tensor,
    turn_end_token_ids: list[list[int]],
    assistant_start_token_ids: list[int],
    bos_token_id: int | None,
) -> torch.Tensor:
    """
    The question's tokens, found from token ids alone: the text of the turn that holds the first image. Without an
    image, the last turn that has text and does not begin as an assistant's.

    Turns end where a sequence of `turn_end_token_ids` stands. An earlier system turn, the answer and generated text
    are other turns; a system text that the chat template writes inside the user's turn belongs to the question.
    Sequences of the same batch never see each other, and shapes do not depend on values.

    Args:
        input_ids: `(batch_size, num_tokens)`.
        attention_mask: `(batch_size, num_tokens)`, 0 for padding.
        is_visual: `(batch_size, num_tokens)` bool, `<image>` and `<semantic>` slots.

    Returns:
        `(batch_size, num_tokens)` bool.
    """
    is_real = attention_mask.bool()
    is_end = torch.zeros_like(is_real)
    for sequence in turn_end_token_ids:
        starts = _starts_of(input_ids, sequence)
        for offset in range(min(len(sequence), input_ids.shape[1])):
            is_end |= nn.functional.pad(starts, (offset, 0))[:, : starts.shape[1]]
    is_end &= is_real
    turn = run_starts(is_end).cumsum(1)
    is_text = is_real & ~is_end

    # the first real token of each turn, and whether an assistant's turn begins there
    previous_turn = nn.functional.pad(torch.where(is_text, turn, -1), (1, 0), value=-1)[:, :-1].cummax(1).values
    is_first = is_text & (turn > previous_turn)
    position = torch.arange(input_ids.shape[1], device=input_ids.device)
    first = torch.where(is_first, position, 0).cummax(1).values
    is_assistant = torch.zeros_like(is_text)
    if assistant_start_token_ids:
        is_assistant = (_starts_of(input_ids, assistant_start_token_ids) & is_first).gather(1, first)

    is_text &= ~is_visual
    if bos_token_id is not None:
        is_text &= input_ids != bos_token_id
    image_turn = turn.gather(1, is_visual.long().argmax(1, keepdim=True))
    last_turn = torch.where(is_text & ~is_assistant, turn, -1).amax(1, keepdim=True)
    return is_text & (turn == torch.where(is_visual.any(1, keepdim=True), image_turn, last_turn))


def question_mask(config: GranulonConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """`find_question` with a model's own tokens."""
    return find_question(
        input_ids,
        attention_mask,
        visual_mask(input_ids, (config.image_token_id, config.semantic_token_id)),
        config.turn_end_token_ids or [],
        config.assistant_start_token_ids or [],
        config.text_config.bos_token_id,
    )
