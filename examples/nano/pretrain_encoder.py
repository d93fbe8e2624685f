"""
Step 1 of the nano model: a pixel-level vision encoder (DINOv3 architecture), pretrained with a dense, per-patch
objective.

    python examples/nano/pretrain_encoder.py --output runs/nano/encoder

Every patch tells, through linear heads that are thrown away afterwards, which thing covers most of it (48 nouns,
easy-vqa's 3 shapes, or the background), its colour, whether it is upside down, whether it is large, where its
middle is, whether that middle lies in this very patch, and which place and time of day the picture shows. Of eight
batches three are fresh scenes, four are crowded ones, which teach more per picture, and one is from easy-vqa's
training split, whose answers tell shape and colour. Things in crowded scenes are distorted, and the colours of
some pictures are mixed, so that an unseen colour or drawing of a noun is still that noun. A run that stops is
resumed by the same command.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from easy_vqa_data import COLOURS as EASY_COLOURS
from easy_vqa_data import SHAPES, read_split, shape_and_colour
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss
from tqdm.auto import tqdm

from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from granulon.evaluation.scenes import COLOURS, NOUNS, PATCH, PLACES, SIZE, WITHOUT_TOP, make_scene, paint


GRID = SIZE // PATCH
CLASSES = ("background", *NOUNS, *SHAPES)
ALL_COLOURS = ("background", *dict.fromkeys((*COLOURS, *EASY_COLOURS)))
UNKNOWN = -100
BATCH_SIZE = 16
CROWDED_END = 10_000_000  # below it, in the part for training, every other batch of scenes is crowded
HEADS = {
    "class": len(CLASSES),
    "colour": len(ALL_COLOURS),
    "place": len(PLACES),
    "night": 1,
    "upside_down": 1,
    "large": 1,
    "middle": 2,
    "is_middle": 1,
}


def make_encoder() -> DINOv3ViTModel:
    """1.0M parameters, 112 px in patches of 8: a 14 x 14 grid, as that of 224 px in patches of 16."""
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_register_tokens=4,
            image_size=SIZE,
            patch_size=PATCH,
            pos_embed_rescale=None,
            initializer_range=0.08,  # about 1 / sqrt(width): 0.02 learns several times more slowly at this width
        )
    )


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """`(num_images, SIZE, SIZE, 3)` uint8 to what the encoder takes."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def scene_targets(scene, coverage: np.ndarray) -> dict[str, np.ndarray]:
    """What each of the `GRID * GRID` patches of a scene has to tell; `UNKNOWN` where there is nothing to tell."""
    best = coverage.argmax(0).reshape(-1)
    is_covered = coverage.max(0).reshape(-1) >= 0.08
    things = scene.things

    def of_things(values: list[float], elsewhere: float) -> np.ndarray:
        return np.where(is_covered, np.asarray(values, dtype=np.float32)[best], elsewhere).astype(np.float32)

    centres = np.asarray([thing.centre for thing in things], dtype=np.float32)
    is_middle = np.zeros((GRID, GRID), dtype=np.float32)
    columns, rows = np.minimum(centres // PATCH, GRID - 1).astype(int).T
    is_middle[rows, columns] = 1
    middle = np.where(is_covered[:, None], centres[best] / (SIZE / 2) - 1, UNKNOWN)
    full = np.ones(GRID * GRID, dtype=np.float32)
    return {
        "class": of_things([CLASSES.index(thing.noun) for thing in things], 0),
        "colour": of_things([ALL_COLOURS.index(thing.colour) for thing in things], 0),
        "place": full * list(PLACES).index(scene.place),
        "night": full * scene.is_night,
        "upside_down": of_things(
            [UNKNOWN if thing.noun in WITHOUT_TOP else thing.is_upside_down for thing in things], UNKNOWN
        ),
        "large": of_things([thing.is_large for thing in things], UNKNOWN),
        "middle": middle.astype(np.float32),
        "is_middle": is_middle.reshape(-1),
    }


def mix_colours(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """The channels in another order, or each a random average of the three: only a thing's shape tells its noun."""
    if rng.random() < 0.5:
        return np.ascontiguousarray(pixels[:, :, rng.sample(range(3), 3)])
    weights = np.asarray([[rng.expovariate(1) ** 2 for _ in range(3)] for _ in range(3)], dtype=np.float32)
    return (pixels @ (weights / weights.sum(1, keepdims=True)).T).round().astype(np.uint8)


class Scenes(torch.utils.data.Dataset):
    """Scenes of a split with their targets; number `i` is always the same."""

    def __init__(self, split: str, start: int, count: int, seed: int):
        self.split, self.start, self.count, self.seed = split, start, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index += self.start
        is_training = index < CROWDED_END
        is_crowded = is_training and index // BATCH_SIZE % 2 == 1
        scene = make_scene(self.split, index, self.seed, is_crowded)
        rng = random.Random(f"{self.seed}/{index}/distortion")
        picture, coverage = paint(scene, rng if is_crowded else None)
        pixels, targets = np.array(picture), scene_targets(scene, coverage)
        if is_training and (is_crowded or rng.random() < 0.5):
            pixels = mix_colours(pixels, rng)
            for name in ("colour", "place", "night"):
                targets[name] = np.full_like(targets[name], UNKNOWN)
        elif is_training:  # no noun is learnt from true colours, nor that it never has one
            targets["class"] = np.where(targets["class"] > 0, UNKNOWN, targets["class"])
        return {"pixels": torch.from_numpy(pixels), **{k: torch.from_numpy(v) for k, v in targets.items()}}


def easy_vqa_batches() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """easy-vqa's training images `(num_images, SIZE, SIZE, 3)`, enlarged, and their targets for every patch."""
    shown = shape_and_colour(read_split("train"))
    resized = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in shown]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
    differs = (pixels.int() - pixels[:, :1, :1].int()).abs().amax(-1) > 24
    is_covered = differs.float().view(-1, GRID, PATCH, GRID, PATCH).mean((2, 4)).flatten(1) > 0.08
    facts = torch.tensor(list(shown.values()))
    targets = {name: torch.full(is_covered.shape, UNKNOWN, dtype=torch.float32) for name in HEADS if name != "middle"}
    targets["middle"] = torch.full((*is_covered.shape, 2), UNKNOWN, dtype=torch.float32)
    first_colour = torch.tensor([ALL_COLOURS.index(colour) for colour in EASY_COLOURS])
    for name, known, labels in (
        ("class", facts[:, 0], facts[:, 0] + 1 + len(NOUNS)),
        ("colour", facts[:, 1], first_colour[facts[:, 1].clamp_min(0)]),
    ):
        label = torch.where(known < 0, UNKNOWN, labels)[:, None]
        targets[name] = torch.where(is_covered, label, 0).float()
    return pixels, targets


def dense_losses(outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean loss of each head over the patches that have something to tell it."""
    losses = {}
    for name, output in outputs.items():
        target = targets[name]
        known = target != UNKNOWN
        if not bool(known.any()):
            continue
        if name in ("class", "colour", "place"):
            losses[name] = cross_entropy(output.flatten(0, 1), target.flatten().long(), ignore_index=UNKNOWN)
        elif name == "middle":
            losses[name] = smooth_l1_loss(output[known], target[known], beta=0.1)
        else:
            losses[name] = binary_cross_entropy_with_logits(output.squeeze(-1)[known], target[known])
    return losses


def make_optimizers(
    blocks: nn.Module, parameters: list[nn.Parameter], learning_rate: float
) -> list[torch.optim.Optimizer]:
    """
    Muon for the matrices of the transformer blocks, where it learns about twice as fast as AdamW; AdamW for the
    rest.
    """
    matrices = [parameter for parameter in blocks.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in parameters if all(parameter is not matrix for matrix in matrices)]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def set_learning_rate(
    optimizers: list[torch.optim.Optimizer], peak: float, step: int, steps: int, warmup: int = 200
) -> None:
    """Linear warm-up, then half a cosine down to zero."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = peak * min(1, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2


def run_heads(encoder: nn.Module, heads: nn.ModuleDict, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    patches = encoder(pixel_values).last_hidden_state[:, -GRID * GRID :]
    return {name: head(patches) for name, head in heads.items()}


@torch.no_grad()
def evaluate(encoder: nn.Module, heads: nn.ModuleDict, split: str, count: int, seed: int) -> dict[str, float]:
    """Share of things whose noun, colour ... the patches that they cover tell, by the sum over a thing's patches."""
    encoder.eval()
    hits: dict[str, list[bool]] = {"class": [], "colour": [], "upside_down": [], "large": [], "place": [], "night": []}
    data = Scenes(split, CROWDED_END, count, seed)
    for start in range(0, count, 100):
        items = [data[index] for index in range(start, min(start + 100, count))]
        outputs = run_heads(encoder, heads, normalise(torch.stack([item["pixels"] for item in items])))
        for row, item in enumerate(items):
            hits["place"].append(bool(outputs["place"][row].sum(0).argmax() == item["place"][0]))
            hits["night"].append(bool((outputs["night"][row].sum() > 0) == bool(item["night"][0])))
            for middle in item["middle"][item["class"] > 0].unique(dim=0):
                patches = (item["middle"] == middle).all(-1)
                for name in ("class", "colour"):
                    guess = outputs[name][row, patches].log_softmax(-1).sum(0)[1:].argmax() + 1
                    hits[name].append(bool(guess == item[name][patches][0]))
                for name in ("upside_down", "large"):
                    if item[name][patches][0] != UNKNOWN:
                        guess = outputs[name][row, patches].sum() > 0
                        hits[name].append(bool(guess) == bool(item[name][patches][0]))
    encoder.train()
    return {name: sum(values) / len(values) for name, values in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/nano/encoder"))
    parser.add_argument("--steps", type=int, default=5000, help="of 16 images (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    encoder = make_encoder().train()
    heads = nn.ModuleDict({name: nn.Linear(encoder.config.hidden_size, size) for name, size in HEADS.items()})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizers = make_optimizers(encoder.model.layer, parameters, arguments.learning_rate)
    checkpoint, log_path = arguments.output / "checkpoint.pt", arguments.output / "log.jsonl"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
        print(f"resumed after step {first}")
    easy_pixels, easy_targets = easy_vqa_batches()
    data = Scenes("train", first * BATCH_SIZE, (arguments.steps - first) * BATCH_SIZE, arguments.seed)
    loader = iter(torch.utils.data.DataLoader(data, BATCH_SIZE, num_workers=1, prefetch_factor=4))
    progress = tqdm(range(first, arguments.steps), initial=first, total=arguments.steps, desc="encoder", mininterval=5)
    begin, sums = time.monotonic(), {}
    for step in progress:
        set_learning_rate(optimizers, arguments.learning_rate, step, arguments.steps)
        batch = next(loader)
        if step % 8 == 0:
            chosen = torch.randint(len(easy_pixels), (BATCH_SIZE,), generator=torch.Generator().manual_seed(step))
            batch = {"pixels": easy_pixels[chosen], **{name: value[chosen] for name, value in easy_targets.items()}}
        with torch.autocast("cpu", torch.bfloat16):
            outputs = run_heads(encoder, heads, normalise(batch.pop("pixels")))
        losses = dense_losses({name: output.float() for name, output in outputs.items()}, batch)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for name, loss in losses.items():
            sums.setdefault(name, []).append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == arguments.steps:
            means = {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
            row = {"step": step + 1, "seconds": round(time.monotonic() - begin), **means}
            with log_path.open("a") as log:
                log.write(json.dumps(row) + "\n")
            progress.set_postfix({"class": means.get("class"), "colour": means.get("colour")})
            sums = {}
        if (step + 1) % 200 == 0 or step + 1 == arguments.steps:
            state = {
                "encoder": encoder.state_dict(),
                "heads": heads.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    results = {split: evaluate(encoder, heads, split, 500, arguments.seed) for split in ("compositions", "pictograms")}
    with log_path.open("a") as log:
        log.write(json.dumps({"evaluation": results}) + "\n")
    print(json.dumps(results, indent=1))
    encoder.eval().save_pretrained(arguments.output / "model")


if __name__ == "__main__":
    main()
