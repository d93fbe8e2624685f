"""Granulon's own loss terms: contributions of visual tokens (paper Eq. 2-3), and the controller's labels."""

import torch
from torch import nn

from granulon.modeling_granulon.configuration_granulon import GranulonConfig
from granulon.modeling_granulon.granularity_granulon import question_mask
from granulon.modeling_granulon.slots_granulon import run_starts


_HASH_BASE = 1_000_003


def question_keys(config: GranulonConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """
    `(batch_size,)` int64, one number for each question, equal where the token ids of two questions are equal and
    (but for a chance of about 2^-64) only there; -1 for rows without an image.
    """
    question = question_mask(config, input_ids, attention_mask)
    # a polynomial in the token ids, modulo 2^64; a token's power is its place among the question's tokens
    powers = torch.full((input_ids.shape[1] + 1,), _HASH_BASE, device=input_ids.device).cumprod(0)
    terms = torch.where(question, (input_ids + 1) * powers[question.cumsum(1)], 0)
    return torch.where(count_images(config, input_ids) > 0, terms.sum(1), -1)


def count_images(config: GranulonConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """`(batch_size,)`: the images of each row, counted by their runs of `<image>` slots."""
    return run_starts(input_ids.eq(config.image_token_id)).sum(1)


class ContributionQueue:
    """
    Questions of earlier optimizer steps, first in, first out: the negatives of the contrastive contribution terms.

    Attributes:
        descriptors: `(num_questions, controller_hidden_size)` fp32, h of paper Eq. 6, detached, oldest first.
        keys: `(num_questions,)` int64, see `question_keys`.
    """

    def __init__(self, size: int, descriptor_size: int):
        self.size = size
        self.descriptors = torch.zeros(0, descriptor_size)
        self.keys = torch.zeros(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.keys)

    def push(self, descriptors: torch.Tensor, keys: torch.Tensor) -> None:
        """Add questions, oldest first; the oldest beyond `size` leave. Rows with the key -1 are left out."""
        kept = keys != -1
        device = self.descriptors.device
        self.descriptors = torch.cat([self.descriptors, descriptors[kept].detach().float().to(device)])[-self.size :]
        self.keys = torch.cat([self.keys, keys[kept].to(device)])[-self.size :]

    def to(self, device: torch.device) -> "ContributionQueue":
        self.descriptors, self.keys = self.descriptors.to(device), self.keys.to(device)
        return self

    def differs(self, keys: torch.Tensor) -> torch.Tensor:
        """`(num_rows, num_questions)` bool: the questions that may serve a row as negatives, being others."""
        return keys[:, None] != self.keys.to(keys.device)[None]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"descriptors": self.descriptors.cpu(), "keys": self.keys.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """
        Raises:
            ValueError: the saved descriptors have another width than this model's.
        """
        if state["descriptors"].shape[1:] != self.descriptors.shape[1:]:
            raise ValueError(
                f"The saved contribution queue holds descriptors of width {state['descriptors'].shape[1]}, the "
                f"model's have {self.descriptors.shape[1]}. It belongs to another model."
            )
        self.descriptors = state["descriptors"][-self.size :].to(self.descriptors.device)
        self.keys = state["keys"][-self.size :].to(self.keys.device)


def contribution_loss(
    head: nn.Module,
    tokens: torch.Tensor,
    is_used: torch.Tensor,
    row: torch.Tensor,
    descriptors: torch.Tensor,
    negatives: torch.Tensor | None = None,
    is_negative: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The contribution term of each image: the mean over its used tokens of -log p(C | v, T) (paper Eq. 3).

    Taken literally, p = 1 for every token and every question is the optimum, and nothing is learned. With negatives
    the term is a sigmoid contrastive loss (ours): a token also pays -log(1 - p(C | v, T')), averaged over the
    questions T' that are not its own.

    Args:
        head: `ContributionHead`: logits of every token against every question.
        tokens: `(num_images, num_tokens, hidden_size)`, projected.
        is_used: `(num_images, num_tokens)` bool.
        row: `(num_images,)`, the row of `descriptors` that holds an image's own question.
        descriptors: `(num_rows, controller_hidden_size)`.
        negatives: `(num_questions, controller_hidden_size)`; `None` for the literal term.
        is_negative: `(num_images, num_questions)` bool. An image without any gets 0: the term is skipped for it.

    Returns:
        `(num_images,)` fp32.
    """
    questions = descriptors if negatives is None else torch.cat([descriptors, negatives.to(descriptors)])
    logits = head(tokens, questions).float()  # once: data-parallel training wants every parameter used once
    own = logits.gather(2, row[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
    loss = nn.functional.softplus(-own)  # -log sigmoid
    weight = is_used.float() / is_used.sum(1, keepdim=True).clamp_min(1)
    if negatives is not None and is_negative is not None:
        count = is_negative.sum(1)
        other = nn.functional.softplus(logits[:, :, len(descriptors) :]) * is_negative[:, None]  # -log(1 - sigmoid)
        loss = loss + other.sum(2) / count.clamp_min(1)[:, None]
        weight = weight * (count > 0)[:, None]
    return (loss * weight).sum(1)


def controller_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Soft cross-entropy of each row's level distribution against its labels.

    Args:
        logits: `(batch_size, num_levels)`.
        labels: `(batch_size, num_levels)`, weights that sum to 1, or zeros for a row without labels.

    Returns:
        `(batch_size,)` fp32, 0 for rows without labels.
    """
    return -(labels.float() * logits.float().log_softmax(-1)).sum(-1)
