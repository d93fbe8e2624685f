"""
Recipes: a training run as one YAML file, checked before anything heavy happens.

```yaml
model: path/to/granulon            # or {vision: ..., text: ..., controller: ...} to compose one
data: my-photos                    # or a mapping with `load_training_data`'s arguments, or a list of them
eval_data: {share: 0.05}           # held out of `data` by image; or like `data`; or left out
stage: connector                   # projector, controller, connector, language, lora, full
lora: {preset: attention, r: 16}   # stage lora only
seed: 0
dtype: float32                     # of the loaded weights; `auto` keeps theirs
output: runs/my-photos
training: {learning_rate: 1e-4}    # any field of GranulonSFTConfig
callbacks: {samples: {every: 100, questions: [{image: a.jpg, question: "What is this?"}]}}
```

`load_recipe` -> `Recipe`; `dry_run(recipe)` says what would happen, from configs alone; `run_recipe(recipe)` trains.
Paths are relative to the folder where the command runs.
"""

import copy
import dataclasses
import difflib
import enum
import importlib.util
import inspect
import json
import logging
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from .config import GranulonSFTConfig
from .data import TrainingData, combine, load_training_data, split_by_image
from .stages import STAGES, count_parameters, format_counts, set_stage


logger = logging.getLogger(__name__)

RECIPES = Path(__file__).with_name("recipes")
# where a recipe's own key is the one home of a value that GranulonSFTConfig has, too
_ELSEWHERE = {"output_dir": "output", "seed": "seed", "stage": "stage"}
_MODEL_KEYS = (
    "path",
    "revision",
    "vision",
    "text",
    "tokenizer",
    "controller",
    "levels",
    "affinity",
    "chat_template",
    "turn_end",
)
_SAMPLE_KEYS = ("questions", "every", "max_new_tokens")
_DTYPES = ("auto", "float32", "bfloat16")


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, as YAML 1.2 does; in YAML 1.1 it is a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Recipe:
    """A run. `model` and `data` are normalised to mappings; the rest is as the module's docstring shows."""

    model: dict[str, Any]
    data: list[dict[str, Any]]
    output: str
    eval_data: list[dict[str, Any]] | float | None = None  # a share of `data`, or data of its own
    stage: str = "connector"
    lora: dict[str, Any] | None = None
    seed: int = 0
    dtype: str = "float32"
    training: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)  # as it was written, overrides included


# ------------------------------------------------------------------------------------------------------ reading one


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """
    Read and check a recipe.

    Args:
        source: a YAML file, the name of a shipped recipe, or a mapping.
        overrides: such as `training.learning_rate=1e-4` or `output=runs/two`; the value is YAML.

    Raises:
        FileNotFoundError: no such file, no such shipped recipe.
        ValueError: an unknown key (with the nearest known one), a value outside its choices, contradictory keys.
        TypeError: a value of the wrong kind.
    """
    if isinstance(source, Mapping):
        values: dict[str, Any] = copy.deepcopy(dict(source))
    else:
        values = _read_yaml(_find(source))
    for override in overrides:
        _override(values, override)
    return _checked(values)


def _find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    shipped = RECIPES / f"{source}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    near = difflib.get_close_matches(str(source), shipped_recipes(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(
        f"There is no recipe file {str(source)!r}, and no shipped recipe of that name.{hint} Shipped: "
        f"{', '.join(shipped_recipes())}."
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, expected keys such as `model`, `data`, `output`.")
    return values


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"The override {text!r} is not of the form key=value, such as training.learning_rate=1e-4.")
    *parents, last = key.strip().split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if isinstance(inner, str):  # the short form of `model` and `data`
            inner = {"path" if parent == "model" else "source": inner}
        elif inner is None:
            inner = {}
        elif not isinstance(inner, dict):
            raise ValueError(f"The override {text!r} cannot enter `{parent}`, which is a {type(inner).__name__}.")
        place[parent] = place = inner
    try:
        place[last] = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"The value of the override {text!r} is not YAML: {error}") from error


def _checked(values: dict[str, Any]) -> Recipe:
    known = [entry.name for entry in dataclasses.fields(Recipe) if entry.name != "source"]
    _check_keys(values, known, "the recipe")
    for key in ("model", "data", "output"):
        if not values.get(key):
            raise ValueError(f"The recipe has no `{key}`. It must name `model`, `data` and `output`.")
    written = copy.deepcopy(values)
    model = values["model"] if isinstance(values["model"], dict) else {"path": values["model"]}
    _check_keys(model, _MODEL_KEYS, "`model`")
    if ("path" in model) == ("vision" in model and "text" in model) or ("path" in model and "text" in model):
        raise ValueError(
            f"`model` has {sorted(model)}, expected either `path`, a Granulon, or `vision` and `text`, to compose one."
        )
    recipe = Recipe(
        model=model,
        data=_data(values["data"], "data"),
        output=_typed("output", values["output"], str),
        eval_data=_eval_data(values.get("eval_data")),
        stage=_choice("stage", values.get("stage", "connector"), STAGES),
        lora=_lora(values.get("lora")),
        seed=_typed("seed", values.get("seed", 0), int),
        dtype=_choice("dtype", values.get("dtype", "float32"), _DTYPES),
        training=_training(_typed("training", values.get("training") or {}, dict)),
        callbacks=_callbacks(_typed("callbacks", values.get("callbacks") or {}, dict)),
        source=written,
    )
    if recipe.lora is not None and recipe.stage != "lora":
        raise ValueError(
            f"`lora` is given, but the stage is {recipe.stage!r}, which trains the model's own weights. Set "
            "`stage: lora`, or remove `lora`."
        )
    if recipe.stage == "lora" and recipe.lora is None:
        recipe.lora = {}
    if any(entry.get("streaming") for entry in recipe.data):
        if recipe.training.get("max_steps", -1) < 1:
            raise ValueError("Streaming data has no length: set `training.max_steps`.")
        if isinstance(recipe.eval_data, float):
            raise ValueError("A share of streaming data cannot be held out: name a data set in `eval_data`.")
    report_to = recipe.training.get("report_to") or []
    for tool in [report_to] if isinstance(report_to, str) else report_to:
        module = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}.get(tool)
        if module and importlib.util.find_spec(module) is None:
            raise ValueError(f"`training.report_to` is {tool!r}, which is not installed. Run `pip install {module}`.")
    return recipe


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"{where} has the unknown key `{key}`. {hint}")


def _choice(name: str, value: Any, choices: Any) -> Any:
    if value not in choices:
        near = difflib.get_close_matches(str(value), list(choices), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` is {value!r}, expected one of {list(choices)}.{hint}")
    return value


def _data(value: Any, name: str) -> list[dict[str, Any]]:
    known = [key for key in inspect.signature(load_training_data).parameters if key != "processor"]
    entries = []
    for entry in value if isinstance(value, list) else [value]:
        entry = {"source": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict):
            raise TypeError(f"`{name}` holds {entry!r}, expected a path, a Hub id or a mapping with `source`.")
        _check_keys(entry, known, f"`{name}`")
        if not entry.get("source"):
            raise ValueError(f"`{name}` has no `source`: a path or a Hub id.")
        hints = typing.get_type_hints(load_training_data)
        entries.append(
            {key: v if key == "source" else _coerce(f"{name}.{key}", v, hints[key]) for key, v in entry.items()}
        )
    return entries


def _eval_data(value: Any) -> list[dict[str, Any]] | float | None:
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"share"}:
        value = value["share"]
    if isinstance(value, int | float):
        if not 0 < value < 1:
            raise ValueError(f"`eval_data.share` is {value}, but must lie between 0 and 1.")
        return float(value)
    return _data(value, "eval_data")


def _lora(value: Any) -> dict[str, Any] | None:
    if value is None or value is False:
        return None
    if value is True:
        return {}
    return {"preset": value} if isinstance(value, str) else _typed("lora", value, dict)


def _callbacks(values: dict[str, Any]) -> dict[str, Any]:
    _check_keys(values, ("samples",), "`callbacks`")
    if "samples" in values:
        samples = _typed("callbacks.samples", values["samples"], dict)
        _check_keys(samples, _SAMPLE_KEYS, "`callbacks.samples`")
        if not samples.get("questions"):
            raise ValueError("`callbacks.samples` has no `questions`: a list of mappings of `image` and `question`.")
    return values


def _training(values: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(GranulonSFTConfig)
    known = [entry.name for entry in dataclasses.fields(GranulonSFTConfig) if entry.init]
    for key, home in _ELSEWHERE.items():
        if key in values:
            raise ValueError(f"`training.{key}` is set by the recipe's own `{home}`. Move it there.")
    if "warmup_ratio" in values:
        raise ValueError("`training.warmup_ratio` is now `warmup_steps`: below 1, it is the share of all steps.")
    _check_keys(values, known, "`training`")
    return {key: _coerce(f"training.{key}", value, hints[key]) for key, value in values.items()}


def _typed(name: str, value: Any, kind: type) -> Any:
    return _coerce(name, value, kind)


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """The value as the type that a field declares; a text that reads as a number is one."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                try:
                    return _coerce(name, value, option)
                except (TypeError, ValueError):
                    continue
        raise TypeError(f"`{name}` is {value!r}, expected {_type_name(hint)}.")
    if origin is typing.Literal:
        return _choice(name, value, typing.get_args(hint))
    kind = origin or hint
    if isinstance(kind, type):
        is_bool = isinstance(value, bool)
        if kind is float and not is_bool:
            number = _number(value)
            if number is not None:
                return number
        elif kind is int and not is_bool:
            number = _number(value)
            if number is not None and number.is_integer():
                return int(number)
        elif kind in (Mapping, dict) or issubclass(kind, Mapping):
            if isinstance(value, dict):
                return value
        elif kind is Path or issubclass(kind, os.PathLike):
            if isinstance(value, str):
                return value
        elif (kind is bool and is_bool) or (kind is not bool and isinstance(value, kind) and not is_bool):
            return value
        elif issubclass(kind, enum.Enum):  # by value
            return _choice(name, value, [member.value for member in kind])
    raise TypeError(f"`{name}` is {value!r}, a {type(value).__name__}, expected {_type_name(hint)}.")


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}
    names |= {list: "a list", type(None): "null"}
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]
    return " or ".join(names.get(typing.get_origin(o) or o, getattr(o, "__name__", str(o))) for o in options)


# ------------------------------------------------------------------------------------------- from a recipe to objects


def build_arguments(recipe: Recipe, **overrides: Any) -> GranulonSFTConfig:
    """
    The trainer's arguments. Without a GPU, `bf16` and `tf32` are off unless the recipe asks for `bf16` itself.

    Args:
        overrides: fields that a caller fixes, such as `max_steps`.
    """
    values = {**recipe.training, **{key: value for key, value in overrides.items() if value is not None}}
    if not torch.cuda.is_available():
        values.setdefault("bf16", False)
        if values.pop("tf32", None):
            logger.warning("`tf32` needs an NVIDIA GPU and is off here.")
    if values.get("eval_strategy", "no") != "no" and recipe.eval_data is None:
        raise ValueError("`training.eval_strategy` asks for evaluation, but the recipe has no `eval_data`.")
    if isinstance(recipe.eval_data, list | float) and "eval_strategy" not in values:
        values["eval_strategy"] = "epoch"
    return GranulonSFTConfig(output_dir=recipe.output, seed=recipe.seed, stage=recipe.stage, **values)


def load_model(recipe: Recipe) -> tuple[Any, Any]:
    """`(model, processor)`, loaded or composed."""
    from granulon import GranulonForConditionalGeneration

    options = dict(recipe.model)
    if "path" in options:
        path, revision = options["path"], options.get("revision")
        model: Any = AutoModelForImageTextToText.from_pretrained(path, revision=revision, dtype=recipe.dtype)
        return model, AutoProcessor.from_pretrained(path, revision=revision)
    options.pop("revision", None)
    torch.manual_seed(recipe.seed)  # of the new weights, alike on every rank
    return GranulonForConditionalGeneration.from_backbones(
        options.pop("vision"), options.pop("text"), dtype=recipe.dtype, **options
    )


def load_data(
    recipe: Recipe, processor: Any, loader: Callable[..., TrainingData] = load_training_data
) -> tuple[TrainingData, TrainingData | None]:
    """Training and evaluation data in one layout, since the trainer has one collator for both."""

    def read(entries: list[dict[str, Any]], layout: str | None = None) -> list[TrainingData]:
        return [
            loader(**{**entry, **({"layout": layout} if layout else {})}, processor=processor) for entry in entries
        ]

    train = read(recipe.data)
    held = read(recipe.eval_data) if isinstance(recipe.eval_data, list) else []
    if len({part.layout for part in [*train, *held]}) > 1:
        train = read(recipe.data, "messages")
        held = read(typing.cast(list, recipe.eval_data), "messages") if held else []
    whole = combine(train)
    if isinstance(recipe.eval_data, float):
        return split_by_image(whole, recipe.eval_data, recipe.seed)
    return whole, combine(held) if held else None


def peft_config(recipe: Recipe, model: Any) -> Any:
    """The LoRA configuration of the recipe, or `None`."""
    if recipe.lora is None:
        return None
    from .adapters import lora_config

    return lora_config(model, **recipe.lora)


def run_recipe(recipe: Recipe, resume: bool | str = False, max_steps: int | None = None) -> Path:
    """
    Train, and write `output/final`: model or adapter, processor, code, card and provenance.

    Args:
        resume: True for the newest complete checkpoint in `output`, if it holds any, or a checkpoint's folder.
        max_steps: stop after so many optimizer steps.

    Returns:
        the folder with the result.

    Raises:
        ValueError: `output` holds checkpoints and `resume` is False, or none of them is complete.
        FileNotFoundError: `resume` names no folder.
        SystemExit: with status 143, after SIGTERM; a checkpoint of the last finished step is in `output`.
    """
    from .callbacks import ProgressReport, SampleGeneration
    from .trainer import GranulonSFTTrainer

    arguments = build_arguments(recipe, max_steps=max_steps)
    _check_output(Path(recipe.output), resume)
    if resume is True and not any(Path(recipe.output).glob("checkpoint-*")):
        print(f"{recipe.output} holds no checkpoint: training starts from the beginning.", file=sys.stderr)
        resume = False
    model, processor = load_model(recipe)
    callbacks: list[Any] = []
    if "samples" in recipe.callbacks:
        callbacks.append(SampleGeneration(processor, **recipe.callbacks["samples"]))
    with PartialState().main_process_first():  # which fills the caches for the others
        train, held = load_data(recipe, processor)
    trainer = GranulonSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train.dataset,
        eval_dataset=None if held is None else held.dataset,
        processing_class=processor,
        peft_config=peft_config(recipe, model),
        callbacks=callbacks,
    )
    trainer.provenance = {
        "recipe": recipe.source,
        "data": [data.provenance() for data in (train, held) if data is not None],
    }
    ProgressReport.install(trainer)
    if trainer.is_world_process_zero():
        for data in (train, held):
            if data is not None:
                print(
                    f"{data.name}: {data.num_rows or 'streamed'} rows, fingerprint {data.fingerprint}", file=sys.stderr
                )
                if data is train or data.bad_rows is not train.bad_rows:  # held-out rows share the report
                    print(data.bad_rows.report(), file=sys.stderr)
    trainer.train(resume_from_checkpoint=resume or None)
    if trainer.is_world_process_zero() and train.num_rows is None:
        print(train.bad_rows.report(), file=sys.stderr)
    final = Path(recipe.output) / "final"
    trainer.save_model(str(final))
    if trainer.is_world_process_zero():
        processor.save_pretrained(final)
    trainer.accelerator.wait_for_everyone()
    return final


def _check_output(output: Path, resume: bool | str) -> None:
    if resume is False and any(output.glob("checkpoint-*")):
        raise ValueError(
            f"{output} holds checkpoints of an earlier run. Go on with --resume, or choose another --output."
        )
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {resume!r}.")


# --------------------------------------------------------------------------------------------------------- a dry run


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
            "Memory per process, estimated (formula: granulon.training.recipes.DryRun)",
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
    Check paths, columns, rows and the schedule, and estimate memory, from configs alone: no weights are read, no
    process group is started. Local data are checked whole; of Hub data, the first rows are streamed.

    Args:
        processes: of the run that is planned; by default `WORLD_SIZE`, or 1.
        num_rows: rows whose tokens are counted.
    """
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    notes: list[str] = []
    arguments = build_arguments(recipe, max_steps=max_steps)
    model, processor = build_on_meta(recipe)
    _check_output_note(Path(recipe.output), notes)
    if "samples" in recipe.callbacks:
        from .callbacks import SampleGeneration

        SampleGeneration(processor, **recipe.callbacks["samples"])
    sizes: dict[str, int | None] = {}

    def peek(source: Any, **options: Any) -> TrainingData:
        if isinstance(source, str) and not Path(source).expanduser().exists() and not options.get("streaming"):
            sizes[source] = _hub_rows(source, options)
            notes.append(f"{source}: only the first rows were looked at, not checked whole.")
            options = {**options, "streaming": True, "max_rows": num_rows}
        return load_training_data(source, **options)

    train, held = load_data(recipe, processor, peek)
    rows = train.num_rows
    if rows is None and sizes and all(sizes.get(entry["source"]) for entry in recipe.data):
        rows = sum(typing.cast(int, sizes[entry["source"]]) for entry in recipe.data)
    lengths, answers, prompt = _count_tokens(train, processor, num_rows)
    width = arguments.per_device_train_batch_size * processes
    accumulation = arguments.gradient_accumulation_steps
    steps_per_epoch = None
    if rows is not None:
        batches = math.ceil(rows / width)
        steps_per_epoch = max(math.ceil(batches / accumulation), 1)
        if rows < width * accumulation:
            notes.append(f"{rows} rows are fewer than one effective batch of {width * accumulation}.")
    if arguments.max_steps > 0:
        steps = arguments.max_steps
    elif steps_per_epoch is not None:
        steps = math.ceil(arguments.num_train_epochs * steps_per_epoch)
    else:
        raise ValueError("The number of rows is not known: set `training.max_steps`.")
    adapter = peft_config(recipe, model)
    if adapter is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapter)
    set_stage(model, recipe.stage)
    counts = count_parameters(model)
    trainable = sum(count.trainable for count in counts.values())
    total = trainable + sum(count.frozen for count in counts.values())
    text, vision = counts["language_model"], counts["vision_tower"]
    samples = steps * width * accumulation
    config = model.config
    per_token = (8 if text.trainable > text.frozen else 6) * (text.trainable + text.frozen)
    patches = math.prod(config.grid_size) + config.num_prefix_tokens
    per_image = (6 if vision.trainable else 2) * (vision.trainable + vision.frozen) * patches
    rate = arguments.learning_rate
    return DryRun(
        counts=format_counts(counts, recipe.stage),
        trainable=trainable,
        total=total,
        data=[
            f"{side}: {data.name}, {'a stream' if data.num_rows is None else f'{data.num_rows:,} rows'}, "
            f"{data.layout}, fingerprint {data.fingerprint[:19]}..."
            + (
                ""
                if not data.bad_rows.rows or (data is held and data.bad_rows is train.bad_rows)
                else "\n    " + data.bad_rows.report().replace("\n", "\n    ")
            )
            for side, data in (("train", train), ("eval", held))
            if data is not None
        ],
        columns=list(train.dataset.features),
        tokens=(min(lengths), sum(lengths) / len(lengths), max(lengths)),
        image_slots=(config.image_seq_length, config.max_semantic_tokens),
        answer_tokens=answers,
        processes=processes,
        effective_batch=width * accumulation,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup_steps=arguments.get_warmup_steps(steps),
        schedule=str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        learning_rate=rate,
        memory=estimate_memory(model, arguments, trainable, total, max(lengths), processes, recipe.dtype),
        compute=float(samples * (per_token * sum(lengths) / len(lengths) + per_image)),
        prompt=prompt,
        notes=notes,
    )


def build_on_meta(recipe: Recipe) -> tuple[Any, Any]:
    """The model without weights, on the meta device, and its processor."""
    from granulon import GranulonForConditionalGeneration
    from granulon.backbones import build_image_processor, compose, load_tokenizer

    options = dict(recipe.model)
    if "path" in options:
        path, revision = options["path"], options.get("revision")
        _check_is_granulon(path)
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


def _check_is_granulon(path: str) -> None:
    folder = Path(path).expanduser()
    if not folder.exists() and (folder.is_absolute() or str(path).count("/") > 1 or str(path).startswith(".")):
        raise FileNotFoundError(f"`model` {str(path)!r} does not exist. Give a Granulon's folder or its Hub id.")
    file = folder / "config.json"
    if folder.is_dir() and (not file.is_file() or json.loads(file.read_text()).get("model_type") != "granulon"):
        raise ValueError(
            f"`model` {str(path)!r} is not a Granulon. Compose one with `model: {{vision: ..., text: ...}}`, or with "
            "`granulon init`."
        )


def _check_output_note(output: Path, notes: list[str]) -> None:
    if any(output.glob("checkpoint-*")):
        notes.append(f"{output} holds checkpoints of an earlier run: use --resume or another --output.")
    parent = next((folder for folder in (output, *output.parents) if folder.exists()), Path("."))
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"`output` {str(output)!r} cannot be written: {parent} is read-only for you.")


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
    from trl.data_utils import prepare_multimodal_messages

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
