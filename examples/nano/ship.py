"""
Step 5 of the nano model: the trained weights in bfloat16, evaluated as they are shipped, with their logs and a card.

    python examples/nano/ship.py --runs runs/nano --output examples/nano/granulon-nano
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from measure import measure_all

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import granulon  # noqa: F401  registers the Auto classes
from granulon.evaluation.answers import as_table
from granulon.hub_cards import write_card


CREDIT = """
The pictures of the scenes are made of OpenMoji pictograms (https://openmoji.org), CC BY-SA 4.0. easy-vqa is
MIT-licensed (Victor Zhou). All was trained from nothing by the scripts in `examples/nano` of the project; the logs of
the run lie in `training_logs/`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/nano"), help="where steps 1 to 4 left their output")
    parser.add_argument("--output", type=Path, default=Path("examples/nano/granulon-nano"))
    parser.add_argument("--scenes", type=int, default=500, help="of each held-out split (default: %(default)s)")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    trained = arguments.runs / "connector" / "final"
    shutil.rmtree(arguments.output, ignore_errors=True)
    model = AutoModelForImageTextToText.from_pretrained(
        trained, dtype=torch.bfloat16
    )  # its controller stays in float32
    processor = AutoProcessor.from_pretrained(trained)
    model.save_pretrained(arguments.output)
    processor.save_pretrained(arguments.output)
    logs = arguments.output / "training_logs"
    logs.mkdir()
    for step in ("encoder", "backbones"):
        shutil.copyfile(arguments.runs / step / "log.jsonl", logs / f"{step}.jsonl")

    model = AutoModelForImageTextToText.from_pretrained(arguments.output, dtype=torch.float32)
    results = measure_all(model, processor, arguments.scenes)
    (logs / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    run = json.loads((trained / "granulon_training.json").read_text())
    run["results"] = {
        name: {
            cut: {key: row[key] for key in ("questions", "accuracy", "question_only")}
            for cut, row in summary.items()
            if not cut.startswith("kind")
        }
        for name, summary in results.items()
    }
    (arguments.output / "granulon_training.json").write_text(json.dumps(run, indent=1) + "\n")
    tables = "\n\n".join(f"**{name}**\n\n{as_table(summary)}" for name, summary in results.items())
    write_card(
        arguments.output,
        title="Granulon nano",
        parts={"vision_encoder": "scratch", "language_model": "scratch"},
        licence="apache-2.0",
        results=f"Accuracy in percent, with 95 % intervals resampled by picture.\n\n{tables}\n\n{CREDIT}",
    )
    size = sum(path.stat().st_size for path in arguments.output.rglob("*") if path.is_file())
    print(f"\n{arguments.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
