"""What a directory says of itself: config, adapter, training log, card; and which part came from where."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from granulon.files import new_file
from granulon.modeling_granulon.configuration_granulon import GranulonConfig

from .foreign import one_line, read_json, read_metadata
from .licences import is_hub_id
from .weights import check_no_pickles


TRAINING_LOG = "granulon_training.json"
_LOG_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("recipe", "results", "versions", "parts"), dict),
    **dict.fromkeys(("data", "log_history", "base_models"), list),
    **dict.fromkeys(("license", "title", "base_fingerprint"), str),
    "language": (str, list),
}


@dataclass(frozen=True)
class Checkpoint:
    """
    Attributes:
        config: of the model; for an adapter, of its base, or `None` where the base cannot be read.
        adapter: `adapter_config.json`, or `None` for a model.
        run: `granulon_training.json`, or {}.
        bases: Hub ids that the weights come from.
    """

    directory: Path
    config: GranulonConfig | None
    adapter: dict[str, Any] | None
    run: dict[str, Any]
    bases: list[str] = field(default_factory=list)


def read_checkpoint(directory: str | Path) -> Checkpoint:
    """
    Raises:
        ValueError: the directory holds neither a Granulon nor an adapter of one, its only weights are a pickle, or a
            file of it is not what it should be.
    """
    directory = Path(directory)
    config, adapter, run = None, None, read_log(directory)
    if (directory / "config.json").exists():
        config = _read_config(directory)
    elif (directory / "adapter_config.json").exists():
        adapter = read_json(directory / "adapter_config.json")
        config = _config_of_base(adapter.get("base_model_name_or_path"))
    else:
        raise ValueError(
            f"{directory} holds neither config.json nor adapter_config.json. Name a directory that `save_pretrained`, "
            "`granulon train` or `granulon merge` wrote."
        )
    check_no_pickles(directory)
    return Checkpoint(directory, config, adapter, run, find_bases(config, adapter, run, _card_bases(directory)))


def _read_config(directory: Path) -> GranulonConfig:
    kind = read_json(directory / "config.json").get("model_type")
    if kind != "granulon":
        raise ValueError(f"{directory} holds a `{one_line(kind)}`, expected a Granulon or an adapter of one.")
    try:
        config = GranulonConfig.from_pretrained(directory)
        assert config.image_size and config.level_names
    except Exception as error:  # a config of any kind can be inside, and fail in its own way
        raise ValueError(
            f"{directory / 'config.json'} describes no Granulon ({type(error).__name__}: {one_line(error)}). Write it "
            "again with `save_pretrained`."
        ) from error
    return config


def _config_of_base(base: Any) -> GranulonConfig | None:
    if not base or not isinstance(base, str):
        return None
    try:
        if Path(base).is_dir():
            return _read_config(Path(base))
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except Exception:  # moved, private, offline, or something else altogether: the card says less
        return None
    return config if config.model_type == "granulon" else None


# ---------------------------------------------------------------------- the training log


def read_log(directory: str | Path) -> dict[str, Any]:
    """
    `granulon_training.json`, or {} where there is none.

    Raises:
        ValueError: it is not JSON, or a field holds another kind of value than it should.
    """
    path = Path(directory) / TRAINING_LOG
    return check_log(read_json(path), path) if path.exists() else {}


def check_log(run: dict[str, Any], source: Any = TRAINING_LOG) -> dict[str, Any]:
    """The log itself, without fields that are null; other kinds of values than expected raise a ValueError."""
    run = {name: value for name, value in run.items() if value is not None}
    for name, kinds in _LOG_FIELDS.items():
        if name in run and not isinstance(run[name], kinds):
            wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise ValueError(f"{source}: `{name}` is a {type(run[name]).__name__}, expected a {wanted}.")
    return run


def write_log(directory: str | Path, run: dict[str, Any]) -> None:
    """Write `granulon_training.json`, whole or not at all; what JSON does not know is written as text."""
    with new_file(Path(directory) / TRAINING_LOG) as file:
        json.dump(run, file, indent=1, default=str)


# ---------------------------------------------------------------------- which part came from where


def find_bases(
    config: GranulonConfig | None,
    adapter: dict[str, Any] | None,
    run: dict[str, Any],
    given: Iterable[Any] = (),
) -> list[str]:
    """
    Hub ids that the weights come from: as `given` (by the caller, or by an earlier card: a config may have forgotten
    them), or as the log says, or its recipe, or the config's parts; of an adapter, its base. Local paths stay private.
    """
    recipe = run.get("recipe") or {}
    ways: list[Iterable[Any]] = [given, run.get("base_models") or [], [recipe.get("model")]]
    if config is not None:
        ways.append([config.vision_config._name_or_path, config.text_config._name_or_path])
    if adapter is not None:
        ways = [given, [adapter.get("base_model_name_or_path")]]
    for names in ways:
        if ids := [name for name in names if is_hub_id(name)]:
            return list(dict.fromkeys(ids))
    return []


def log_of_merged(adapter: str | Path, base: str) -> dict[str, Any]:
    """The training log of a model that an adapter was merged into: the adapter's, with what its base came from."""
    run, base_run = read_log(adapter), read_log(base)
    run.pop("base_fingerprint", None)
    run.setdefault("base_models", [base] if is_hub_id(base) else base_run.get("base_models", []))
    return {**{key: base_run[key] for key in ("parts", "license") if key in base_run}, **run, "merged_adapter": True}


def _card_bases(directory: Path) -> list[str]:
    if not (directory / "README.md").exists():
        return []
    try:
        recorded = read_metadata(directory / "README.md").get("base_model")
    except (ValueError, OSError):
        return []
    return [recorded] if isinstance(recorded, str) else recorded if isinstance(recorded, list) else []
