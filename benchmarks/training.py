"""
Training Granulon with `GranulonSFTTrainer` against transformers' LLaVA with `trl.SFTTrainer`, under the same settings.

The same encoder and language model, frozen in both; the same questions, answers and images; the same batch,
optimizer and precision. LLaVA trains its projector, Granulon its connector, with its loss terms added one after
the other, so that each term's cost is the difference of two rows:

  task         the language-model loss alone
  + pixel      with L_pixel, contrastive
  + semantic   with L_pixel and L_sema
  + controller with L_pixel, L_sema and labels for the controller: the whole loss

A run is a few optimizer steps; the first of each does not count. Runs are interleaved, in a new random order each
round.
"""

import argparse
import tempfile
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from generation import IMAGE_TOKEN, SCALES, make_backbones, make_granulon, make_llava, make_tokenizer
from measure import (
    cell,
    in_fresh_process,
    interleave,
    log,
    now,
    origin,
    paired_ratio,
    parse_run_arguments,
    peak_memory,
    print_table,
    summary,
    target,
    write_rows,
)
from PIL import Image
from trl import SFTConfig, SFTTrainer

from transformers import LlavaProcessor, TrainerCallback
from transformers.utils import logging

from granulon.training.config import GranulonSFTConfig
from granulon.training.trainer import GranulonSFTTrainer


EPILOG = """
Target: the whole loss trains at least 0.95 times as many samples a second as LLaVA, 0.85 times at scale nano.

A first look, in about a minute:
  python benchmarks/training.py --scale nano --repeats 3
"""
TARGETS = {"nano": 0.85, "small": 0.95}  # of LLaVA's samples/s, for the whole loss
# ChatML as Granulon's, for messages whose content is a list
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for item in message['content'] %}{{ '" + IMAGE_TOKEN + "' if item['type'] == 'image' else item['text'] }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = [
    "what",
    "is",
    "left",
    "of",
    "the",
    "red",
    "bicycle",
    "and",
    "how",
    "many",
    "people",
    "wait",
    "at",
    "the",
    "station",
    "in",
    "the",
    "rain",
    "today",
]


class Kind(NamedTuple):
    """What is trained: `llava`, or Granulon with so many of its loss terms."""

    name: str
    pixel: float = 0.0
    semantic: float = 0.0
    controller: float = 0.0


KINDS = (
    Kind("LLaVA"),
    Kind("task"),
    Kind("+ pixel", pixel=0.1),
    Kind("+ semantic", pixel=0.1, semantic=0.1),
    Kind("+ controller", pixel=0.1, semantic=0.1, controller=1.0),
)


class StepClock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self, device: torch.device):
        self.device, self.ends = device, []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(now(self.device))


def make_rows(options: argparse.Namespace, num_levels: int) -> Dataset:
    """Questions of twelve words, answers of six, noisy images, and labels for the controller; all from one seed."""
    generator = np.random.default_rng(0)
    edge = SCALES[options.scale][0]["image_size"]
    rows: list[dict[str, Any]] = []
    for _ in range(options.batch_size * (options.steps + 1)):
        blocks = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        question, answer = (" ".join(generator.choice(WORDS, size)) for size in (12, 6))
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
                "images": [Image.fromarray(blocks).resize((edge, edge))],
                "granularity_labels": np.eye(num_levels)[generator.integers(num_levels)].tolist(),
            }
        )
    return Dataset.from_list(rows)


def make_trainer(kind: Kind, options: argparse.Namespace, directory: str) -> tuple[Any, StepClock]:
    backbones = make_backbones(options)
    clock = StepClock(options.device)
    settings: dict[str, Any] = {
        "output_dir": directory,
        "per_device_train_batch_size": options.batch_size,
        "max_steps": options.steps + 1,
        "max_length": None,
        "activation_checkpointing": options.checkpointing,
        "bf16": options.dtype == torch.bfloat16,
        "use_cpu": options.device.type == "cpu",
        "learning_rate": 1e-4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": options.device.type == "cuda",
    }
    granulon, processor = make_granulon(*backbones, options)
    data = make_rows(options, len(granulon.config.levels))
    if kind.name != "LLaVA":
        arguments = GranulonSFTConfig(
            **settings,
            stage="connector",
            contribution="contrastive" if kind.pixel or kind.semantic else "none",
            pixel_loss_weight=kind.pixel,
            semantic_loss_weight=kind.semantic,
            controller_loss_weight=kind.controller,
        )
        if not kind.controller:
            data = data.remove_columns("granularity_labels")
        trainer = GranulonSFTTrainer(
            model=granulon, args=arguments, train_dataset=data, processing_class=processor, callbacks=[clock]
        )
        return trainer, clock
    llava = make_llava(*backbones)
    llava.requires_grad_(False)
    llava.model.multi_modal_projector.requires_grad_(True)
    llava_processor = LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=make_tokenizer(),
        chat_template=LLAVA_TEMPLATE,
        patch_size=SCALES[options.scale][0]["patch_size"],
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )
    trainer = SFTTrainer(
        model=llava,
        args=SFTConfig(**settings),
        train_dataset=data.remove_columns("granularity_labels"),
        processing_class=llava_processor,
        callbacks=[clock],
    )
    return trainer, clock


def run(kind: Kind, options: argparse.Namespace) -> float:
    """Seconds for each optimizer step after the first."""
    with tempfile.TemporaryDirectory() as directory:
        trainer, clock = make_trainer(kind, options, directory)
        trainer.train()
    return (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1)


def memory_of(kind: Kind, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of a run in a process that holds nothing but its model and trainer."""
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as directory:
        trainer, _ = make_trainer(kind, options, directory)
        return peak_memory(trainer.train, options.device)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for LLaVA, then one for each set of loss terms."""
    begin = time.monotonic()
    kinds = [kind for kind in KINDS if kind.name in ("LLaVA", *options.models)]
    seconds = interleave({kind: partial(run, kind, options) for kind in kinds}, options.repeats)
    log(f"timed in {time.monotonic() - begin:.0f} s; now peak memory")
    rows = []
    for kind in kinds:
        ratio = paired_ratio(seconds[KINDS[0]], seconds[kind])
        is_whole = kind == KINDS[-1]
        rows.append(
            {
                "benchmark": "training",
                "scale": options.scale,
                "weights": "random",
                "model": kind.name,
                "batch_size": options.batch_size,
                "activation_checkpointing": options.checkpointing,
                "samples_per_second": summary([options.batch_size / value for value in seconds[kind]]),
                "memory_mb": in_fresh_process(memory_of, kind, options),
                "speed_over_llava": target(ratio, at_least=TARGETS[options.scale] if is_whole else None),
                "steps": options.steps,
                "warmup": 1,
                "repeats": options.repeats,
                "seed": 0,
                **origin(options.device, options.dtype),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=list(SCALES), default="small", help="as in generation.py")
    names = [kind.name for kind in KINDS[1:]]
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="beside LLaVA (default: all)")
    parser.add_argument("--batch-size", type=int, default=4, help="samples of an optimizer step (default: 4)")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a run that count (default: 4)")
    parser.add_argument("--checkpointing", action="store_true", help="with activation checkpointing")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, else float32")
    options = parse_run_arguments(parser, repeats=5)
    options.dtype = getattr(torch, options.dtype or ("bfloat16" if options.device.type == "cuda" else "float32"))
    options.pixel_pool = [1, 1, 1, 1]
    logging.set_verbosity_error()
    rows = measure(options)
    write_rows(rows, options.output)
    print_table(
        [
            {
                "model": row["model"],
                "samples/s": f"{row['samples_per_second']['median']:.3g}",
                "speed / LLaVA": cell(row["speed_over_llava"]),
                "peak MB": f"{row['memory_mb']['peak']:.0f}",
                "above weights MB": f"{row['memory_mb']['above_weights']:.0f}",
            }
            for row in rows
        ]
    )


if __name__ == "__main__":
    main()
