"""What the trainer's tests share: rows, arguments, and a trainer of a tiny model."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tiny import make_granulon, make_image

from granulon import GranulonSFTConfig, GranulonSFTTrainer


QUESTIONS = [
    "What colour is it?",
    "How many dogs are there?",
    "Is it a cat?",
    "Read the sign.",
    "Where is the ball?",
    "Who holds the cup?",
    "What is on the left?",
    "Name the shape.",
]
LABELS = [[0.7, 0.1, 0.1, 0.1], None, [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0], None]


def make_rows(count: int = 16, is_split: bool = True, with_labels: bool = True, **columns: Any) -> Dataset:
    """Prompt/completion rows, or messages; answers differ in length, so that micro-batches differ in tokens."""
    rows: list[dict[str, Any]] = []
    for index in range(count):
        asked = {"role": "user", "content": QUESTIONS[index % len(QUESTIONS)]}
        said = {"role": "assistant", "content": "answer " + "x" * (3 * index % 7) + str(index)}
        row = {"prompt": [asked], "completion": [said]} if is_split else {"messages": [asked, said]}
        row |= {"images": [make_image(index)], "id": f"row-{index}"}
        if with_labels:
            row["granularity_labels"] = LABELS[index % len(LABELS)]
        rows.append(row | {name: values[index] for name, values in columns.items()})
    return Dataset.from_list(rows)


def make_arguments(output_dir: Path, **options: Any) -> GranulonSFTConfig:
    defaults = {
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return GranulonSFTConfig(str(output_dir), **{**defaults, **options})


def make_tame_granulon(**config: Any):
    """A tiny model whose controller has modest logits, so that no single loss term drowns the others."""
    model, processor = make_granulon(**config)
    torch.manual_seed(4)
    for layer in model.model.granularity_controller.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return model, processor


def make_trainer(output_dir: Path, rows: Dataset | None = None, trainer: dict[str, Any] | None = None, **options: Any):
    model, processor = make_tame_granulon()
    return GranulonSFTTrainer(
        model=model,
        args=make_arguments(output_dir, **options),
        train_dataset=make_rows() if rows is None else rows,
        processing_class=processor,
        **(trainer or {}),
    )


def parameters_of(trainer: GranulonSFTTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def logged(trainer: GranulonSFTTrainer, *names: str) -> list[list[float]]:
    """The logged values of each training step, in the order of `names`; NaN where a step had none."""
    return [
        [entry.get(name, float("nan")) for name in names] for entry in trainer.state.log_history if "loss" in entry
    ]
