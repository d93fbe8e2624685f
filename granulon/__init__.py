"""Granulon: a pixel-level encoder as the eyes of a language model. Importing this registers the Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from granulon.modeling_granulon import GranulonConfig, GranulonForConditionalGeneration, GranulonModel
from granulon.processing import GranulonImageProcessor, GranulonImageProcessorPil, GranulonProcessor


__version__ = "0.1.0"

AutoConfig.register("granulon", GranulonConfig, exist_ok=True)
for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(GranulonConfig, GranulonForConditionalGeneration, exist_ok=True)
AutoProcessor.register(GranulonConfig, GranulonProcessor, exist_ok=True)
AutoImageProcessor.register(
    GranulonConfig,
    image_processor_classes={"torchvision": GranulonImageProcessor, "pil": GranulonImageProcessorPil},
    exist_ok=True,
)

__all__ = [
    "GranulonConfig",
    "GranulonForConditionalGeneration",
    "GranulonImageProcessor",
    "GranulonImageProcessorPil",
    "GranulonModel",
    "GranulonProcessor",
]
