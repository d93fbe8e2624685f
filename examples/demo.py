"""
Granulon's main job, from nothing, on real images: train a nano model, save it, reload it elsewhere, ask it questions.

    python examples/demo.py                     about five minutes of training on two CPU cores
    python examples/demo.py --seconds 60        a short form, for a first look and for continuous integration

The data is easy-vqa (PyPI): 64 px images of one coloured shape, and questions about it. The encoder (DINOv3
architecture) first learns, at every patch, which shape and colour its image shows: from scratch, the language-model
loss alone would teach it next to nothing in this time. Then `trl.SFTTrainer`, unchanged, trains the rest to answer. A
fresh process reloads the result through the pipeline and evaluates it (`evaluate_easy_vqa.py`).
"""

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path

import datasets
import torch
from evaluate_easy_vqa import read_split
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from trl import SFTConfig, SFTTrainer

from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from transformers.utils import logging

from granulon import GranulonForConditionalGeneration


COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
INITIALIZER_RANGE = 0.1  # about 1 / sqrt(width); the usual 0.02 learns several times more slowly at this width
# Sixteen pixel tokens at every level: at this image size attention over all sixty-four costs more than it brings.
LEVELS = [
    {"name": "coarse", "pool": 2, "clusters": 4, "tokens": 4, "pixel_pool": 2},
    {"name": "fine", "pool": 1, "clusters": 8, "tokens": 8, "pixel_pool": 2},
]


def shape_and_colour(rows: list[dict]) -> dict[str, tuple[int, int]]:
    """What each image shows, as far as the answers tell: indices into SHAPES and COLOURS, -100 where they do not."""
    shown: dict[str, list[int]] = {}
    for row in rows:
        found = shown.setdefault(row["image"], [-100, -100])
        words = set(row["question"].rstrip("?").split())
        is_present = (row["answer"] == "yes") != bool(words & {"not", "no"})
        for kind, names in enumerate((SHAPES, COLOURS)):
            for index, name in enumerate(names):
                if row["answer"] == name or (name in words and row["answer"] in ("yes", "no") and is_present):
                    found[kind] = index
    return {path: (shape, colour) for path, (shape, colour) in shown.items()}


def make_tokenizer(rows: list[dict]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, learnt from the training split, with ChatML's special tokens."""
    words = {word for row in rows for word in f"{row['question'].replace('?', ' ?')} {row['answer']}".split()}
    vocabulary = ["<unk>", "<|endoftext|>", "user", "assistant", "system", "\n", *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[^\w\s]|\w+"), behavior="isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<|endoftext|>")
    fast.add_special_tokens(
        {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<image>", "<semantic>"]}
    )
    return fast


class TimeLimit(TrainerCallback):
    """Stops training when the time is up, and shows how much of it is spent."""

    FORMAT = "{desc:>10s} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s{postfix}"

    def __init__(self, seconds: float, name: str):
        self.seconds, self.begin = seconds, time.monotonic()
        self.progress = tqdm(total=round(seconds), desc=name, unit="s", bar_format=self.FORMAT)

    @property
    def spent(self) -> float:
        """Fraction of the time that is gone, from 0 to 1."""
        return min(1.0, (time.monotonic() - self.begin) / self.seconds)

    def show(self, step: int, loss: float) -> None:
        if step % 20 == 0:
            self.progress.set_postfix(step=step, loss=f"{loss:.3f}", refresh=False)
            self.progress.update(round(self.spent * self.seconds) - self.progress.n)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = self.spent >= 1

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.show(state.global_step, float(logs["loss"]))

    def on_train_end(self, args, state, control, **kwargs):
        self.progress.close()


def pretrain_encoder(
    encoder: DINOv3ViTModel, pixels: torch.Tensor, labels: torch.Tensor, seconds: float, seed: int
) -> None:
    """
    Dense supervised pretraining: each patch that shows a piece of the shape tells the shape and the colour, each other
    patch that it is background. A patch is foreground where a pixel differs from the image's upper left corner.

    Args:
        pixels: `(num_images, 3, 64, 64)`, preprocessed.
        labels: `(num_images, 2)`, shape and colour, -100 where unknown.
        seconds: how long to train; the learning rate falls to zero over this time.
    """
    head = torch.nn.Linear(encoder.config.hidden_size, 1 + len(SHAPES) + 1 + len(COLOURS))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    patch = encoder.config.patch_size
    differs = (pixels - pixels[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.3
    foreground = torch.nn.functional.max_pool2d(differs.float(), patch)[:, 0].bool()
    limit = TimeLimit(seconds, "encoder")
    encoder.train()
    step = 0
    while limit.spent < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, step / 50) * (1 - limit.spent)
        batch = torch.randint(len(pixels), (32,), generator=generator)
        images, is_shown = pixels[batch], foreground[batch]
        if step % 2:
            images, is_shown = images.flip(-1), is_shown.flip(-1)
        patches = encoder(images).last_hidden_state[:, 1 + encoder.config.num_register_tokens :]
        known = labels[batch, None].expand(-1, patches.shape[1], -1)
        known = torch.where(known < 0, -100, known + 1)  # 0 is the background
        target = torch.where(is_shown.flatten(1).unsqueeze(-1), known, 0).flatten(0, 1)
        shape, colour = head(patches).flatten(0, 1).split([1 + len(SHAPES), 1 + len(COLOURS)], dim=-1)
        loss = cross_entropy(shape, target[:, 0]) + cross_entropy(colour, target[:, 1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        limit.show(step, loss.item())
    limit.progress.close()
    encoder.eval().requires_grad_(False)


def train(model, processor, rows: list[dict], seconds: float, seed: int, output: Path) -> None:
    """Train every part but the encoder with TRL's own trainer, on prompt and completion pairs."""
    data = datasets.Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
                "images": [row["image"]],
            }
            for row in rows
        ]
    ).cast_column("images", datasets.Sequence(datasets.Image()))
    limit = TimeLimit(seconds, "granulon")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (1 + math.cos(math.pi * limit.spent)) / 2
    )
    arguments = SFTConfig(
        output_dir=str(output / "trainer"),
        per_device_train_batch_size=32,
        max_steps=1_000_000,  # the clock decides
        max_length=None,  # never cut a prompt inside an image
        activation_checkpointing=False,
        bf16=False,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=seed,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=processor,
        callbacks=[limit],
        optimizers=(optimizer, schedule),
    )
    trainer.remove_callback(PrinterCallback)  # the progress bar shows the loss
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=295, help="of training in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="directory of the model and the logs")
    arguments = parser.parse_args()
    set_seed(arguments.seed)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()

    encoder_seconds, answer_seconds = arguments.seconds / 4, arguments.seconds * 3 / 4
    rows = read_split("train")
    shown = shape_and_colour(rows)
    print(f"easy-vqa: {len(rows):,} training questions about {len(shown):,} images of 64 x 64 pixels")
    encoder = DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            pos_embed_rescale=None,
        )
    )
    tokenizer = make_tokenizer(rows)
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=INITIALIZER_RANGE,
        )
    )
    model, processor = GranulonForConditionalGeneration.from_backbones(
        encoder,
        language_model,
        tokenizer=tokenizer,
        levels=LEVELS,
        controller_hidden_size=64,
        contribution_hidden_size=32,
        initializer_range=INITIALIZER_RANGE,
    )
    counts = ", ".join(
        f"{name} {sum(p.numel() for p in child.parameters()):,}" for name, child in model.model.named_children()
    )
    print(f"parameters: {counts}")

    print(f"1. Dense pretraining of the encoder, {encoder_seconds:.0f} s")
    pixels = processor.image_processor([Image.open(path) for path in shown], return_tensors="pt")["pixel_values"]
    pretrain_encoder(encoder, pixels, torch.tensor(list(shown.values())), encoder_seconds, arguments.seed)

    print(f"2. Training the rest to answer with trl.SFTTrainer, {answer_seconds:.0f} s")
    train(model, processor, rows, answer_seconds, arguments.seed, arguments.output)

    directory = arguments.output / "model"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    print(f"3. Saved as a Hub directory: {directory}. A fresh process loads it through the pipeline:", flush=True)
    script = Path(__file__).with_name("evaluate_easy_vqa.py")
    subprocess.run([sys.executable, str(script), "--model", str(directory)], check=True)


if __name__ == "__main__":
    main()
