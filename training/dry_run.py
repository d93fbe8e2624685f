"""What a run would do, told from configs alone: schedule, tokens, memory, and what would stop it."""

import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from trl.data_utils import prepare_multimodal_messages

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from .callbacks import SampleGeneration
from .checks import check_adapters, check_data, check_stage
from .config import GranulonSFTConfig
from .data import TrainingData, load_training_data
from .loss_terms import choose_terms
from .recipe import Recipe, build_arguments, check_is_granulon, load_data, peft_config
from .run_lock import RunLock
from .stages import ComponentCount, base_of, count_parameters, format_counts, set_stage


@dataclass
class DryRun:
    """
    What a run would do. Memory is per process, in bytes:

        weights      P * bytes(dtype)                       P: all parameters
        gradients    T * bytes(dtype)                       T: trainable ones
        optimizer    2 T * bytes(dtype)                     AdamW's two moments
        activations  a (l B L h + B L (8 h + 4 i))          with checkpointing: each block's input, and one block
                     a l B L (8 h + 4 i)                    without

    with l blocks of width h and intermediate width i, B rows of L tokens (the longest seen), and a bytes per value (2
    under bf16). The encoder counts likewise where it trains. ZeRO-2 divides gradients and optimizer by the processes,
    FSDP all but activations. Logits are not counted: the fused head never holds them whole. Allow 20 % and the
    framework's own (about 1 GB) on top; measured peaks differ with attention kernels.

    Compute is 6 N per token of the language model's N parameters (forward, backward to activations, recomputed
    forward; 8 N if its weights train, too), plus 2 N per patch of a frozen encoder's.
    """

    counts: str
    trainable: int
    total: int
    data: list[str]
    columns: list[str]
    tokens: tuple[int, float, int]
    image_slots: tuple[int, int]
    answer_tokens: float
    processes: int
    effective_batch: int
    steps_per_epoch: int | None
    steps: int
    warmup_steps: int
    schedule: str
    learning_rate: float
    memory: dict[str, dict[str, float]]
    compute: float | None
    prompt: str
    notes: list[str]

    def __str__(self) -> str:
        low, mean, high = self.tokens
        epoch = f"{self.steps_per_epoch:,} an epoch" if self.steps_per_epoch else "a stream, no epochs"
        lines = [
            "Data",
            *(f"  {line}" for line in self.data),
            f"  columns: {', '.join(self.columns)}",
            f"  tokens per row: {low} to {high}, {mean:.0f} on average, of them {self.answer_tokens:.0f} learnt from; "
            f"an image takes {self.image_slots[0]} pixel and at most {self.image_slots[1]} semantic tokens",
            f"  first prompt: {self.prompt}",
            "Parameters",
            *(f"  {line}" for line in self.counts.splitlines()),
            "Schedule",
            f"  effective batch {self.effective_batch} over {self.processes} process(es), {self.steps:,} steps "
            f"({epoch}), {self.warmup_steps:,} of warm-up, {self.schedule} from {self.learning_rate:g}",
            "Memory per process, estimated (formula: granulon.training.dry_run.DryRun)",
        ]
        for how, parts in self.memory.items():
            listed = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items())
            lines.append(f"  {how:6s}{_gigabytes(sum(parts.values())):>9s}: {listed}")
        if self.compute:
            hours = self.compute / self.processes / (0.3 * 312e12) / 3600
            lines.append(
                f"Compute about {self.compute:.1e} FLOP: {hours:.2g} h on {self.processes} A100 (312 TFLOP/s in bf16) "
                "at an assumed 30 %"
            )
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def dry_run(recipe: Recipe, processes: int | None = None, max_steps: int | None = None, num_rows: int = 32) -> DryRun:
    """
    Check paths, numbers, columns, rows and the schedule as training would, and estimate memory, from configs alone: no
    weights are read, no process group is started. Local data are checked whole; of Hub data, the first rows are
    streamed.

    Args:
        processes: of the run that is planned; by default `WORLD_SIZE`, or 1.
        num_rows: rows whose tokens are counted.

    Raises:
        ValueError, TypeError, OSError: what training would raise before its first step.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    if processes < 1:
        raise ValueError(f"`processes` is {processes}, expected at least 1.")
    arguments = build_arguments(recipe, max_steps=max_steps)
    model, processor = build_on_meta(recipe)
    notes = _check_output(Path(recipe.output))
    if "samples" in recipe.callbacks:
        SampleGeneration(processor, **recipe.callbacks["samples"])
    train, held, num_train = _peek_data(recipe, processor, num_rows, notes)
    lengths, answers, prompt = _count_tokens(train, processor, num_rows)
    check_data(arguments, train.dataset, processor)
    mean_length = sum(lengths) / len(lengths)
    batch = arguments.per_device_train_batch_size * processes * arguments.gradient_accumulation_steps
    if num_train is not None and num_train < batch:
        notes.append(f"{num_train} rows are fewer than one effective batch of {batch}.")
    steps_per_epoch, steps = _count_steps(arguments, num_train, processes)
    counts, model = _set_stage(recipe, arguments, model)
    trainable = sum(count.trainable for count in counts.values())
    total = trainable + sum(count.frozen for count in counts.values())
    return DryRun(
        counts=format_counts(counts, recipe.stage),
        trainable=trainable,
        total=total,
        data=[_describe("train", train), *([] if held is None else [_describe("eval", held, train)])],
        columns=list(train.dataset.features),
        tokens=(min(lengths), mean_length, max(lengths)),
        image_slots=(model.config.image_seq_length, model.config.max_semantic_tokens),
        answer_tokens=answers,
        processes=processes,
        effective_batch=batch,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup_steps=arguments.get_warmup_steps(steps),
        schedule=str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        learning_rate=arguments.learning_rate,
        memory=estimate_memory(model, arguments, trainable, total, max(lengths), processes, recipe.dtype),
        compute=steps * batch * _row_compute(model.config, counts, mean_length),
        prompt=prompt,
        notes=notes,
    )


def _peek_data(
    recipe: Recipe, processor: Any, num_rows: int, notes: list[str]
) -> tuple[TrainingData, TrainingData | None, int | None]:
    """Training and evaluation data, of the Hub's only the first rows, and how many rows there are to train on."""
    sizes: dict[str, int | None] = {}

    def peek(source: Any, **options: Any) -> TrainingData:
        if isinstance(source, str) and not Path(source).expanduser().exists() and not options.get("streaming"):
            sizes[source] = _hub_rows(source, options)
            notes.append(f"{source}: only the first rows were looked at, not checked whole.")
            options = {**options, "streaming": True, "max_rows": num_rows}
        return load_training_data(source, **options)

    train, held = load_data(recipe, processor, peek)
    num_train = train.num_rows
    if num_train is None and sizes and all(sizes.get(entry["source"]) for entry in recipe.data):
        num_train = sum(typing.cast(int, sizes[entry["source"]]) for entry in recipe.data)
    return train, held, num_train


def _count_steps(arguments: GranulonSFTConfig, num_train: int | None, processes: int) -> tuple[int | None, int]:
    """Optimizer steps of an epoch, `None` for a stream, and of the run."""
    per_epoch = None
    if num_train is not None:
        batches = math.ceil(num_train / (arguments.per_device_train_batch_size * processes))
        per_epoch = max(math.ceil(batches / arguments.gradient_accumulation_steps), 1)
    if arguments.max_steps > 0:
        return per_epoch, arguments.max_steps
    if per_epoch is None:
        raise ValueError("The number of rows is not known: set `training.max_steps`.")
    return per_epoch, math.ceil(arguments.num_train_epochs * per_epoch)


def _set_stage(recipe: Recipe, arguments: GranulonSFTConfig, model: Any) -> tuple[dict[str, ComponentCount], Any]:
    """What trains, and the model with its adapters, if it has any; as the trainer sets it."""
    adapter = check_adapters(model, arguments, peft_config(recipe, model))
    if adapter is not None:
        model = get_peft_model(model, adapter)
    set_stage(model, recipe.stage)
    check_stage(arguments, model, choose_terms(arguments, base_of(model)))
    return count_parameters(model), model


def _row_compute(config: Any, counts: dict[str, ComponentCount], num_tokens: float) -> float:
    """FLOPs of a row of so many tokens, by the formula of `DryRun`."""
    text, vision = counts["language_model"], counts["vision_tower"]
    per_token = (8 if text.trainable > text.frozen else 6) * (text.trainable + text.frozen)
    patches = math.prod(config.grid_size) + config.num_prefix_tokens
    return per_token * num_tokens + (6 if vision.trainable else 2) * (vision.trainable + vision.frozen) * patches


def _describe(side: str, data: TrainingData, whole: TrainingData | None = None) -> str:
    """
    Args:
        whole: the data whose report of bad rows has been shown already.
    """
    rows = "a stream" if data.num_rows is None else f"{data.num_rows:,} rows"
    line = f"{side}: {data.name}, {rows}, {data.layout}, fingerprint {data.fingerprint[:19]}..."
    if data.bad_rows.rows and (whole is None or data.bad_rows is not whole.bad_rows):
        line += "\n    " + data.bad_rows.report().replace("\n", "\n    ")
    return line


def build_on_meta(recipe: Recipe) -> tuple[Any, Any]:
    """The model without weights, on the meta device, and its processor."""
    from granulon import GranulonForConditionalGeneration
    from granulon.backbones import build_image_processor, compose, load_tokenizer

    options = dict(recipe.model)
    if "path" in options:
        path, revision = options["path"], options.get("revision")
        check_is_granulon(path)
        config = AutoConfig.from_pretrained(path, revision=revision)
        with torch.device("meta"):
            model = GranulonForConditionalGeneration(config)
        return model, AutoProcessor.from_pretrained(path, revision=revision)
    vision, text = options.pop("vision"), options.pop("text")
    controller = options.pop("controller", None)
    if controller is not None and Path(str(controller)).exists() and not Path(controller, "controller.json").is_file():
        raise FileNotFoundError(f"`model.controller` {str(controller)!r} holds no controller.json.")
    options.pop("revision", None)
    tokenizer = load_tokenizer(options.pop("tokenizer", None) or text)
    vision_config = AutoConfig.from_pretrained(vision)
    vision_config = getattr(vision_config, "vision_config", vision_config)
    text_config = _text_config(text)
    with torch.device("meta"):
        parts = AutoModel.from_config(vision_config), AutoModelForCausalLM.from_config(text_config)
        model, processor = compose(GranulonForConditionalGeneration, *parts, tokenizer=tokenizer, **options)
    processor.image_processor = build_image_processor(vision, vision_config)[0]
    return model, processor


def _text_config(text: str) -> Any:
    from granulon.backbones import resolve_text_source

    where, options = resolve_text_source(text)
    return AutoConfig.from_pretrained(where, **options)


def _check_output(output: Path) -> list[str]:
    """What is to be noted about the output directory."""
    RunLock(output).check()
    parent = next((folder for folder in (output, *output.parents) if folder.exists()), Path("."))
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"`output` {str(output)!r} cannot be written: {parent} is read-only for you.")
    if any(output.glob("checkpoint-*")):
        return [f"{output} holds checkpoints of an earlier run: use --resume or another --output."]
    return []


def _hub_rows(source: str, options: Mapping[str, Any]) -> int | None:
    """Rows of a Hub data set as its card declares them."""
    import datasets

    try:
        info = datasets.load_dataset_builder(source, options.get("name"), revision=options.get("revision")).info
    except (FileNotFoundError, ConnectionError, ValueError):
        return None
    split = (info.splits or {}).get(options.get("split") or "train")
    return min(split.num_examples, options.get("max_rows") or split.num_examples) if split else None


def _count_tokens(data: TrainingData, processor: Any, num_rows: int) -> tuple[list[int], float, str]:
    """Lengths in tokens of the first rows, the mean length of their answers, and the first row's text."""
    lengths, answers, first = [], [], ""
    for index, row in enumerate(data.dataset):
        if index >= num_rows:
            break
        chat = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
        messages = prepare_multimodal_messages(chat, images=row["images"])
        output = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        lengths.append(len(output["input_ids"][0]))
        said = [part["text"] for turn in chat if turn["role"] == "assistant" for part in turn["content"]]
        answers.append(sum(len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said))
        if not first:
            first = repr(processor.apply_chat_template(messages, tokenize=False))
    if not lengths:
        raise ValueError(f"{data.name} holds no usable row.\n{data.bad_rows.report()}")
    return lengths, sum(answers) / len(answers), first if len(first) <= 300 else f"{first[:299]}...'"


def estimate_memory(
    model: Any,
    arguments: GranulonSFTConfig,
    trainable: int,
    total: int,
    length: int,
    processes: int = 1,
    dtype: str = "float32",
) -> dict[str, dict[str, float]]:
    """Bytes per process under data parallelism, ZeRO-2 and FSDP, by the formula of `DryRun`."""
    config = model.config
    size = (
        torch.finfo(config.dtype or torch.float32).bits // 8 if dtype == "auto" else (4 if dtype == "float32" else 2)
    )
    value = 2 if arguments.bf16 or arguments.fp16 else size
    rows = arguments.per_device_train_batch_size
    is_checkpointing = bool(arguments.gradient_checkpointing or getattr(arguments, "activation_checkpointing", False))

    def activations(part: Any, num_tokens: int) -> float:
        block = num_tokens * (8 * part.hidden_size + 4 * part.intermediate_size)
        layers = part.num_hidden_layers
        return value * rows * (layers * num_tokens * part.hidden_size + block if is_checkpointing else layers * block)

    kept = activations(config.text_config, length)
    if any(parameter.requires_grad for name, parameter in model.named_parameters() if "vision_tower" in name):
        vision = config.vision_config
        if getattr(vision, "intermediate_size", None) is None:  # DINOv2 gives a ratio
            vision = types.SimpleNamespace(
                hidden_size=vision.hidden_size,
                num_hidden_layers=vision.num_hidden_layers,
                intermediate_size=int(vision.hidden_size * vision.mlp_ratio),
            )
        kept += activations(vision, math.prod(config.grid_size) + config.num_prefix_tokens)
    parts = {"weights": total * size, "gradients": trainable * size, "optimizer": 2 * trainable * size}
    ways = {"ddp": (1, 1), "zero2": (1, processes), "fsdp": (processes, processes)}
    return {
        way: {name: number / (whole if name == "weights" else shared) for name, number in parts.items()}
        | {"activations": float(kept)}
        for way, (whole, shared) in ways.items()
        if way == "ddp" or processes > 1
    }


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GB" if size >= 2**27 else f"{size / 2**20:.1f} MB"
