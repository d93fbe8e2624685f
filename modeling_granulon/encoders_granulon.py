"""
Vision encoders: a row of `ENCODERS` for each says what its own config does not. To add one, add a row.

The rest of the code asks the row, never the name of an architecture.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)


@dataclass(frozen=True)
class Licence:
    """
    Terms that weights travel with.

    Attributes:
        name: identifier as the Hub's card metadata knows it, or a name of its own, which the card lists as `other`.
        link: where the terms stand; "" for identifiers that everybody knows.
        title: what the agreement's own text contains, where a copy of it must travel with the weights; else "".
        notice: a sentence that the NOTICE file must hold, or "".
    """

    name: str
    link: str = ""
    title: str = ""
    notice: str = ""


@dataclass(frozen=True)
class VisionEncoder:
    """
    Attributes:
        class_tokens: tokens in front of the patches in the output; registers are counted from the encoder's config.
        hub_ids: regular expression of the Hub ids (lower case) under which its publisher's weights are found.
        licence: the terms of those weights.
        resample, image_mean, image_std: preprocessing as published, for weights that come without a preprocessor
            config; `resample` is a filter's name as Pillow writes it.
        rescale_first: rescale to [0, 1] and resize in floating point; otherwise resize 8-bit pixels.
        takes_any_size: positions are relative, so every image that patches tile is taken.
        run: `(vision_tower, pixel_values, patch_size, **kwargs)` to `(num_images, num_prefix_tokens + num_patches,
            hidden_size)`, after the final LayerNorm; `kwargs` must reach the attention layers.
        saved_prefix, loaded_prefix: where checkpoints name layers otherwise than memory does: `from_pretrained` knows,
            `load_state_dict`, with which trainers resume, does not.
        float_modules: names of modules besides the last attention whose dtype the encoder reads as that of its
            computation, so that quantisers must leave them alone.
    """

    class_tokens: int
    hub_ids: str
    licence: Licence
    resample: str
    image_mean: Sequence[float]
    image_std: Sequence[float]
    rescale_first: bool = False
    takes_any_size: bool = False
    run: Callable[..., torch.Tensor] = lambda tower, pixels, patch_size, **kwargs: (
        tower(pixels, **kwargs).last_hidden_state
    )
    saved_prefix: str = ""
    loaded_prefix: str = ""
    float_modules: tuple[str, ...] = ()


def _run_clip(tower: Any, pixel_values: torch.Tensor, patch_size: tuple[int, int], **kwargs: Any) -> torch.Tensor:
    """CLIP normalises only its class token."""
    return tower.post_layernorm(tower(pixel_values, **kwargs).last_hidden_state)


def _run_siglip2(tower: Any, pixel_values: torch.Tensor, patch_size: tuple[int, int], **kwargs: Any) -> torch.Tensor:
    """SigLIP2 takes patches, not images."""
    rows, columns = (side // edge for side, edge in zip(pixel_values.shape[-2:], patch_size, strict=True))
    patches = pixel_values.unflatten(3, (columns, patch_size[1])).unflatten(2, (rows, patch_size[0]))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (num_images, num_patches, patch pixels)
    shapes = torch.tensor([(rows, columns)] * len(patches), device=patches.device)
    mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
    return tower(patches, pixel_attention_mask=mask, spatial_shapes=shapes, **kwargs).last_hidden_state


_APACHE, _MIT = Licence("apache-2.0"), Licence("mit")
_DINOV3 = Licence(
    "dinov3-license",
    link="https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    title="DINOv3 License",
    notice="Built with DINOv3.",
)
_DINOV2 = VisionEncoder(
    class_tokens=1,
    hub_ids="facebook/dinov2",
    licence=_APACHE,
    resample="bicubic",
    image_mean=IMAGENET_DEFAULT_MEAN,
    image_std=IMAGENET_DEFAULT_STD,
)

# by the `model_type` of the encoder's config
ENCODERS: dict[str, VisionEncoder] = {
    "dinov3_vit": VisionEncoder(
        class_tokens=1,
        hub_ids=".*dinov3",
        licence=_DINOV3,
        resample="bilinear",
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
        rescale_first=True,
        takes_any_size=True,
        saved_prefix="layer.",
        loaded_prefix="model.layer.",
    ),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "clip_vision_model": VisionEncoder(
        class_tokens=1,
        hub_ids="openai/clip",
        licence=_MIT,
        resample="bicubic",
        image_mean=OPENAI_CLIP_MEAN,
        image_std=OPENAI_CLIP_STD,
        run=_run_clip,
    ),
    "siglip_vision_model": VisionEncoder(
        class_tokens=0,
        hub_ids="google/siglip",
        licence=_APACHE,
        resample="bicubic",
        image_mean=IMAGENET_STANDARD_MEAN,
        image_std=IMAGENET_STANDARD_STD,
    ),
    "siglip2_vision_model": VisionEncoder(
        class_tokens=0,
        hub_ids="google/siglip",
        licence=_APACHE,
        resample="bilinear",
        image_mean=IMAGENET_STANDARD_MEAN,
        image_std=IMAGENET_STANDARD_STD,
        run=_run_siglip2,
        float_modules=("embeddings.patch_embedding",),
    ),
}


def encoder_of(model_type: str) -> VisionEncoder:
    """
    Raises:
        ValueError: no row for this architecture.
    """
    if model_type not in ENCODERS:
        raise ValueError(
            f"The vision encoder is a `{model_type}`, expected one of {sorted(ENCODERS)}. Use the vision part of a "
            "DINOv3, DINOv2, CLIP, SigLIP or SigLIP2 checkpoint, or add a row to `ENCODERS` (docs/encoders.md)."
        )
    return ENCODERS[model_type]


def last_attention(vision_tower: nn.Module) -> Any:
    """The self-attention of the last layer: (hidden states, probabilities) come out of it."""
    return [m for m in vision_tower.modules() if hasattr(m, "k_proj") and hasattr(m, "config")][-1]


def record_last_attention(vision_tower: nn.Module) -> None:
    """
    Make the last layer compute its attention explicitly, and append the probabilities, `(num_images, num_heads,
    num_tokens, num_tokens)`, to a list that the encoder is called with as `recorded_attention=`. All other layers stay
    as they are, which costs a few percent. Nothing is left on the module: calls in several threads, copies and
    recomputed layers do not meet.
    """
    attention = last_attention(vision_tower)
    attention.config = copy.deepcopy(attention.config)
    attention.config._attn_implementation = "eager"
    attention.attention_probabilities = None  # for whoever looks for what a call left behind: nothing
    attention.register_forward_hook(_record, with_kwargs=True)


def _record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple) -> None:
    if kwargs.get("recorded_attention") is not None:
        kwargs["recorded_attention"].append(output[1].detach())


def accept_saved_names(module: Any, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
    """A hook of `load_state_dict` of a module with a `vision_tower`: its layers may be named as checkpoints do."""
    row = encoder_of(module.config.vision_config.model_type)
    saved, loaded = f"{prefix}vision_tower.{row.saved_prefix}", f"{prefix}vision_tower.{row.loaded_prefix}"
    if saved != loaded:
        for key in [key for key in state_dict if key.startswith(saved)]:
            state_dict[loaded + key.removeprefix(saved)] = state_dict.pop(key)
