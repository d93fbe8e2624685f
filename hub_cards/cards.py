"""The card of a Granulon or of its adapter, rendered from what the directory and its training log say."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from granulon.files import new_file
from granulon.modeling_granulon.configuration_granulon import GranulonConfig

from .checkpoint import check_log, find_bases, read_checkpoint, write_log
from .foreign import code, one_line, plain, read_metadata, read_text
from .licences import combined_metadata, is_hub_id, licences_of_data, licences_of_parts


RESULTS_FILE = Path(".eval_results/granulon.yaml")
_METRICS = ("accuracy", "exact_match", "f1", "bleu", "rouge", "bertscore", "perplexity")
_COUNTS = ("questions", "num_rows", "num_samples", "n", "count")
_RESULT_KEYS = ("dataset_id", "config", "split", "task_id", "date", "source_url", "notes")
_RUN_FIELDS = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "lr_scheduler_type")


@dataclass(frozen=True)
class Result:
    """One number of an evaluation; `dataset_id` and the like come from the log, "" where it does not say."""

    dataset: str
    metric: str
    value: float
    interval: tuple[float, float] | None = None
    count: int | None = None
    details: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------- results


def read_results(results: Any) -> list[Result]:
    """
    The numbers of a log's `results`: nested dicts whose names lead to metrics.

    A metric is a number, `[value, low, high]` (a 95 % interval), or `{"value": ..., "interval": [low, high]}`. Counts
    (`questions`, `num_rows`, `n` ...) stand beside the metrics they belong to. The strings `dataset_id`, `config`,
    `split`, `task_id`, `date` (ISO 8601), `source_url` and `notes` hold for all numbers below them.
    """
    found: list[Result] = []
    _walk(results if isinstance(results, dict) else {}, (), {}, found)
    return found


def _walk(node: dict[str, Any], names: tuple[str, ...], details: dict[str, str], found: list[Result]) -> None:
    details = {**details, **{key: one_line(node[key]) for key in _RESULT_KEYS if isinstance(node.get(key), str)}}
    count = next((node[key] for key in _COUNTS if _is_number(node.get(key))), None)
    for name, value in node.items():
        if name in _COUNTS or name in _RESULT_KEYS:
            continue
        interval = None
        if isinstance(value, dict) and _is_number(value.get("value")):
            value, interval = value["value"], value.get("interval")
        elif isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value)):
            value, interval = value[0], value[1:]
        if _is_number(value):
            bounds = None
            if isinstance(interval, list | tuple) and len(interval) == 2 and all(map(_is_number, interval)):
                bounds = (float(interval[0]), float(interval[1]))
            dataset = one_line(" / ".join(names)) or details.get("dataset_id", "evaluation")
            found.append(Result(dataset, one_line(name), float(value), bounds, count, details))
        elif isinstance(value, dict):
            _walk(value, (*names, one_line(name)), details, found)


def _is_number(value: Any) -> bool:
    """Whether it can be shown: JSON has integers that no float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


def result_entries(results: list[Result]) -> str | None:
    """
    `.eval_results/*.yaml`, the Hub's own format, of the results whose data set is on the Hub; `None` where there is
    none. The Hub counts them for data sets that are registered as benchmarks.
    """
    entries = [
        EvalResultEntry(
            dataset_id=result.details["dataset_id"],
            task_id=result.details.get("task_id", "default"),
            value=result.value,
            date=result.details.get("date"),
            source_url=result.details.get("source_url"),
            notes=result.details.get("notes") or f"{result.dataset}, {result.metric}",
        )
        for result in results
        if is_hub_id(result.details.get("dataset_id"))
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) if entries else None


# ---------------------------------------------------------------------- the card


def render_card(
    config: GranulonConfig | None,
    title: str = "Granulon",
    repo_id: str = "path/to/this/directory",
    base_models: list[str] | None = None,
    results: str | None = None,
    *,
    run: dict[str, Any] | None = None,
    adapter: dict[str, Any] | None = None,
    parts: dict[str, str] | None = None,
    licence: str | None = None,
) -> ModelCard:
    """
    Args:
        config: the model's; for an adapter its base's, `None` where that cannot be read.
        title: the card's heading.
        repo_id: what the usage example loads.
        base_models: what the weights were taken from. Only Hub ids are named; local paths stay private.
        results: Markdown, in place of the numbers in `run`. Without either, and without a training log, the card says
            that the model is not trained.
        run: `granulon_training.json`.
        adapter: `adapter_config.json`, for an adapter.
        parts: origins of `vision_encoder` and `language_model`, a Hub id or `scratch`, where the config does not say.
        licence: of the whole, in place of what follows from the parts.
    """
    run = check_log(run or {})
    hub_ids = find_bases(config, adapter, run, base_models or ())
    terms = licences_of_parts(config, hub_ids, parts or run.get("parts")) if config is not None else []
    data = [_describe_data(entry) for entry in run.get("data") or [] if isinstance(entry, dict)]
    numbers = read_results(run.get("results"))
    repo_id = repo_id if is_hub_id(repo_id) else "path/to/this/directory"
    title = one_line(title) or "Granulon"
    tags = ["granulon", "custom_code", "vision-language-model"]
    if config is not None:
        tags += [config.vision_config.model_type, config.text_config.model_type]
    if adapter is not None:
        tags += ["peft", "lora"]
    languages = run.get("language", "en")
    languages = one_line(languages) if isinstance(languages, str) else [one_line(name) for name in languages]
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "language": languages,
        "tags": tags,
        **combined_metadata(terms[1:] if adapter is not None else terms, licence or run.get("license")),
    }
    if hub_ids:
        metadata["base_model"] = hub_ids
        metadata["base_model_relation"] = "finetune" if adapter is None else "adapter"
    if datasets := sorted({entry["id"] for entry in data if entry["id"]}):
        metadata["datasets"] = datasets
    if metrics := [name for name in _METRICS if name in {result.metric.lower() for result in numbers}]:
        metadata["metrics"] = metrics
    if numbers:
        metadata["model_name"] = title
        metadata["eval_results"] = [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=result.details.get("dataset_id", result.dataset),
                dataset_name=result.dataset,
                dataset_config=result.details.get("config"),
                dataset_split=result.details.get("split"),
                metric_type=result.metric.lower(),
                metric_name=result.metric,
                metric_value=result.value,
            )
            for result in numbers
        ]
    finest = config.level_names[-1] if config is not None else "fine"
    data_names = [name for entry in data for name in (entry["shown"], entry["id"] or "")]
    content = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(Path(__file__).with_name("model_card.md")),
        title=plain(title),
        repo_id=repo_id,
        base_id=next(iter(hub_ids), "the-base-model") if adapter is not None else None,
        is_adapter=adapter is not None,
        vision_type=code(config.vision_config.model_type) if config is not None else None,
        text_type=code(config.text_config.model_type) if config is not None else None,
        levels=[{**level, "name": plain(level["name"])} for level in config.levels] if config is not None else [],
        level_argument=code(f'processor_kwargs={{"granularity": {json.dumps(one_line(finest))}}}'),
        image_size=config.image_size if config is not None else None,
        licences=[(term.label + (" of the base model" if adapter is not None else ""), term.terms) for term in terms],
        is_noncommercial=any(term.is_noncommercial for term in terms),
        data_licences=licences_of_data(data_names),
        results=results,
        rows=[(plain(row.dataset), plain(row.metric), _number(row), row.count) for row in numbers],
        is_trained=bool(
            results or numbers or run.get("log_history") or run.get("merged_adapter") or adapter is not None
        ),
        stage=code(run["stage"]) if run.get("stage") else None,
        seed=code(run["seed"]) if run.get("seed") is not None else None,
        settings=_settings(run.get("recipe")),
        data=data,
        history=_last_values(run.get("log_history")),
        versions=", ".join(f"{plain(k)} {plain(v)}" for k, v in (run.get("versions") or {}).items()),
        lora=_describe_adapter(adapter),
    )
    return content


def _describe_data(entry: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of data sets; of a local path only the last name is shown."""
    name = one_line(entry.get("name") or "data")
    source = next((entry[key] for key in ("dataset_id", "id", "source", "name") if is_hub_id(entry.get(key))), None)
    local = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    rows = entry.get("num_rows")
    return {
        "id": source,
        "shown": source or local,
        "name": f"[{source}](https://huggingface.co/datasets/{source})" if source else plain(local),
        "rows": f"{rows:,}" if _is_number(rows) else "not counted",
        "fingerprint": code(entry["fingerprint"]) if entry.get("fingerprint") else "",
    }


def _settings(recipe: dict[str, Any] | None) -> list[str]:
    training = (recipe or {}).get("training")
    training = training if isinstance(training, dict) else {}
    return [f"{name} {code(training[name])}" for name in _RUN_FIELDS if training.get(name) is not None]


def _last_values(history: Any) -> list[tuple[str, str]]:
    """Steps, losses and shares of levels as last logged."""
    entries = [entry for entry in history or [] if isinstance(entry, dict)] if isinstance(history, list) else []
    last: dict[str, Any] = {}
    for entry in entries:
        last.update({key: value for key, value in entry.items() if _is_number(value)})
    wanted = re.compile(r"(eval_)?(loss(_\w+)?|mean_token_accuracy|level/.*)|train_runtime|epoch|step")
    return [(plain(key), f"{value:.4g}") for key, value in last.items() if wanted.fullmatch(str(key))]


def _describe_adapter(adapter: dict[str, Any] | None) -> str | None:
    if adapter is None:
        return None
    names = adapter.get("modules_to_save")
    kept = ", ".join(code(name) for name in names) if isinstance(names, list) else ""
    return f"rank {code(adapter.get('r'))}, alpha {code(adapter.get('lora_alpha'))}, on the language model" + (
        f"; trained as a whole and saved with it: {kept}" if kept else ""
    )


def _number(result: Result) -> str:
    if result.interval is None:
        return f"{result.value:.4g}"
    return f"{result.value:.4g} [{result.interval[0]:.4g}, {result.interval[1]:.4g}]"


def render_directory(directory: str | Path, repo_id: str | None = None, **options: Any) -> ModelCard:
    """The card of a directory, from its config and its training log; `options` as in `render_card`."""
    checkpoint = read_checkpoint(directory)
    name = repo_id.split("/")[-1] if repo_id else checkpoint.directory.resolve().name
    title = options.pop("title", None) or checkpoint.run.get("title") or name
    options["base_models"] = options.get("base_models") or checkpoint.bases
    return render_card(
        checkpoint.config,
        title=title,
        repo_id=repo_id or "",
        run=checkpoint.run,
        adapter=checkpoint.adapter,
        **options,
    )


def write_card(directory: str | Path, repo_id: str | None = None, **options: Any) -> Path:
    """
    Write `README.md` into a directory that holds a model or an adapter, and `.eval_results/granulon.yaml` where the
    training log has results on data sets of the Hub.

    Args:
        repo_id: where the directory will be published, for the usage examples.
        options: `title`, `base_models`, `results`, `parts`, `licence`, as in `render_card`; the last two are also
            recorded in the training log, so that they hold from now on.
    """
    directory = Path(directory)
    licence = {"parts": options.get("parts"), "license": options.get("licence")}
    if known := {key: value for key, value in licence.items() if value}:
        write_log(directory, {**read_checkpoint(directory).run, **known})
    card = render_directory(directory, repo_id, **options)
    with new_file(directory / "README.md", newline="") as file:
        file.write(str(card))
    if entries := result_entries(read_results(read_checkpoint(directory).run.get("results"))):
        with new_file(directory / RESULTS_FILE) as file:
            file.write(entries)
    return directory / "README.md"


def check_card(directory: str | Path) -> list[str]:
    """What is wrong with a directory's card, one sentence for each fault; an empty list is a good card."""
    path = Path(directory) / "README.md"
    if not path.exists():
        return [f"There is no card: {path} is missing. `granulon card {directory}` writes it."]
    try:
        if data := read_metadata(path):  # within limits; what the library makes of it is asked only then
            ModelCard(read_text(path))
    except Exception as error:
        return [f"The card's metadata cannot be read: {one_line(error)}. `granulon card {directory}` writes it anew."]
    expected = render_directory(directory).data
    faults = []
    for name in ("library_name", "pipeline_tag", "license", "base_model", "base_model_relation"):
        wanted, found = expected.get(name), data.get(name)
        if wanted is not None and found is None:
            faults.append(f"The card's metadata lacks `{name}`, expected {wanted!r}.")
        elif name in ("library_name", "pipeline_tag", "base_model_relation") and wanted and found != wanted:
            faults.append(f"The card's `{name}` is {one_line(repr(found))}, expected {wanted!r}.")
    if "custom_code" not in (data.get("tags") or []):
        faults.append("The card's `tags` lack `custom_code`: the Hub would not warn that loading runs code.")
    return faults
