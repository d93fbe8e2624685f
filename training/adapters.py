"""LoRA on a Granulon: presets that touch the language model only, and merging an adapter into a standalone model."""

import difflib
import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon.files import new_directory
from granulon.hub_cards import write_card
from granulon.hub_cards.checkpoint import log_of_merged, read_log, write_log
from granulon.hub_cards.weights import check_no_pickles, find_damage
from granulon.modeling_granulon import GranulonForConditionalGeneration
from granulon.processing import GranulonProcessor


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


def save_adapter(
    model: PeftModel, directory: str | Path, processor: GranulonProcessor, base: str | None = None
) -> None:
    """
    Write an adapter with processor and card, so that the Auto classes load the directory.

    Args:
        base: directory or Hub id of the model that the adapter belongs to; by default where that was loaded from.

    Raises:
        ValueError: the base was composed in memory and `base` does not name it.
    """
    config = model.active_peft_config
    base = base or config.base_model_name_or_path or getattr(model.get_base_model(), "name_or_path", "")
    if not base:
        raise ValueError(
            "The adapter's base model was composed in memory, so nobody could find it again. Save it with "
            "`save_pretrained` and pass that directory as `base=`, or push it and pass its Hub id."
        )
    config.base_model_name_or_path = str(base)
    model.save_pretrained(str(directory))
    processor.save_pretrained(directory)
    write_log(directory, {**read_log(directory), "base_fingerprint": base_fingerprint(model)})
    write_card(directory)


def merge_adapter(
    adapter: str | Path, out: str | Path, base: str | None = None, dtype: str | torch.dtype = "auto"
) -> Path:
    """
    Write a standalone model: the base with the adapter's update added to its weights and the adapter's connector in
    place of its own, with processor, code, card and training log. `out` is whole or absent.

    The sum is rounded to the weights' dtype: in bfloat16 logits move by about a hundredth, in float32 by 1e-6.

    Args:
        adapter: directory or Hub id.
        base: the model to merge into; by default the one that the adapter names.
        dtype: of the merged weights, "auto" for the base's. The controller stays in float32.

    Raises:
        ValueError: `out` is not empty; the adapter names no base, or was trained on another one.
    """
    with new_directory(out) as staging:
        model, processor = load_adapted(adapter, base, dtype)
        merged: Any = model.merge_and_unload(safe_merge=True)  # refuses NaN
        for name, child in merged.model.named_children():  # some may have been trained in another dtype
            child.to(torch.float32 if name == "granularity_controller" else merged.model.language_model.dtype)
        merged.requires_grad_(True)
        merged.config._name_or_path = ""
        merged.save_pretrained(staging)
        processor.save_pretrained(staging)
        write_log(staging, log_of_merged(adapter, merged.name_or_path))
        write_card(staging, title=Path(out).name)
    return Path(out)


def load_adapted(
    adapter: str | Path, base: str | None = None, dtype: str | torch.dtype = "auto"
) -> tuple[PeftModel, GranulonProcessor]:
    """
    The base model with its adapter, in eval mode, and the processor: the adapter's own, or else the base's.

    Raises:
        ValueError: the adapter names no base, the base is no Granulon or has other levels, or the adapter's weights
            are a pickle, are damaged, are not finite, or are not exactly those that this base asks for.
    """
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (ValueError, TypeError, OSError, LookupError, AttributeError, RecursionError, HTTPError) as error:
        raise ValueError(
            f"{adapter} holds no adapter that can be read ({error}). Name a directory with adapter_config.json."
        ) from error
    weights = _find_weights(adapter)
    source = base or config.base_model_name_or_path
    if not source:
        raise ValueError(
            f"The adapter {adapter} does not name its base model, which was composed in memory. Name it: --base DIR."
        )
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    except OSError as error:
        raise ValueError(
            f"The adapter {adapter} belongs to {source!r}, which cannot be loaded ({error}). If it moved: --base DIR."
        ) from error
    if not isinstance(model, GranulonForConditionalGeneration):
        raise ValueError(
            f"The base model {source!r} is a {type(model).__name__}, expected a Granulon. Name it: --base."
        )
    processor = _load_processor(adapter, source)
    recorded = read_log(adapter).get("base_fingerprint")
    reason = _difference(processor, _load_processor(source, source), model.config.levels)
    if reason is None and recorded and (current := base_fingerprint(model)) and current != recorded:
        reason = f"its first decoder block has the fingerprint {current}, the adapter was trained on {recorded}"
    reason = reason or _find_misfits(weights, config, model)
    if reason is not None:
        raise ValueError(
            f"The adapter {adapter} does not fit the base model {source!r}: {reason}. Name the model that it was "
            "trained on: --base DIR."
        )
    return PeftModel.from_pretrained(model, str(adapter)).eval(), processor


def _load_processor(adapter: str | Path, base: str) -> GranulonProcessor:
    try:
        return AutoProcessor.from_pretrained(adapter)
    except (OSError, ValueError):
        return AutoProcessor.from_pretrained(base)


def base_fingerprint(model: Any) -> str | None:
    """
    Tells one base model from another of the same shape: a hash of the language model's first block, which no adapter
    of ours touches, rounded to bfloat16, so that it does not depend on the dtype that the model was loaded in. `None`
    where the weights are quantised, or not here.
    """
    core = model.get_base_model() if isinstance(model, PeftModel) else model
    digest = hashlib.sha256()
    for name, value in sorted(core.model.language_model.layers[0].state_dict().items()):
        if not value.is_floating_point() or value.element_size() < 2 or value.is_meta:
            return None
        rounded = value.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode() + rounded.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _difference(own: GranulonProcessor, other: GranulonProcessor, levels: list[dict[str, Any]]) -> str | None:
    """Where the adapter's processor contradicts the base model's."""
    if own.levels != levels:
        return f"the adapter was trained with the levels {own.levels}, the base model has {levels}"
    if own.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return f"the vocabularies differ ({len(own.tokenizer)} and {len(other.tokenizer)} tokens)"
    return None


def _find_weights(adapter: str | Path) -> Path:
    """
    The adapter's safetensors, whole and finite.

    Raises:
        ValueError: there are none, or they are damaged or hold NaN or infinity.
    """
    path = Path(adapter) / SAFETENSORS_WEIGHTS_NAME
    if Path(adapter).is_dir():
        check_no_pickles(adapter)
    else:
        try:
            path = Path(hf_hub_download(str(adapter), SAFETENSORS_WEIGHTS_NAME))
        except RemoteEntryNotFoundError as error:
            raise ValueError(
                f"{adapter} has no {SAFETENSORS_WEIGHTS_NAME}, and a pickle is not read, for that can run code."
            ) from error
    if not path.exists():
        raise ValueError(f"{path} is missing. Copy or download the adapter again.")
    if fault := find_damage(path):
        raise ValueError(fault)
    with safe_open(path, "pt") as file:
        broken = [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118
    if broken:
        raise ValueError(
            f"{len(broken)} of the adapter's weights in {path} hold NaN or infinity: {', '.join(broken[:3])}. Its "
            "training diverged: take an earlier checkpoint, or train again at a lower learning rate."
        )
    return path


def _find_misfits(path: Path, config: PeftConfig, model: Any) -> str | None:
    """Names and shapes of the adapter's weights against those that its configuration makes on this base."""
    with torch.device("meta"):  # nothing is copied
        skeleton = type(model)(model.config)
    wanted = get_peft_model_state_dict(PeftModel(skeleton, config))
    expected = {name: tuple(value.shape) for name, value in wanted.items()}
    with safe_open(path, "pt") as weights:
        found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    faults = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "of another shape": sorted(
            f"{name} {found[name]} instead of {expected[name]}"
            for name in set(found) & set(expected)
            if found[name] != expected[name]
        ),
    }
    listed = "; ".join(f"{len(names)} {kind}: {', '.join(names[:3])}" for kind, names in faults.items() if names)
    return f"of the adapter's weights are {listed}" if listed else None
