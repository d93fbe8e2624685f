"""
The truth about visual tokens in a prompt, for tests: an independent splice.

The embeddings of exactly the visual tokens that a level uses, in place of the slots, go through the bare language
model, which has never heard of slots, masks or levels.
"""

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from PIL import Image

from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from granulon import GranulonForConditionalGeneration, GranulonProcessor


POOLED_LEVELS = [
    {"name": "coarse", "pool": 3, "clusters": 5, "tokens": 5, "pixel_pool": 2},
    {"name": "medium", "pool": 2, "clusters": 10, "tokens": 7, "pixel_pool": 3},  # 3 does not divide 8
    {"name": "fine", "pool": 1, "clusters": 20, "tokens": 20, "pixel_pool": 1},
    {"name": "finest", "pool": 1, "clusters": 50, "tokens": 40, "pixel_pool": 1},
]
CAUSAL_CLASSES = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM, "llama": LlamaForCausalLM}
STEPS = 8


@dataclass(frozen=True)
class Sample:
    """A prompt with `image_token` where an image belongs, its images, and the level that its question leads to."""

    text: str
    images: tuple[Image.Image, ...]
    level: int


@dataclass
class Case:
    """A tiny model whose controller takes every level, and its bare language model."""

    model: GranulonForConditionalGeneration
    processor: GranulonProcessor
    bare: PreTrainedModel
    questions: list[list[str]]  # of each level

    def render(self, *turns: tuple[str, str], prompt: bool = True) -> str:
        """The chat as text; `@` stands for an image."""
        messages = [{"role": role, "content": text.replace("@", "\0")} for role, text in turns]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=prompt)
        return text.replace("\0", self.processor.image_token)

    def sample(self, text: str, level: int) -> Sample:
        images = tuple(tiny.make_image(i + len(text)) for i in range(text.count(self.processor.image_token)))
        return Sample(text, images, level if images else -1)

    def samples(self) -> list[Sample]:
        """No, one and two images; adjacent, in several turns, at the very end of the prompt; every level."""
        coarse, medium, fine, finest = (questions[0] for questions in self.questions)
        ending = self.render(("user", f"{self.questions[1][1]}@"), prompt=False)
        ending = ending[: ending.rindex(self.processor.image_token) + len(self.processor.image_token)]
        later = [("assistant", "A wood."), ("user", "And behind it?")]
        return [
            self.sample(self.render(("user", f"@{coarse}")), 0),
            self.sample(self.render(("user", "Hello there, who are you?")), -1),
            self.sample(self.render(("user", f"@@{finest}")), 3),
            self.sample(self.render(("system", "Be brief."), ("user", f"{medium}@"), *later), 1),
            self.sample(self.render(("user", f"@{fine}"), ("assistant", "A wood."), ("user", "@ And this@?")), 2),
            self.sample(ending, 1),
        ]

    def encode(self, samples: list[Sample], **kwargs: Any) -> dict[str, torch.Tensor]:
        images = [list(sample.images) for sample in samples] if any(sample.images for sample in samples) else None
        texts = [sample.text for sample in samples]
        return dict(self.processor(images=images, text=texts, padding=True, return_tensors="pt", **kwargs))

    def is_visual(self, input_ids: torch.Tensor) -> torch.Tensor:
        return (input_ids == self.model.config.image_token_id) | (input_ids == self.model.config.semantic_token_id)


@functools.cache
def load(text: str = "qwen2", pooled: bool = False, max_clusters: int = 50) -> Case:
    """With the default levels, or with `POOLED_LEVELS`. Tests leave it as it is."""
    levels = [
        {**level, "clusters": min(level["clusters"], max_clusters), "tokens": min(level["tokens"], max_clusters)}
        for level in POOLED_LEVELS
    ]
    model, processor = tiny.make_granulon(text, levels=levels if pooled else None)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        # a head of its own: a tied one with random weights only repeats the last token
        model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=generator))
        for layer in model.model.language_model.layers:  # what is seen matters for what is said
            layer.self_attn.o_proj.weight.mul_(4)
    model.requires_grad_(False)
    causal = CAUSAL_CLASSES[text](copy.deepcopy(model.config.text_config)).eval()
    causal.model, causal.lm_head = model.model.language_model, model.lm_head
    causal.generation_config = copy.deepcopy(model.generation_config)
    case = Case(model, processor, causal, [])

    candidates = [f"Question {number}: what is it?" for number in range(60)]
    inputs = case.encode([case.sample(case.render(("user", f"@{question}")), 0) for question in candidates])
    logits = model(**inputs).granularity_logits
    last = model.model.granularity_controller.head[-1]
    last.bias.sub_(logits.mean(0)).div_(logits.std(0))
    last.weight.div_(logits.std(0)[:, None])
    best = model(**inputs).granularity_logits.topk(2)
    for level in range(logits.shape[1]):
        is_clear = (best.indices[:, 0] == level) & (best.values[:, 0] - best.values[:, 1] > 0.05)
        case.questions.append([candidates[i] for i in is_clear.nonzero().flatten().tolist()])
    assert all(len(questions) > 1 for questions in case.questions)
    return case


# ---------------------------------------------------------------------- the truth


def splice(
    case: Case, input_ids: torch.Tensor, pixel_values: torch.Tensor | None, level: int
) -> tuple[torch.Tensor, list[bool]]:
    """
    Embeddings `(1, num_tokens, hidden_size)` of one unpadded row in which an image is its level's tokens and nothing
    else, and which of these positions are text.
    """
    model, config = case.model.model, case.model.config
    embed, parts, is_text, image, position = model.get_input_embeddings(), [], [], 0, 0
    ids = input_ids.tolist()
    while position < len(ids):
        if ids[position] != config.image_token_id:
            parts.append(embed(torch.tensor([ids[position]])))
            is_text.append(True)
            position += 1
            continue
        features = model.get_image_features(pixel_values[image : image + 1], torch.tensor([level]))
        rows, columns = (side // patch for side, patch in zip(pixel_values.shape[-2:], config.patch_size, strict=True))
        pool = config.levels[level]["pixel_pool"]
        num_pixel, num_semantic = math.ceil(rows / pool) * math.ceil(columns / pool), config.levels[level]["tokens"]
        parts.append(features.hidden_states[0, :num_pixel])
        parts.append(features.hidden_states[0, rows * columns :][:num_semantic])
        is_text += [False] * (num_pixel + num_semantic)
        image += 1
        for kind in (config.image_token_id, config.semantic_token_id):
            while position < len(ids) and ids[position] == kind:
                position += 1
    return torch.cat(parts)[None], is_text


def splice_sample(case: Case, sample: Sample, level: int | None = None) -> tuple[torch.Tensor, list[bool]]:
    inputs = case.encode([sample])
    return splice(case, inputs["input_ids"][0], inputs.get("pixel_values"), sample.level if level is None else level)


@torch.no_grad()
def true_logits(case: Case, sample: Sample, level: int | None = None) -> torch.Tensor:
    """Logits at the text positions of a sample."""
    embeds, is_text = splice_sample(case, sample, level)
    return case.bare(inputs_embeds=embeds).logits[0, is_text]


def true_tokens(case: Case, embeds: torch.Tensor, margin: float = 1e-3, **options: Any) -> list[list[int]]:
    """What the bare language model generates after a splice; a greedy choice must not be a near tie."""
    options = {"max_new_tokens": STEPS, "do_sample": False, **options}
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    output = case.bare.generate(
        inputs_embeds=embeds, attention_mask=mask, return_dict_in_generate=True, output_scores=True, **options
    )
    if not options["do_sample"] and options.get("num_beams", 1) == 1:
        for scores in output.scores:
            first, second = scores[0].topk(2).values
            assert float(first - second) > margin
    return output.sequences.tolist()


@functools.cache
def true_batch(text: str = "qwen2", pooled: bool = False, **options: Any) -> list[list[int]]:
    """What the bare language model generates for each of the samples, padded as a batch is."""
    case = load(text, pooled)
    rows = [row for sample in case.samples() for row in true_tokens(case, splice_sample(case, sample)[0], **options)]
    return pad(case, rows)


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: Any = None, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < tolerance, f"{name}: relative difference {error:.1e}"


def new_tokens(inputs: dict[str, torch.Tensor], sequences: torch.Tensor) -> list[list[int]]:
    """What was generated, after checking that the caller's own prompts come first."""
    length, repeats = inputs["input_ids"].shape[1], len(sequences) // len(inputs["input_ids"])
    assert torch.equal(sequences[:, :length], inputs["input_ids"].repeat_interleave(repeats, dim=0))
    return sequences[:, length:].tolist()


def pad(case: Case, rows: list[list[int]]) -> list[list[int]]:
    """Rows of unequal length, as a batch returns them."""
    length = max(map(len, rows))
    return [row + [case.processor.tokenizer.pad_token_id] * (length - len(row)) for row in rows]


def generate(case: Case, inputs: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": STEPS, "do_sample": False, **options}
    return new_tokens(inputs, case.model.generate(**inputs, **options))


def text_logits(case: Case, inputs: dict[str, torch.Tensor], logits: torch.Tensor, row: int) -> torch.Tensor:
    is_text = inputs["attention_mask"][row].bool() & ~case.is_visual(inputs["input_ids"][row])
    return logits[row, is_text]


CASES = [("qwen2", False), ("qwen2", True), ("llama", False), ("llama", True)]
every_case = pytest.mark.parametrize(("text", "pooled"), CASES)
both_budgets = pytest.mark.parametrize("pooled", [False, True])


# ---------------------------------------------------------------------- looking on


CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "none": {"use_cache": False},
    "static": {"cache_implementation": "static"},
}


class CountTower:
    """Counts forwards of the vision tower."""

    def __init__(self, case: Case) -> None:
        self.case, self.count = case, 0

    def __enter__(self) -> "CountTower":
        self.hook = self.case.model.model.vision_tower.register_forward_hook(self._add)
        return self

    def _add(self, *args: Any) -> None:
        self.count += 1

    def __exit__(self, *args: Any) -> None:
        self.hook.remove()


def trainable(text: str = "qwen2", pooled: bool = True) -> Case:
    """A copy with everything but the vision tower trainable, in train mode."""
    case = copy.deepcopy(load(text, pooled))
    case.model.requires_grad_(True)
    case.model.model.vision_tower.requires_grad_(False)
    case.model.train()
    return case


def labels_of(case: Case, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Every text token is to be predicted."""
    ignored = case.is_visual(inputs["input_ids"]) | (inputs["attention_mask"] == 0)
    return inputs["input_ids"].masked_fill(ignored, -100)
