"""Prompts and pixels: `GranulonProcessor` and its image processors."""

from .image_processing_granulon import GranulonImageProcessor, GranulonImageProcessorPil
from .images_granulon import check_pixels, open_image
from .processing_granulon import GranulonProcessor


__all__ = ["GranulonImageProcessor", "GranulonImageProcessorPil", "GranulonProcessor", "check_pixels", "open_image"]
