"""
The nano model under several quantisers, against itself in bfloat16: bytes of weights, seconds, and right answers.

Each quantiser answers the same questions (easy-vqa's test split, held-out scenes). *change* is the mean difference of
right answers to those of bfloat16, question by question, in percent, with a 95 % interval resampled by picture.
Quantisers whose package is not installed are left out with a line that says so.

A first look, in about a minute:
  python benchmarks/quantisation.py --easy-vqa 100 --scenes 10 --only bfloat16 "torch dynamic int8"
"""

import argparse
import importlib
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from measure import log, origin, parse_run_arguments, print_table, write_rows

from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, TorchAoConfig
from transformers.utils import logging

import granulon  # noqa: F401  registers the Auto classes
from granulon.evaluation.answers import answer_questions
from granulon.evaluation.intervals import bootstrap_interval


NANO = Path(__file__).parents[1] / "examples" / "nano"
MODEL = NANO / "granulon-nano"


def load(**options: Any) -> Any:
    return AutoModelForImageTextToText.from_pretrained(MODEL, **options)


def load_dynamic() -> Any:
    model = load(dtype=torch.float32)
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def load_torchao(name: str) -> Any:
    quantization = importlib.import_module("torchao.quantization")
    return load(dtype=torch.bfloat16, quantization_config=TorchAoConfig(getattr(quantization, name)()))


# how each is loaded, and the package that it needs
KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "bfloat16": (lambda: load(dtype=torch.bfloat16), "torch"),
    "float32": (lambda: load(dtype=torch.float32), "torch"),
    "torch dynamic int8": (load_dynamic, "torch"),
    "bitsandbytes 8 bit": (
        lambda: load(quantization_config=BitsAndBytesConfig(load_in_8bit=True)),
        "bitsandbytes",
    ),
    "bitsandbytes 4 bit (nf4)": (
        lambda: load(
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            )
        ),
        "bitsandbytes",
    ),
    "torchao int8, weights": (lambda: load_torchao("Int8WeightOnlyConfig"), "torchao"),
    "torchao int8, weights and activations": (
        lambda: load_torchao("Int8DynamicActivationInt8WeightConfig"),
        "torchao",
    ),
}


def nano_questions() -> ModuleType:
    """The nano example's script that reads easy-vqa and draws scenes; it has the name of this folder's `measure`."""
    sys.path.append(str(NANO))
    spec = importlib.util.spec_from_file_location("nano_measure", NANO / "measure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def megabytes(model: torch.nn.Module) -> float:
    """Of the state dict as `torch.save` writes it, whatever form the weights have."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--easy-vqa", type=int, default=1000, help="questions of its test split (default: 1000)")
    parser.add_argument("--scenes", type=int, default=100, help="of each held-out split, six questions each")
    options = parse_run_arguments(parser, repeats=1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    questions = nano_questions()
    rows = questions.easy_vqa_rows(options.easy_vqa)
    rows += questions.scene_rows("compositions", options.scenes) + questions.scene_rows("pictograms", options.scenes)
    processor = AutoProcessor.from_pretrained(MODEL)
    results: list[dict[str, Any]] = []
    expected: list[float] = []
    for name in ["bfloat16", *(name for name in options.only if name != "bfloat16")]:
        loader, package = KINDS[name]
        if importlib.util.find_spec(package) is None:
            log(f"{name}: left out, {package} is not installed")
            continue
        model = loader().eval()
        start = time.process_time()
        answers, _ = answer_questions(model, processor, rows, name=name)
        seconds = time.process_time() - start
        hits = [float(answer == row["answer"]) for answer, row in zip(answers, rows, strict=True)]
        expected = expected or hits
        change = [hit - other for hit, other in zip(hits, expected, strict=True)]
        results.append(
            {
                "benchmark": "quantisation",
                "model": name,
                "megabytes": round(megabytes(model), 2),
                "cpu_ms_per_question": round(1000 * seconds / len(rows), 1),
                "questions": len(rows),
                "accuracy": bootstrap_interval(hits, [str(row["group"]) for row in rows]),
                "change": bootstrap_interval(change, [str(row["group"]) for row in rows]),
                "seed": 0,
                **origin(options.device, torch.bfloat16),
            }
        )
        log(f"{name}: done in {seconds:.0f} s of CPU time")
    write_rows(results, options.output)
    print_table(
        [
            {
                "model": row["model"],
                "MB": f"{row['megabytes']:.1f}",
                "CPU ms / question": f"{row['cpu_ms_per_question']:.0f}",
                "right, %": f"{row['accuracy']}",
                "change": f"{row['change']:+}",
            }
            for row in results
        ]
    )


if __name__ == "__main__":
    main()
