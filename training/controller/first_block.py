"""The first block of a language model, read without the rest of its checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import GgufConfig


def load_first_block(
    source: str, config: PreTrainedConfig, dtype: str | torch.dtype = "auto", **gguf: str
) -> PreTrainedModel:
    """
    A causal language model that ends after its first block, its output embeddings tied to the input ones. Of
    safetensors, only the shards that hold these weights are opened (or downloaded), and only these weights are read;
    a GGUF file's other tensors are dropped one by one as they are decoded.

    Args:
        source: directory or Hub id of a language model, or of a model that has one inside, such as a Granulon.
        config: the language model's; it is altered.
        gguf: `gguf_file`, if that is where the weights are.

    Raises:
        ValueError: no safetensors, or the weights are missing.
    """
    config.num_hidden_layers, config.tie_word_embeddings = 1, True
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    if gguf:
        quantization = GgufConfig(dequantize=True)
        return AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, quantization_config=quantization, **gguf
        ).eval()
    weights = _read_first_block(source)
    if dtype == "auto":
        dtype = config.dtype or weights["embed_tokens.weight"].dtype
    weights["norm.weight"] = torch.ones(config.hidden_size)  # lies in the last shard, and nothing here reads it
    nowhere: Any = None  # the weights are given
    classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    loaded: Any = classes[type(config)].from_pretrained(
        nowhere,
        config=config,
        state_dict={f"model.{name}": value for name, value in weights.items()},
        dtype=dtype,
        output_loading_info=True,
    )
    model, info = loaded
    faults = sorted(set(info["missing_keys"]) - {"lm_head.weight"}) + sorted(map(str, info["mismatched_keys"]))
    if faults:
        raise ValueError(f"The first block in {source!r} lacks weights, or they are of another shape: {faults[:5]}.")
    return model.eval()


def _read_first_block(source: str) -> dict[str, torch.Tensor]:
    """Tensors `embed_tokens.*` and `layers.0.*` of the language model in a checkpoint, by these names."""
    missing: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    index = cached_file(source, "model.safetensors.index.json", **missing)
    if index is not None:
        files = json.loads(Path(index).read_text("utf-8"))["weight_map"]
    else:
        whole = cached_file(source, "model.safetensors", **missing)
        if whole is None:
            raise ValueError(
                f"{source!r} holds neither model.safetensors nor model.safetensors.index.json. Save the model with "
                "`save_pretrained`, which writes safetensors, or name its .gguf file."
            )
        with safe_open(whole, framework="pt") as file:
            files = dict.fromkeys(file.keys(), "model.safetensors")
    prefix = next(
        (key.removesuffix("embed_tokens.weight") for key in files if key.endswith("embed_tokens.weight")), ""
    )
    wanted = [key for key in files if key.startswith((f"{prefix}embed_tokens.", f"{prefix}layers.0."))]
    if f"{prefix}embed_tokens.weight" not in wanted or len(wanted) < 2:
        raise ValueError(
            f"{source!r} holds no `embed_tokens` and `layers.0` of a language model: {sorted(files)[:5]}."
        )
    weights = {}
    for name in sorted({files[key] for key in wanted}):
        with safe_open(cached_file(source, name), framework="pt") as file:
            for key in wanted:
                if files[key] == name:
                    weights[key.removeprefix(prefix)] = file.get_tensor(key)
    return weights
