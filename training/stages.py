"""Stages of training by name: which components move and which stay."""

import logging
from typing import Any, NamedTuple

from torch import nn


logger = logging.getLogger(__name__)

# Every component of a Granulon and where it lives; `model` is `GranulonModel`. A weight that two components share (the
# head tied to the embeddings) counts for the first.
COMPONENTS = {
    "vision_tower": "model.vision_tower",
    "granularity_controller": "model.granularity_controller",
    "token_aggregator": "model.token_aggregator",
    "multi_modal_projector": "model.multi_modal_projector",
    "contribution_heads": "model.contribution_heads",
    "language_model": "model.language_model",
    "lm_head": "lm_head",
}
_CONNECTOR = ("granularity_controller", "token_aggregator", "multi_modal_projector", "contribution_heads")

# The components that train in each stage; all others are frozen. `lora` adds adapters to the language model.
STAGES: dict[str, tuple[str, ...]] = {
    "projector": ("multi_modal_projector",),
    "controller": ("granularity_controller",),
    "connector": _CONNECTOR,  # the paper's recipe: encoder and language model stay as they are
    "language": (*_CONNECTOR, "language_model", "lm_head"),
    "lora": _CONNECTOR,
    "full": tuple(COMPONENTS),
}


class ComponentCount(NamedTuple):
    """Parameters of a component; adapters count as trainable ones of the component they sit in."""

    trainable: int
    frozen: int


def base_of(model: Any) -> Any:
    """The `GranulonForConditionalGeneration` inside a `PeftModel`, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def set_stage(model: Any, name: str) -> dict[str, ComponentCount]:
    """
    Set `requires_grad` of every parameter for a stage, and log the trainable and frozen counts as a table.

    With `lora`, the model is a `PeftModel`: adapters train, and of the connector what the adapter saves
    (`modules_to_save`); the originals beneath stay frozen.

    Args:
        model: `GranulonForConditionalGeneration`, or a `PeftModel` around one.
        name: one of `STAGES`.

    Raises:
        ValueError: an unknown stage; `lora` without adapters, or adapters in another stage.
    """
    if name not in STAGES:
        raise ValueError(f"`stage` is {name!r}, expected one of {list(STAGES)}.")
    is_peft = hasattr(model, "peft_config")
    if is_peft != (name == "lora"):
        raise ValueError(
            f"The model carries adapters, but stage {name!r} trains the model's own weights. Use stage='lora', or "
            "merge the adapter first (`model.merge_and_unload()`)."
            if is_peft
            else "Stage 'lora' trains adapters, but the model has none. Pass `peft_config=lora_config()` (from "
            "granulon.training.adapters) to the trainer, or wrap the model with `peft.get_peft_model`."
        )
    model.requires_grad_(False)
    if is_peft:
        active = set(model.active_adapters)
        for key, parameter in model.named_parameters():
            parts = set(key.split("."))
            is_saved_copy = "modules_to_save" in parts or "trainable_tokens_delta" in parts
            is_adapter = is_saved_copy or any(part.startswith("lora_") for part in parts)
            parameter.requires_grad_(is_adapter and bool(parts & active))
    else:
        for component in STAGES[name]:
            component_of(model, component).requires_grad_(True)
        # a tied head is the embedding table: it moves if either of the two trains
    counts = count_parameters(model)
    logger.info("%s", format_counts(counts, name))
    return counts


def component_of(model: Any, name: str) -> nn.Module:
    """A component by its name in `COMPONENTS`."""
    return base_of(model).get_submodule(COMPONENTS[name])


def count_parameters(model: Any) -> dict[str, ComponentCount]:
    """Trainable and frozen parameters of each component; shared ones are counted once."""
    counts, seen = {}, set()
    for name in COMPONENTS:
        trainable = frozen = 0
        for parameter in component_of(model, name).parameters():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if parameter.requires_grad:
                trainable += parameter.numel()
            else:
                frozen += parameter.numel()
        counts[name] = ComponentCount(trainable, frozen)
    return counts


def format_counts(counts: dict[str, ComponentCount], stage: str) -> str:
    """The counts as a small table of text."""
    rows = [(name, *count) for name, count in counts.items()]
    rows.append(("total", sum(count.trainable for count in counts.values()), sum(c.frozen for c in counts.values())))
    lines = [f"stage {stage:<20s}{'trainable':>14s}{'frozen':>16s}"]
    lines += [f"  {name:<24s}{trainable:>14,}{frozen:>16,}" for name, trainable, frozen in rows]
    return "\n".join(lines)
