"""A controller's directory: weights, settings, log and card; or its weights in a copy of a Granulon."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from granulon.backbones import CONTROLLER_SETTINGS, CONTROLLER_WEIGHTS
from granulon.evaluation.granularity import draw_agreement
from granulon.modeling_granulon.granularity_granulon import GranularityController


_SAVED_PREFIX = "model.granularity_controller."


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


def write_into_copy(source: str, directory: Path, controller: GranularityController) -> None:
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


def run_line(run: dict[str, Any]) -> str:
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
        lines += ["All seeds, trained without dev:", ""] + [f"- {run_line(run)}" for run in settings["runs"]] + [""]
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
