"""Model cards, rendered from what a checkpoint says of itself."""

from .cards import render_card


__all__ = ["render_card"]
