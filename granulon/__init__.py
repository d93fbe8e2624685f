"""Granulon: a pixel-level encoder as the eyes of a language model. Importing this registers the Auto classes."""

import importlib
from typing import TYPE_CHECKING, Any

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


if TYPE_CHECKING:
    from granulon.training.config import GranulonSFTConfig
    from granulon.training.trainer import GranulonSFTTrainer

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

_LAZY = {
    "GranulonSFTConfig": "granulon.training.config",
    "GranulonSFTTrainer": "granulon.training.trainer",
}


def __getattr__(name: str) -> Any:
    """The trainer is imported when it is asked for: using a model needs neither TRL nor PEFT."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name])
    except ImportError as error:
        raise ImportError(f"{name} needs the training libraries: pip install 'granulon[train]' ({error}).") from error
    return getattr(module, name)


__all__ = [
    "GranulonConfig",
    "GranulonForConditionalGeneration",
    "GranulonImageProcessor",
    "GranulonImageProcessorPil",
    "GranulonModel",
    "GranulonProcessor",
    "GranulonSFTConfig",
    "GranulonSFTTrainer",
]
