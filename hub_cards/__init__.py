"""Model cards, rendered from what a checkpoint says of itself, and publishing what the cards describe."""

from .cards import check_card, render_card, render_directory, write_card
from .licences import licences_of_parts
from .plan import plan_push
from .push import PushError, push_directory, push_in_background, push_pretrained


__all__ = [
    "PushError",
    "check_card",
    "licences_of_parts",
    "plan_push",
    "push_directory",
    "push_in_background",
    "push_pretrained",
    "render_card",
    "render_directory",
    "write_card",
]
