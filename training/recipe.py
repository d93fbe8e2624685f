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

`load_recipe` -> `Recipe`; `run_recipe(recipe)` trains. What it would do, `dry_run.py` says.
Paths are relative to the folder where the command runs.
"""

import copy
import dataclasses
import difflib
import importlib.util
import inspect
import json
import logging
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon.hub_cards.checkpoint import TRAINING_LOG

from .config import GranulonSFTConfig
from .data import TrainingData, combine, load_training_data, split_by_image
from .fields import check_keys, one_of, typed
from .run_lock import RunLock
from .stages import STAGES


logger = logging.getLogger(__name__)

RECIPES = Path(__file__).with_name("recipes")
NANO = "examples/nano/granulon-nano"  # where `nano-lora` starts; a wheel has the recipe without the model
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
    check_keys(values, known, "the recipe")
    for key in ("model", "data", "output"):
        if not values.get(key):
            raise ValueError(f"The recipe has no `{key}`. It must name `model`, `data` and `output`.")
    written = copy.deepcopy(values)
    model = values["model"] if isinstance(values["model"], dict) else {"path": values["model"]}
    check_keys(model, _MODEL_KEYS, "`model`")
    if ("path" in model) == ("vision" in model and "text" in model) or ("path" in model and "text" in model):
        raise ValueError(
            f"`model` has {sorted(model)}, expected either `path`, a Granulon, or `vision` and `text`, to compose one."
        )
    recipe = Recipe(
        model=model,
        data=_data(values["data"], "data"),
        output=typed("output", values["output"], str),
        eval_data=_eval_data(values.get("eval_data")),
        stage=one_of("stage", values.get("stage", "connector"), STAGES),
        lora=_lora(values.get("lora")),
        seed=typed("seed", values.get("seed", 0), int),
        dtype=one_of("dtype", values.get("dtype", "float32"), _DTYPES),
        training=_training(typed("training", values.get("training") or {}, dict)),
        callbacks=_callbacks(typed("callbacks", values.get("callbacks") or {}, dict)),
        source=written,
    )
    if recipe.stage == "lora" and recipe.lora is None:
        recipe.lora = {}
    _check_agreement(recipe)
    return recipe


def _check_agreement(recipe: Recipe) -> None:
    """What each key allows by itself, but not together, or not on this machine."""
    if recipe.lora is not None and recipe.stage != "lora":
        raise ValueError(
            f"`lora` is given, but the stage is {recipe.stage!r}, which trains the model's own weights. Set "
            "`stage: lora`, or remove `lora`."
        )
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


def _data(value: Any, name: str) -> list[dict[str, Any]]:
    known = [key for key in inspect.signature(load_training_data).parameters if key != "processor"]
    entries = []
    for entry in value if isinstance(value, list) else [value]:
        entry = {"source": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict):
            raise TypeError(f"`{name}` holds {entry!r}, expected a path, a Hub id or a mapping with `source`.")
        check_keys(entry, known, f"`{name}`")
        if not entry.get("source"):
            raise ValueError(f"`{name}` has no `source`: a path or a Hub id.")
        hints = typing.get_type_hints(load_training_data)
        entries.append(
            {key: v if key == "source" else typed(f"{name}.{key}", v, hints[key]) for key, v in entry.items()}
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
    return {"preset": value} if isinstance(value, str) else typed("lora", value, dict)


def _callbacks(values: dict[str, Any]) -> dict[str, Any]:
    check_keys(values, ("samples",), "`callbacks`")
    if "samples" in values:
        samples = typed("callbacks.samples", values["samples"], dict)
        check_keys(samples, _SAMPLE_KEYS, "`callbacks.samples`")
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
    check_keys(values, known, "`training`")
    return {key: typed(f"training.{key}", value, hints[key]) for key, value in values.items()}


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
        check_is_granulon(path)
        model: Any = AutoModelForImageTextToText.from_pretrained(path, revision=revision, dtype=recipe.dtype)
        return model, AutoProcessor.from_pretrained(path, revision=revision)
    options.pop("revision", None)
    torch.manual_seed(recipe.seed)  # of the new weights, alike on every rank
    return GranulonForConditionalGeneration.from_backbones(
        options.pop("vision"), options.pop("text"), dtype=recipe.dtype, **options
    )


def check_is_granulon(path: str) -> None:
    """
    Raises:
        FileNotFoundError: `path` cannot be a Hub id, and there is no such folder.
        ValueError: the folder holds something else than a Granulon.
    """
    folder = Path(path).expanduser()
    if not folder.exists() and (folder.is_absolute() or str(path).count("/") > 1 or str(path).startswith(".")):
        hint = ""
        if str(path) == NANO:
            hint = (
                " The nano model comes with the source (repository or sdist), not with the wheel: run in its folder."
            )
        raise FileNotFoundError(
            f"`model` {str(path)!r} does not exist. Give a Granulon's folder or its Hub id (model=...).{hint}"
        )
    file = folder / "config.json"
    if folder.is_dir() and (not file.is_file() or json.loads(file.read_text()).get("model_type") != "granulon"):
        raise ValueError(
            f"`model` {str(path)!r} is not a Granulon. Compose one with `model: {{vision: ..., text: ...}}`, or with "
            "`granulon init`."
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
    Train, and write `output/final`: model or adapter, processor, code, card and provenance. A run that had reached its
    last step is not trained again; `final` stays, or is written from the last checkpoint where it is missing.

    Args:
        resume: True for the newest complete checkpoint in `output`, if it holds any, or a checkpoint's folder.
        max_steps: stop after so many optimizer steps.

    Returns:
        the folder with the result.

    Raises:
        ValueError: `output` holds checkpoints and `resume` is False, or none of them is complete; another run is
            going on there.
        FileNotFoundError: `resume` names no folder.
        SystemExit: with status 143, after SIGTERM; a checkpoint of the last finished step is in `output`.
    """
    arguments, final = build_arguments(recipe, max_steps=max_steps), Path(recipe.output) / "final"
    with RunLock(recipe.output) as lock:
        _check_output(Path(recipe.output), resume)
        if resume is True and not any(Path(recipe.output).glob("checkpoint-*")):
            print(f"{recipe.output} holds no checkpoint: training starts from the beginning.", file=sys.stderr)
            resume = False
        trainer, train = _build_trainer(recipe, arguments)
        trainer.run_lock = lock
        trainer.train(resume_from_checkpoint=resume or None)
        if trainer.is_world_process_zero() and train.num_rows is None:
            print(train.bad_rows.report(), file=sys.stderr)
        if not (trainer.was_complete and _is_result(final, trainer.state.global_step)):
            trainer.save_final(final)
        elif trainer.is_world_process_zero():
            print(f"{final} holds its result and stays as it is.", file=sys.stderr)
    return final


def _build_trainer(recipe: Recipe, arguments: GranulonSFTConfig) -> tuple[Any, TrainingData]:
    from .callbacks import SampleGeneration
    from .trainer import GranulonSFTTrainer

    model, processor = load_model(recipe)
    samples = recipe.callbacks.get("samples")
    with PartialState().main_process_first():  # which fills the caches for the others
        train, held = load_data(recipe, processor)
    trainer = GranulonSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train.dataset,
        eval_dataset=None if held is None else held.dataset,
        processing_class=processor,
        peft_config=peft_config(recipe, model),
        callbacks=[SampleGeneration(processor, **samples)] if samples else [],
    )
    parts = [train] if held is None else [train, held]
    trainer.provenance = {"recipe": recipe.source, "data": [data.provenance() for data in parts]}
    if trainer.is_world_process_zero():
        for data in parts:
            print(f"{data.name}: {data.num_rows or 'streamed'} rows, fingerprint {data.fingerprint}", file=sys.stderr)
            if data is train or data.bad_rows is not train.bad_rows:  # held-out rows share the report
                print(data.bad_rows.report(), file=sys.stderr)
    return trainer, train


def _is_result(final: Path, step: int) -> bool:
    """Whether `final` was written after this optimizer step."""
    try:
        return json.loads((final / TRAINING_LOG).read_text())["step"] == step
    except (OSError, ValueError, KeyError):
        return False


def _check_output(output: Path, resume: bool | str) -> None:
    if resume is False and any(output.glob("checkpoint-*")):
        raise ValueError(
            f"{output} holds checkpoints of an earlier run. Go on with --resume, or choose another --output."
        )
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {resume!r}.")
