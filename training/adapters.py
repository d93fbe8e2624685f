"""LoRA on a Granulon: presets that touch the language model only, and merging an adapter into a standalone model."""

import difflib
import logging
from typing import Any

import torch
from peft import LoraConfig


logger = logging.getLogger(__name__)

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
PRESETS = {"attention": _ATTENTION, "mlp": _MLP, "all-linear": _ATTENTION + _MLP}

# What joins encoder and language model, trained as a whole and saved with the adapter. PEFT wraps modules that have a
# forward; `contribution_heads` is a dict of two, so the two are named.
CONNECTOR_MODULES = [
    "multi_modal_projector",
    "granularity_controller",
    "token_aggregator",
    "contribution_heads.pixel",
    "contribution_heads.semantic",
]


def lora_config(
    model: Any = None,
    preset: str = "attention",
    *,
    r: int = 16,
    alpha: float | None = None,
    train_connector: bool = True,
    **overrides: Any,
) -> LoraConfig:
    """
    LoRA on the projections of the language model's blocks 1, 2, ...; never on block 0, on the vision encoder, or on
    the connector.

    Block 0 is the eye of the granularity controller: E1 of paper Eq. 5 is its output. An adapter there would move the
    controller's input while it reads the question, so block 0 stays as it was. The pattern is anchored at the start of
    a module's name, because vision encoders call their layers alike (`q_proj`, `up_proj`).

    Args:
        model: a `GranulonForConditionalGeneration` or its config, to check that the preset finds something to adapt.
            Without it, nothing is checked.
        preset: `attention` (q, k, v, o), `mlp` (gate, up, down), or `all-linear`, both.
        r: rank of the update.
        alpha: the update is scaled by alpha / r; 2 r by default.
        train_connector: controller, aggregator, projector and contribution heads are trained, too, as copies that are
            saved with the adapter. False adapts the language model alone.
        overrides: other fields of `peft.LoraConfig`, such as `lora_dropout=0.05`.

    Raises:
        ValueError: an unknown preset or field, a rank below 1, or a model without a second block.
    """
    if preset not in PRESETS:
        raise ValueError(f"`preset` is {preset!r}, expected one of {sorted(PRESETS)}.")
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ValueError(f"`r`, the rank of the update, must be an integer of at least 1, got {r!r}.")
    fields = set(LoraConfig.__dataclass_fields__)
    for name in overrides:
        if name in ("target_modules", "modules_to_save", "lora_alpha"):
            instead = {"lora_alpha": "`alpha`", "target_modules": "`preset`", "modules_to_save": "`train_connector`"}
            raise ValueError(
                f"`{name}` is what this function sets: use {instead[name]}, or write a `peft.LoraConfig` of your own."
            )
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"`peft.LoraConfig` has no field `{name}`.{hint}")
    if model is not None:
        _check_model(model)
    return LoraConfig(
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules=target_pattern(preset),
        modules_to_save=list(CONNECTOR_MODULES) if train_connector else None,
        **{"task_type": "CAUSAL_LM", **overrides},
    )


def target_pattern(preset: str) -> str:
    """The regular expression that PEFT matches against the whole name of every module."""
    names = "|".join(PRESETS[preset])
    return rf"(?:model\.)?language_model\.layers\.(?!0\.)\d+\.(?:self_attn|mlp)\.(?:{names})"


def _check_model(model: Any) -> None:
    config = model.config if isinstance(model, torch.nn.Module) else model
    if getattr(config, "model_type", None) != "granulon":
        raise ValueError(
            f"`model` is a `{getattr(config, 'model_type', type(model).__name__)}`, expected a Granulon or its config."
        )
    if config.text_config.num_hidden_layers < 2:
        raise ValueError(
            f"The language model has {config.text_config.num_hidden_layers} block, and the first one belongs to the "
            "granularity controller: there is none to adapt. Train the connector alone (stage `connector`)."
        )
    if isinstance(model, torch.nn.Module) and not getattr(model, "name_or_path", ""):
        logger.warning(
            "This model was composed in memory, so an adapter trained on it cannot say what it belongs to. Save it "
            "with `save_pretrained`, load it from there, and train that."
        )
