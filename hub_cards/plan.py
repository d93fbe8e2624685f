"""What a push would send, and what speaks against it."""

import fnmatch
import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

from .cards import RESULTS_FILE, check_card, read_results, render_directory
from .cards import result_entries as render_results
from .checkpoint import TRAINING_LOG, read_checkpoint
from .foreign import one_line, read_json, read_text
from .licences import HUB_ID, PartLicence, find_agreement, is_hub_id, licence_summary, licences_of_parts, notice_text
from .weights import find_damage


# What belongs to a model or an adapter. Everything else stays at home: optimizer state, pickles, logs, data.
_SENT = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.j*",
    "*_granulon.py",
    "*.md",
    "*.png",
    "*.jpg",
    "LICEN[SC]E*",
    "NOTICE*",
    "USE_POLICY*",
    TRAINING_LOG,
    ".eval_results/*.yaml",
)
_IMPORT = re.compile(r"^from \.(\w+) import", re.MULTILINE)


@dataclass
class PushPlan:
    """
    Attributes:
        files: path in the repository -> file here, or its content where it is made for the occasion.
        left_out: files of the directory that are not sent.
        faults: why it must not be sent as it is, one sentence each.
        warnings: what its owner should know.
    """

    directory: Path
    repo_id: str
    is_adapter: bool
    files: dict[str, Path | bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def size_of(self, name: str) -> int:
        """Bytes of a file that is to be sent."""
        source = self.files[name]
        return len(source) if isinstance(source, bytes) else source.stat().st_size


def plan_push(
    directory: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    include: Iterable[str] = (),
    api: HfApi | None = None,
) -> PushPlan:
    """
    Check a directory and list what would be sent; nothing is written, here or there.

    Args:
        base_model: for an adapter whose base was loaded from a directory: the Hub id that others load.
        include: patterns of further files to send.
        api: asks the Hub whether an adapter's base is there, and for licence texts that are missing here.

    Raises:
        ValueError: the directory holds neither a Granulon nor an adapter of one, or `repo_id` is no owner/name.
    """
    directory, api = Path(directory), api or HfApi()
    if not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is not the name of a repository. Write owner/name.")
    checkpoint = read_checkpoint(directory)
    plan = PushPlan(directory, repo_id, checkpoint.adapter is not None)
    patterns = (*_SENT, *include)
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file():
            depth_fits = "/" not in name or any("/" in pattern for pattern in patterns)
            if depth_fits and any(matches(name, pattern) for pattern in patterns):
                plan.files[name] = path
            else:
                plan.left_out.append(name)
    _check_files(plan)
    if checkpoint.adapter is not None:
        _check_base(plan, checkpoint.adapter, base_model, api)
    if checkpoint.config is None:
        base = (checkpoint.adapter or {}).get("base_model_name_or_path")
        plan.faults.append(
            f"The base model {one_line(base)!r} cannot be read, so the terms of its parts are not known. Make it "
            "reachable, or name it: --base-model ID."
        )
    else:
        terms = licences_of_parts(checkpoint.config, checkpoint.bases, checkpoint.run.get("parts"))
        _check_terms(plan, terms[1:] if plan.is_adapter else terms, api)
    _add_card(plan, checkpoint.run, base_model)
    if re.search(r'"(/|[A-Za-z]:\\\\|~/)[^"]*"', json.dumps(checkpoint.run)):
        plan.warnings.append(f"{TRAINING_LOG} names paths of this machine; look whether you want to show them.")
    return plan


def matches(name: str, pattern: str) -> bool:
    """As a shell would: a pattern without a folder matches no file in one."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def _check_files(plan: PushPlan) -> None:
    """Weights, processor and code are all there."""
    names, directory = set(plan.files), plan.directory
    wanted = {"processor_config.json", "tokenizer.json"}
    if plan.is_adapter:
        wanted |= {"adapter_model.safetensors"}
    elif "model.safetensors.index.json" in names:
        shards = read_json(directory / "model.safetensors.index.json").get("weight_map")
        wanted |= set(map(str, shards.values())) if isinstance(shards, dict) else {"model.safetensors"}
    else:
        wanted |= {"model.safetensors"}
    for config in ("config.json", "processor_config.json", "tokenizer_config.json"):
        if config in names:
            wanted |= _code_files(directory, read_json(directory / config))
    damaged = [find_damage(directory / name) for name in sorted(names) if name.endswith(".safetensors")]
    plan.faults += [fault for fault in damaged if fault]
    if missing := sorted(wanted - names):
        plan.faults.append(
            f"Files are missing: {one_line(', '.join(missing))}. Save model and processor into the directory with "
            "`save_pretrained`, which brings the code along."
        )


def _code_files(directory: Path, config: Any) -> set[str]:
    """The modules that `auto_map` names, and those that they import beside them."""
    found: set[str] = set()
    queue: list[str] = re.findall(r'"(\w+)\.\w+"', json.dumps(_auto_maps(config)))  # not `owner/name--module.Class`
    while queue:
        name = f"{queue.pop()}.py"
        if name not in found:
            found.add(name)
            if (directory / name).exists():
                queue += _IMPORT.findall(read_text(directory / name))
    return found


def _auto_maps(config: Any) -> list[Any]:
    if not isinstance(config, dict):
        return []
    own = [config["auto_map"]] if "auto_map" in config else []
    return own + [found for value in config.values() for found in _auto_maps(value)]


def _check_base(plan: PushPlan, adapter: dict[str, Any], base_model: str | None, api: HfApi) -> None:
    """An adapter names a base that others can load."""
    base: Any = base_model or adapter.get("base_model_name_or_path")
    if not is_hub_id(base):
        plan.faults.append(
            f"The adapter's base model is {one_line(base or 'not named')!r}, which others cannot load. Push the base "
            "first, then name it: --base-model OWNER/NAME."
        )
        return
    try:
        api.model_info(base)
    except RepositoryNotFoundError:
        plan.faults.append(
            f"The adapter's base model {base!r} is not on the Hub, or not for you. Push it first, or name another: "
            "--base-model OWNER/NAME."
        )
    except (HTTPError, OSError) as error:
        status = f" {error.response.status_code}" if isinstance(error, HfHubHTTPError) else ""
        plan.faults.append(
            f"Whether the adapter's base model {base!r} is on the Hub could not be asked "
            f"({type(error).__name__}{status}). Try again when the Hub answers."
        )
    if base != adapter.get("base_model_name_or_path"):
        content = json.dumps({**adapter, "base_model_name_or_path": base}, indent=2, sort_keys=True)
        plan.files["adapter_config.json"] = content.encode()


def _check_terms(plan: PushPlan, terms: list[PartLicence], api: HfApi) -> None:
    """Name, agreements and notices, as the parts' licences ask."""
    name = plan.repo_id.split("/")[1]
    for term in terms:
        if term.name_prefix and not name.startswith(term.name_prefix):
            plan.faults.append(
                f"{term.label} comes from {term.origin}, whose licence wants the model's name to begin with "
                f'"{term.name_prefix}": not {name!r} but, for example, {term.name_prefix + "-" + name!r}.'
            )
        if term.is_noncommercial:
            plan.warnings.append(f"{term.label} comes from {term.origin}: no commercial use.")
        if not term.origin:
            plan.warnings.append(
                f"{term.label}: where its weights come from is not recorded, so nothing was checked. Its terms: "
                f"{term.terms} If it was trained from scratch, say so: `granulon card DIR --part "
                f"{term.part.lower().replace(' ', '_')}=scratch`."
            )
        if term.text and term.origin and find_agreement(plan.directory, term) is None:
            _fetch_agreement(plan, term, api)
    if any(term.licence not in ("", "apache-2.0", "mit") for term in terms) and "LICENSE.md" not in plan.files:
        plan.files["LICENSE.md"] = licence_summary(terms).encode()
    if notice := notice_text(terms):
        present = plan.directory / "NOTICE"
        text = read_text(present) if present.exists() else ""
        missing = [line for line in notice.splitlines(keepends=True) if line.strip() not in text]
        if missing:
            plan.files["NOTICE"] = (text + "".join(missing)).encode()


def _fetch_agreement(plan: PushPlan, term: PartLicence, api: HfApi) -> None:
    """The agreement's text from the part's own repository; a fault where it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("LICENSE.md", "LICENSE.txt", "LICENSE"):
            try:
                path = Path(api.hf_hub_download(term.origin, name, local_dir=folder))
            except (HTTPError, OSError, ValueError):
                continue
            if find_agreement(path.parent, term) is not None:
                suffix = path.suffix or ".txt"
                plan.files[f"LICENSE-{term.part.split()[0].lower()}{suffix}"] = path.read_bytes()
                return
    plan.faults.append(
        f"{term.label} comes from {term.origin}, whose licence wants a copy of the agreement beside the weights, and "
        f"it could not be fetched. Put it there: `hf download {term.origin} --include 'LICENSE*' --local-dir FOLDER`, "
        f"then copy it to {plan.directory}/LICENSE-{term.part.split()[0].lower()}.txt."
    )


def _add_card(plan: PushPlan, run: dict[str, Any], base_model: str | None) -> None:
    """The card that is there, once it passes the checks, or a new one; usage examples name the repository."""
    bases = {"base_models": [base_model]} if base_model else {}
    if "README.md" in plan.files:
        plan.faults += check_card(plan.directory)
        text = read_text(plan.directory / "README.md")
        if base_model and base_model not in text:
            plan.warnings.append(f"The card does not name the base model {base_model}; a new one is sent instead.")
            text = str(render_directory(plan.directory, plan.repo_id, **bases))
    else:
        text = str(render_directory(plan.directory, plan.repo_id, **bases))
    plan.files["README.md"] = text.replace("path/to/this/directory", plan.repo_id).encode()
    if entries := render_results(read_results(run.get("results"))):
        plan.files[RESULTS_FILE.as_posix()] = entries.encode()
