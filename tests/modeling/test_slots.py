"""
Visual tokens in the slots of a prompt: exact under padding, caches, beams, several images and mixed levels.

The truth is an independent splice: the embeddings of exactly the visual tokens that a level uses, in place of the
slots, go through the bare language model, which has never heard of slots, masks or levels.
"""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from PIL import Image

from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

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


# ---------------------------------------------------------------------- one forward


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("text", "pooled"), [*CASES, ("qwen3", True)])
@torch.no_grad()
def test_logits_equal_the_splice(text: str, pooled: bool, side: str):
    case = load(text, pooled)
    samples = case.samples()
    inputs = case.encode(samples, padding_side=side)
    output = case.model(**inputs)
    assert output.granularity.tolist() == [sample.level for sample in samples]
    assert set(output.granularity.tolist()) == {-1, 0, 1, 2, 3}
    for row, sample in enumerate(samples):
        assert_close(text_logits(case, inputs, output.logits, row), true_logits(case, sample), row)


@every_case
@torch.no_grad()
def test_the_level_matters(text: str, pooled: bool):
    """The negative control: the splice of another level is told apart."""
    case = load(text, pooled)
    for sample in case.samples():
        if sample.images and not sample.text.endswith(case.processor.image_token):
            right = true_logits(case, sample)[-1]
            wrong = true_logits(case, sample, (sample.level + 1) % 4)[-1]
            assert float((right - wrong).abs().max() / right.abs().max()) > 1e-3


@every_case
@torch.no_grad()
def test_given_levels_overrule_the_controller_in_open_slots(text: str, pooled: bool):
    case = load(text, pooled)
    samples, inputs = case.samples(), case.encode(case.samples())
    levels = torch.tensor([3, -1, 0, 2, -1, 0])
    output = case.model(**inputs, granularity=levels)
    assert output.granularity.tolist() == [3, -1, 0, 2, samples[4].level, 0]
    for row, sample in enumerate(samples):
        level = int(output.granularity[row])
        assert_close(text_logits(case, inputs, output.logits, row), true_logits(case, sample, level), row)


@every_case
@torch.no_grad()
def test_prompts_of_exactly_one_levels_length_equal_open_ones(text: str, pooled: bool):
    case = load(text, pooled)
    samples = case.samples()
    levels = [max(sample.level, 0) for sample in samples]
    inputs = case.encode(samples, granularity=levels)
    assert inputs["granularity"].tolist() == levels
    assert inputs["input_ids"].shape[1] <= case.encode(samples)["input_ids"].shape[1]
    output = case.model(**inputs)
    assert output.granularity.tolist() == [sample.level for sample in samples]
    for row, sample in enumerate(samples):
        assert_close(text_logits(case, inputs, output.logits, row), true_logits(case, sample), row)


@torch.no_grad()
def test_open_and_fixed_rows_share_a_batch():
    case = load("qwen2", True)
    samples = [sample for sample in case.samples() if sample.images]
    inputs = case.encode(samples, granularity=["finest", None, "coarse", "auto", 3])
    assert inputs["granularity"].tolist() == [3, -1, 0, -1, 3]
    output = case.model(**inputs)
    expected = [3, samples[1].level, 0, samples[3].level, 3]
    assert output.granularity.tolist() == expected
    for row, (sample, level) in enumerate(zip(samples, expected, strict=True)):
        assert_close(text_logits(case, inputs, output.logits, row), true_logits(case, sample, level), row)


@torch.no_grad()
def test_eager_attention_sees_no_more_than_sdpa():
    case = copy.deepcopy(load("qwen2", True))
    samples, inputs = case.samples(), case.encode(case.samples())
    expected = [true_logits(case, sample) for sample in samples]
    case.model.set_attn_implementation("eager")
    output = case.model(**inputs)
    for row in range(len(samples)):
        assert_close(text_logits(case, inputs, output.logits, row), expected[row], row)


@torch.no_grad()
def test_a_missing_mask_means_no_padding():
    case = load()
    inputs = case.encode(case.samples()[2:3])
    expected = case.model(**inputs).logits
    inputs.pop("attention_mask")
    assert torch.equal(case.model(**inputs).logits, expected)
    assert case.model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


@torch.no_grad()
def test_a_batch_without_images_is_the_language_models():
    case = load()
    samples = [case.sample(case.render(("user", text)), -1) for text in ("Hello?", "Who goes there, friend or foe?")]
    inputs = case.encode(samples)
    output = case.model(**inputs)
    for row, sample in enumerate(samples):
        assert_close(text_logits(case, inputs, output.logits, row), true_logits(case, sample), row)
    assert output.granularity.tolist() == [-1, -1]
    assert output.granularity_logits.tolist() == [[0.0] * 4] * 2


@torch.no_grad()
def test_kept_logits_are_the_last_ones():
    case = load()
    inputs = case.encode(case.samples())
    expected = case.model(**inputs).logits
    torch.testing.assert_close(case.model(**inputs, logits_to_keep=3).logits, expected[:, -3:])
    index = torch.tensor([5, 2])
    torch.testing.assert_close(case.model(**inputs, logits_to_keep=index).logits, expected[:, index])


@pytest.mark.parametrize("size", [(80, 80), (64, 96)])
@torch.no_grad()
def test_another_image_size_recounts_the_slots(size: tuple[int, int]):
    case = load("qwen2", True)
    samples = case.samples()
    inputs = case.encode(samples, size={"height": size[0], "width": size[1]})
    assert inputs["pixel_values"].shape[-2:] == size
    output = case.model(**inputs)
    assert output.granularity.tolist() == [sample.level for sample in samples]
    generated = generate(case, inputs)
    image = 0
    for row, sample in enumerate(samples):
        pixel_values = inputs["pixel_values"][image : image + len(sample.images)]
        image += len(sample.images)
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        embeds, is_text = splice(case, ids, pixel_values, sample.level)
        expected = case.bare(inputs_embeds=embeds).logits[0, is_text]
        assert_close(text_logits(case, inputs, output.logits, row), expected, row)
        assert generated[row] == true_tokens(case, embeds)[0]


@pytest.mark.parametrize("vision", ["dinov3", "clip", "siglip"])
@pytest.mark.parametrize("level", [0, 1, 3])
@torch.no_grad()
def test_visual_tokens_follow_eq_4(vision: str, level: int):
    """[pixel tokens ; semantic tokens] of the normalised patches and the last layer's attention, projected by hand."""
    model, processor = tiny.make_granulon(vision=vision, levels=[dict(one) for one in POOLED_LEVELS])
    pixel_values = torch.cat(
        [processor.image_processor(tiny.make_image(i), return_tensors="pt")["pixel_values"] for i in (0, 1)]
    )
    found = model.model.get_image_features(pixel_values, torch.tensor([level] * 2))

    tower = copy.deepcopy(model.model.vision_tower)
    tower.set_attn_implementation("eager")
    output = tower(pixel_values, output_attentions=True)
    hidden_states, attention = output.last_hidden_state, output.attentions[-1]
    if vision == "clip":
        hidden_states = tower.post_layernorm(hidden_states)
    prefix = hidden_states.shape[1] - 64
    assert prefix == {"dinov3": 3, "clip": 1, "siglip": 0}[vision]
    patches, attention = hidden_states[:, prefix:], attention.mean(1)[:, prefix:, prefix:]
    attention = attention / attention.sum(-1, keepdim=True)
    encoded = model.model.encode_images(pixel_values)
    assert encoded[2] == (8, 8)
    torch.testing.assert_close(encoded[0], patches, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoded[1], attention, atol=1e-5, rtol=1e-4)
    semantic = model.model.token_aggregator(patches, attention, torch.tensor([level] * 2), (8, 8)).tokens

    pool = POOLED_LEVELS[level]["pixel_pool"]
    grid = patches.unflatten(1, (8, 8))
    blocks = [grid[:, r : r + pool, c : c + pool] for r in range(0, 8, pool) for c in range(0, 8, pool)]
    pixel = torch.stack([block.flatten(1, 2).mean(1) for block in blocks], dim=1)
    projector = model.model.multi_modal_projector
    for tokens, part in (
        (pixel, found.hidden_states[:, : pixel.shape[1]]),
        (semantic, found.hidden_states[:, 64 : 64 + semantic.shape[1]]),
    ):
        hidden = torch.nn.functional.gelu(projector.linear_1(tokens)) * projector.gate[level]
        torch.testing.assert_close(part, projector.linear_2(hidden), atol=1e-4, rtol=1e-4)


def test_the_tower_keeps_no_attention_after_a_forward():
    case = load()
    case.model(**case.encode(case.samples()))
    held = [value for module in case.model.modules() for value in vars(module).values()]
    assert not any(isinstance(value, torch.Tensor) for value in held)


# ---------------------------------------------------------------------- generation

CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "none": {"use_cache": False},
    "static": {"cache_implementation": "static"},
}


@pytest.mark.parametrize("cache", CACHES)
@every_case
def test_greedy_generation_equals_the_splice(text: str, pooled: bool, cache: str):
    case, expected = load(text, pooled), true_batch(text, pooled)
    assert len({tuple(row) for row in expected}) == len(expected)
    assert generate(case, case.encode(case.samples()), **CACHES[cache]) == expected


@pytest.mark.parametrize("cache", CACHES)
def test_qwen3_generates_what_its_splice_does(cache: str):
    case = load("qwen3", True)
    assert generate(case, case.encode(case.samples()), **CACHES[cache]) == true_batch("qwen3", True)


@pytest.mark.parametrize("cache", CACHES)
def test_eager_generation_equals_the_splice(cache: str):
    case = copy.deepcopy(load("llama", True))
    case.model.set_attn_implementation("eager")
    assert generate(case, case.encode(case.samples()), **CACHES[cache]) == true_batch("llama", True)


@every_case
def test_fixed_prompts_generate_the_same(text: str, pooled: bool):
    case = load(text, pooled)
    inputs = case.encode(case.samples(), granularity=[max(sample.level, 0) for sample in case.samples()])
    assert generate(case, inputs) == true_batch(text, pooled)


@pytest.mark.parametrize(
    "granularity", ["coarse", 3, ["fine", 0, "auto", -1, None, "finest"], torch.tensor([1, 1, 0, 3, -1, 2])]
)
def test_generate_takes_levels_by_name_and_index(granularity: Any):
    case = load("qwen2", True)
    samples, inputs = case.samples(), case.encode(case.samples())
    wanted = granularity.tolist() if isinstance(granularity, torch.Tensor) else granularity
    wanted = wanted if isinstance(wanted, list) else [wanted] * len(samples)
    names = {name: index for index, name in enumerate(case.model.config.level_names)} | {"auto": -1, None: -1}
    levels = [names.get(level, level) for level in wanted]
    levels = [
        sample.level if level == -1 or not sample.images else level
        for sample, level in zip(samples, levels, strict=True)
    ]
    expected = [
        true_tokens(case, splice_sample(case, sample, level)[0])[0]
        for sample, level in zip(samples, levels, strict=True)
    ]
    assert generate(case, inputs, granularity=granularity) == pad(case, expected)


@pytest.mark.parametrize("beams", [{"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}])
@pytest.mark.parametrize("cache", CACHES)
@both_budgets
def test_beams_equal_the_splice(pooled: bool, cache: str, beams: dict[str, int]):
    case = load("qwen2", pooled)
    found = generate(case, case.encode(case.samples()), **beams, **CACHES[cache])
    assert found == true_batch("qwen2", pooled, **beams)


@both_budgets
def test_beams_of_llama_equal_the_splice(pooled: bool):
    case, beams = load("llama", pooled), {"num_beams": 3, "num_return_sequences": 2}
    assert generate(case, case.encode(case.samples()), **beams) == true_batch("llama", pooled, **beams)


@every_case
def test_sampling_with_a_seed_equals_the_splice(text: str, pooled: bool):
    case = load(text, pooled)
    options = {"do_sample": True, "temperature": 3.0, "top_k": 50, "num_return_sequences": 2}
    for sample in case.samples():
        torch.manual_seed(7)
        expected = true_tokens(case, splice_sample(case, sample)[0], **options)
        torch.manual_seed(7)
        assert generate(case, case.encode([sample]), **options) == pad(case, expected)


@both_budgets
def test_sampling_a_batch_equals_the_same_batch_at_fixed_levels(pooled: bool):
    case = load("llama", pooled)
    samples = case.samples()
    fixed = case.encode(samples, granularity=[max(sample.level, 0) for sample in samples])
    outputs = []
    for inputs in (case.encode(samples), fixed):
        torch.manual_seed(7)
        outputs.append(generate(case, inputs, do_sample=True, temperature=2.0, num_return_sequences=2))
    assert outputs[0] == outputs[1]


@both_budgets
def test_prompt_lookup_changes_nothing(pooled: bool):
    case = load("qwen2", pooled)
    for sample in case.samples():
        expected = true_tokens(case, splice_sample(case, sample)[0])
        assert generate(case, case.encode([sample]), prompt_lookup_num_tokens=2) == expected


def test_prompt_lookup_does_not_propose_slots():
    """What is generated also stands right before the image, so that a candidate would begin with slots."""
    case = load("qwen2")
    plain = case.sample(case.render(("user", f"@{case.questions[0][0]}")), 0)
    said = case.processor.tokenizer.decode(true_tokens(case, splice_sample(case, plain)[0])[0][:1])
    sample = case.sample(case.render(("user", f"{case.questions[0][0]}{said}@")), 0)
    level = int(case.model.get_granularity(case.encode([sample])["input_ids"]).argmax())
    expected = true_tokens(case, splice_sample(case, sample, level)[0])
    assert generate(case, case.encode([sample]), prompt_lookup_num_tokens=4) == expected


class Watcher(LogitsProcessor):
    """Keeps the sequences that it is shown, and changes nothing."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(input_ids)
        return scores


class Never(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(len(input_ids), dtype=torch.bool)


WATCHED: dict[str, Callable[[], dict[str, Any]]] = {
    "logits_processor": lambda: {"logits_processor": LogitsProcessorList([Watcher()])},
    "stopping_criteria": lambda: {"stopping_criteria": StoppingCriteriaList([Never()])},
    "prefix_allowed_tokens_fn": lambda: {"prefix_allowed_tokens_fn": lambda row, ids: list(range(300))},
    "past_key_values": lambda: {"past_key_values": DynamicCache()},
}


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", WATCHED)
@both_budgets
def test_masked_slots_generate_what_dropped_ones_do(pooled: bool, name: str, beams: int):
    case = load("qwen2", pooled)
    found = generate(case, case.encode(case.samples()), num_beams=beams, **WATCHED[name]())
    assert found == true_batch("qwen2", pooled, num_beams=beams)


def test_a_logits_processor_sees_the_callers_prompt():
    case = load("qwen2", True)
    inputs, watcher = case.encode(case.samples()), Watcher()
    generate(case, inputs, logits_processor=LogitsProcessorList([watcher]))
    assert len(watcher.seen) == STEPS
    for step, sequences in enumerate(watcher.seen):
        length = inputs["input_ids"].shape[1]
        assert torch.equal(sequences[:, :length], inputs["input_ids"])
        assert sequences.shape[1] == length + step


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("beams", [{"num_beams": 1}, {"num_beams": 2, "num_return_sequences": 2}])
def test_a_returned_dict_carries_the_decision(beams: dict[str, int], cache: str):
    case = load("qwen2", True)
    samples, inputs = case.samples(), case.encode(case.samples())
    options = {"max_new_tokens": STEPS, "do_sample": False, **beams, **CACHES[cache]}
    output = case.model.generate(**inputs, return_dict_in_generate=True, **options)
    assert new_tokens(inputs, output.sequences) == true_batch("qwen2", True, **beams)
    forward = case.model(**inputs)
    assert output.granularity.tolist() == output["granularity"].tolist() == [sample.level for sample in samples]
    torch.testing.assert_close(output.granularity_logits, forward.granularity_logits)
    assert not bool(output.granularity_logits[1].any())


def test_a_returned_dict_without_images_has_no_level():
    case = load()
    inputs = case.encode([case.sample(case.render(("user", text)), -1) for text in ("Hello?", "Who goes there?")])
    options = {"max_new_tokens": 2, "num_beams": 2, "num_return_sequences": 2, "return_dict_in_generate": True}
    output = case.model.generate(**inputs, **options)
    assert len(output.sequences) == 4
    assert output.granularity.tolist() == [-1, -1]
    assert output.granularity_logits.tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"return_dict_in_generate": True}, {"use_cache": False}])
@both_budgets
def test_rows_end_at_their_own_end_token(pooled: bool, options: dict[str, Any]):
    case, first = load("qwen2", pooled), true_batch("qwen2", pooled)
    samples, inputs = case.samples(), case.encode(case.samples())
    ends, beams = [first[0][2], first[3][4]], options.get("num_beams", 1)
    expected = [
        true_tokens(case, splice_sample(case, sample)[0], eos_token_id=ends, num_beams=beams)[0] for sample in samples
    ]
    assert len({len(row) for row in expected}) > 1
    output = case.model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, eos_token_id=ends, **options)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    assert new_tokens(inputs, sequences) == pad(case, expected)


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}])
@both_budgets
def test_rules_about_the_prompt_see_the_same_prompt(pooled: bool, options: dict[str, Any]):
    case = load("qwen2", pooled)
    samples, inputs = case.samples(), case.encode(case.samples())
    alone = [generate(case, case.encode([s], granularity=max(s.level, 0)), **options)[0] for s in samples]
    assert pad(case, alone) != true_batch("qwen2", pooled)
    assert generate(case, inputs, **options) == pad(case, alone)
    assert generate(case, inputs, **options, stopping_criteria=StoppingCriteriaList([Never()])) == pad(case, alone)


def test_padding_is_recognised_without_a_mask():
    case = load("qwen2", True)
    inputs = case.encode(case.samples())
    assert bool((inputs.pop("attention_mask") == 0).any())
    assert generate(case, inputs) == true_batch("qwen2", True)


def test_padding_with_the_end_token_changes_nothing():
    case = load("qwen2", True)
    end = case.processor.tokenizer.eos_token_id
    expected = true_batch("qwen2", True)
    assert all(case.processor.tokenizer.pad_token_id not in row and end not in row for row in expected)
    inputs = case.encode(case.samples())
    is_padding = inputs["attention_mask"] == 0
    inputs["input_ids"] = torch.where(is_padding, end, inputs["input_ids"])
    assert generate(case, inputs, pad_token_id=end) == expected


def test_the_prompt_may_come_first_and_unnamed():
    case = load()
    inputs = case.encode(case.samples())
    expected = generate(case, inputs)
    input_ids = inputs.pop("input_ids")
    sequences = case.model.generate(input_ids, **inputs, max_new_tokens=STEPS, do_sample=False)
    assert sequences[:, input_ids.shape[1] :].tolist() == expected


# ---------------------------------------------------------------------- lengths and streams


@pytest.mark.parametrize("where", ["argument", "config", "model"])
@pytest.mark.parametrize("watched", [{}, {"return_dict_in_generate": True}])
def test_max_length_counts_the_callers_prompt(where: str, watched: dict[str, Any]):
    case = copy.deepcopy(load("qwen2", True)) if where == "model" else load("qwen2", True)
    inputs = case.encode(case.samples())
    length, options = inputs["input_ids"].shape[1], dict(watched)
    if where == "argument":
        options["max_length"] = length + 5
    elif where == "config":
        options["generation_config"] = GenerationConfig(max_length=length + 5, do_sample=False)
    else:
        case.model.generation_config.max_length = length + 5
    output = case.model.generate(**inputs, **options)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    assert new_tokens(inputs, sequences) == [row[:5] for row in generate(case, inputs)]


def test_max_length_within_the_prompt_raises_as_the_library_does():
    case = load("qwen2", True)
    inputs = case.encode(case.samples())
    for length in (inputs["input_ids"].shape[1], 20):
        with pytest.raises(ValueError, match="max_length"):
            case.model.generate(**inputs, max_length=length)


def test_max_new_tokens_wins_over_max_length():
    case = load("qwen2", True)
    inputs = case.encode(case.samples())
    assert generate(case, inputs, max_length=9999) == generate(case, inputs)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("watched", [{}, {"return_dict_in_generate": True}])
def test_without_any_length_as_many_tokens_come_as_without_images(watched: dict[str, Any]):
    case = load("qwen2", True)
    samples = case.samples()
    lengths = []
    for sample in (samples[0], samples[1]):
        inputs = case.encode([sample])
        output = case.model.generate(**inputs, do_sample=False, **watched)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        lengths.append(len(new_tokens(inputs, sequences)[0]))
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("watched", [{}, {"return_dict_in_generate": True}])
def test_min_length_counts_the_callers_prompt(watched: dict[str, Any]):
    case = load("qwen2", True)
    sample = case.samples()[0]
    embeds, inputs = splice_sample(case, sample)[0], case.encode([sample])
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": list(range(20, 300))}  # almost every token
    assert len(true_tokens(case, embeds, **options)[0]) == 1
    expected = true_tokens(case, embeds, **options, min_new_tokens=4)
    assert 4 <= len(expected[0]) < STEPS
    for limit in ({"min_length": inputs["input_ids"].shape[1] + 4}, {"min_new_tokens": 4}):
        output = case.model.generate(**inputs, **limit, **options, **watched)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        assert new_tokens(inputs, sequences) == expected


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []
        self.has_ended = False

    def put(self, value: torch.Tensor) -> None:
        self.parts.append(value)

    def end(self) -> None:
        self.has_ended = True


@pytest.mark.parametrize("watched", [{}, {"return_dict_in_generate": True}])
def test_a_streamer_gets_the_callers_prompt_and_then_each_token(watched: dict[str, Any]):
    case = load("qwen2", True)
    inputs, recorder = case.encode(case.samples()[:1]), Recorder()
    expected = generate(case, inputs)[0]
    case.model.generate(**inputs, streamer=recorder, max_new_tokens=STEPS, do_sample=False, **watched)
    assert torch.equal(recorder.parts[0], inputs["input_ids"])
    assert [int(part) for part in recorder.parts[1:]] == expected
    assert recorder.has_ended


# ---------------------------------------------------------------------- how often images are encoded


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


@pytest.mark.parametrize(
    "options",
    [*CACHES.values(), {"num_beams": 3}, {"return_dict_in_generate": True}, {"use_cache": False, "num_beams": 2}],
)
def test_images_are_encoded_once(options: dict[str, Any]):
    case = load("qwen2", True)
    with CountTower(case) as tower:
        case.model.generate(**case.encode(case.samples()), max_new_tokens=4, do_sample=False, **options)
    assert tower.count == 1


def test_prompt_lookup_encodes_images_once():
    case = load("qwen2")
    with CountTower(case) as tower:
        generate(case, case.encode(case.samples()[:1]), prompt_lookup_num_tokens=2)
    assert tower.count == 1


def test_asking_for_the_level_encodes_no_image():
    case = load()
    inputs = case.encode(case.samples())
    with CountTower(case) as tower:
        probabilities = case.model.get_granularity(inputs["input_ids"], inputs["attention_mask"])
    assert tower.count == 0
    levels = [sample.level for sample in case.samples()]
    assert [
        int(row.argmax()) if level >= 0 else -1 for row, level in zip(probabilities, levels, strict=True)
    ] == levels


# ---------------------------------------------------------------------- kept caches


def tail_of(case: Case, text: str, **kwargs: Any) -> dict[str, torch.Tensor]:
    """What follows an answer when the user says something more; `@` stands for an image."""
    rendered = case.render(("user", "first"), ("assistant", "SENTINEL"), ("user", text)).split("SENTINEL")[1]
    return case.encode([case.sample(rendered, 0)], **kwargs)


def keep_cache(case: Case, samples: list[Sample], how: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, Any]:
    """First turn: inputs, sequences and the cache, either passed in or handed back."""
    inputs = case.encode(samples)
    if how in ("passed", "static"):
        config = case.model.config.text_config
        cache = DynamicCache() if how == "passed" else StaticCache(config=config, max_cache_len=800)
        sequences = case.model.generate(**inputs, past_key_values=cache, max_new_tokens=5, do_sample=False)
        return inputs, sequences, cache
    output = case.model.generate(**inputs, return_dict_in_generate=True, max_new_tokens=5, do_sample=False)
    return inputs, output.sequences, output.past_key_values


@pytest.mark.parametrize("how", ["passed", "static", "returned"])
@pytest.mark.parametrize("given", ["all images", "new images"])
@pytest.mark.parametrize("more", ["And now?", "@ And this?", "@@ Which?"])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_second_turn_on_a_kept_cache_equals_a_fresh_run(first: int, more: str, given: str, how: str):
    case = load("qwen2", True)
    sample = case.samples()[first]
    inputs, sequences, cache = keep_cache(case, [sample], how)
    tail = tail_of(case, more)
    input_ids = torch.cat([sequences, tail["input_ids"]], dim=1)
    old, new = inputs.get("pixel_values"), tail.get("pixel_values")
    pixels = [part for part in (old, new) if part is not None]
    every = torch.cat(pixels) if pixels else None
    level = sample.level
    if level < 0 and new is not None:  # the first image comes now, and with it the question
        level = int(case.model.get_granularity(input_ids).argmax())
    expected = true_tokens(case, splice(case, input_ids[0], every, level)[0])

    prompt = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    passed = {**prompt, "pixel_values": every if given == "all images" else new}
    passed = {name: value for name, value in passed.items() if value is not None}
    with CountTower(case) as tower:
        assert generate(case, passed, past_key_values=cache) == expected
    assert tower.count == (new is not None)
    fresh = {**prompt, "pixel_values": every} if every is not None else prompt
    assert generate(case, fresh) == expected


@both_budgets
def test_a_batch_of_second_turns_on_a_kept_cache(pooled: bool):
    """One row brings a new image, the other none: its shorter turn is padded in the middle of the prompt."""
    case = load("llama", pooled)
    samples = [case.samples()[2], case.samples()[0]]
    inputs, sequences, cache = keep_cache(case, samples, "passed")
    tails = [tail_of(case, "@ And this?"), tail_of(case, "And now?")]
    length = max(tail["input_ids"].shape[1] for tail in tails)
    rows, masks = [], []
    for row, tail in enumerate(tails):
        gap = length - tail["input_ids"].shape[1]
        padding = torch.full((gap,), case.processor.tokenizer.pad_token_id)
        rows.append(torch.cat([sequences[row], padding, tail["input_ids"][0]]))
        answer = torch.ones(sequences.shape[1] - inputs["input_ids"].shape[1], dtype=torch.long)
        masks.append(torch.cat([inputs["attention_mask"][row], answer, padding * 0, tail["attention_mask"][0]]))
    second = {"input_ids": torch.stack(rows), "attention_mask": torch.stack(masks)}
    pixels = [[inputs["pixel_values"][:2], tails[0]["pixel_values"]], [inputs["pixel_values"][2:]]]
    expected = []
    for row, sample in enumerate(samples):
        ids = second["input_ids"][row][second["attention_mask"][row].bool()]
        expected += true_tokens(case, splice(case, ids, torch.cat(pixels[row]), sample.level)[0])
    every = torch.cat([part for parts in pixels for part in parts])
    for given in (every, tails[0]["pixel_values"]):
        kept = {**second, "pixel_values": given, "past_key_values": copy.deepcopy(cache)}
        assert generate(case, kept) == pad(case, expected)
    assert generate(case, {**second, "pixel_values": every}) == pad(case, expected)


def test_a_kept_cache_wants_all_images_or_the_new_ones():
    case = load("qwen2", True)
    inputs, sequences, cache = keep_cache(case, case.samples()[2:3], "passed")
    tail = tail_of(case, "And now?")
    input_ids = torch.cat([sequences, tail["input_ids"]], dim=1)
    second = {"input_ids": input_ids, "pixel_values": inputs["pixel_values"][:1], "past_key_values": cache}
    with pytest.raises(ValueError, match="Image features and image tokens do not match: 1 images for 0"):
        generate(case, second)


@torch.no_grad()
def test_forward_continues_from_the_mask_that_it_returned():
    """Token by token without `generate`, and with another image on top of the cache."""
    case = load("llama", True)
    samples = case.samples()[:4]
    inputs = case.encode(samples)
    output, tail = case.model(**inputs, use_cache=True), tail_of(case, "@ And this?")
    ids = [[row[mask.bool()]] for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    images = [sample.images for sample in samples]
    pixels = list(inputs["pixel_values"].split([len(part) for part in images]))
    levels = output.granularity
    steps = [
        {"input_ids": torch.arange(60, 64)[:, None]},
        {"input_ids": tail["input_ids"].repeat(4, 1), "pixel_values": tail["pixel_values"].repeat(4, 1, 1, 1)},
        {"input_ids": torch.arange(70, 74)[:, None]},
    ]
    for step in steps:
        if "pixel_values" in step:
            levels = step["granularity"] = torch.where(levels < 0, 2, levels)
            pixels = [torch.cat([part, tail["pixel_values"]]) for part in pixels]
        mask = torch.cat([output.attention_mask, torch.ones_like(step["input_ids"])], dim=1)
        output = case.model(**step, attention_mask=mask, past_key_values=output.past_key_values)
        for row in range(4):
            ids[row].append(step["input_ids"][row])
            embeds, is_text = splice(case, torch.cat(ids[row]), pixels[row], int(levels[row]))
            assert is_text[-1]
            assert_close(output.logits[row, -1], case.bare(inputs_embeds=embeds).logits[0, -1], row)


@pytest.mark.parametrize("given", ["all images", "none"])
def test_a_kept_cache_of_another_image_size_is_exact_or_refused(given: str):
    case = load("qwen2", True)
    size = {"size": {"height": 96, "width": 96}}
    sample = case.samples()[0]
    inputs, cache = case.encode([sample], **size), DynamicCache()
    sequences = case.model.generate(**inputs, past_key_values=cache, max_new_tokens=5, do_sample=False)
    input_ids = torch.cat([sequences, tail_of(case, "And now?")["input_ids"]], dim=1)
    expected = true_tokens(case, splice(case, input_ids[0], inputs["pixel_values"], 0)[0])
    second = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "past_key_values": cache}
    if given == "all images":
        assert generate(case, {**second, "pixel_values": inputs["pixel_values"]}) == expected
    else:
        with pytest.raises(ValueError, match="Image features and image tokens do not match.*another image size"):
            generate(case, second)


# ---------------------------------------------------------------------- training


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


@every_case
@torch.no_grad()
def test_the_loss_of_whole_sequences_is_that_of_fixed_prompts(text: str, pooled: bool):
    """The token after an image is predicted from a used slot, because runs are filled from the right."""
    case = load(text, pooled)
    samples = case.samples()
    open_inputs = case.encode(samples, padding_side="right")
    levels = [max(sample.level, 0) for sample in samples]
    fixed_inputs = case.encode(samples, padding_side="right", granularity=levels)
    assert open_inputs["input_ids"].shape != fixed_inputs["input_ids"].shape
    losses = [case.model(**inputs, labels=labels_of(case, inputs)).loss for inputs in (open_inputs, fixed_inputs)]
    torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=1e-5)

    total, count = 0.0, 0
    for row, sample in enumerate(samples):
        embeds, is_text = splice_sample(case, sample)
        logits = case.bare(inputs_embeds=embeds).logits[0]
        ids = iter(labels_of(case, open_inputs)[row][labels_of(case, open_inputs)[row] >= 0].tolist())
        for place, flag in enumerate(is_text):
            token = next(ids) if flag else None
            if flag and place > 0:
                total -= float(logits[place - 1].log_softmax(-1)[token])
                count += 1
    torch.testing.assert_close(losses[0], torch.tensor(total / count), atol=0, rtol=1e-5)


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(is_reentrant: bool):
    gradients = []
    for is_checkpointing in (False, True):
        case = trainable()
        inputs = case.encode(case.samples())
        if is_checkpointing:
            options = {"use_reentrant": is_reentrant}
            case.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
            case.model.enable_input_require_grads()
        case.model(**inputs, labels=labels_of(case, inputs), use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in case.model.named_parameters()})
    for name, expected in gradients[0].items():
        if expected is None:
            assert gradients[1][name] is None, name
        else:
            torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=1e-5, msg=name)
    moved = [name for name, gradient in gradients[0].items() if gradient is not None and bool(gradient.any())]
    for part in ("granularity_controller", "token_aggregator", "multi_modal_projector", "language_model"):
        assert any(part in name for name in moved), part
    assert not any("vision_tower" in name for name in moved)


def test_train_keeps_a_frozen_tower_in_eval_mode_and_freezes_nothing():
    model, _ = tiny.make_granulon()
    core = model.model
    for module in (model, core):
        model.requires_grad_(True)
        assert all(parameter.requires_grad for parameter in module.train().parameters())
        assert core.vision_tower.training
        core.vision_tower.requires_grad_(False)
        before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        module.train()
        assert not any(part.training for part in core.vision_tower.modules())
        assert core.language_model.training
        assert core.granularity_controller.training
        module.eval()
        assert not core.language_model.training
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_a_frozen_tower_sees_the_same_in_train_mode():
    """DINOv3 jitters its positions in train mode."""
    case = trainable()
    inputs = case.encode(case.samples()[:1])
    expected = case.model.eval()(**inputs).logits
    torch.testing.assert_close(case.model.train()(**inputs).logits, expected)


def test_a_trainable_tower_gets_gradients():
    case = trainable()
    case.model.model.vision_tower.requires_grad_(True)
    inputs = case.encode(case.samples())
    case.model(**inputs, labels=labels_of(case, inputs)).loss.backward()
    layers = case.model.model.vision_tower.embeddings
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in layers.parameters())


def test_a_compiled_prefill_equals_eager_at_mixed_levels():
    case = copy.deepcopy(load("qwen2", True, max_clusters=6))  # a short graph
    case.model.config.kmeans_iterations = 2
    compiled = torch.compile(case.model, fullgraph=True, backend="aot_eager")
    samples = case.samples()
    with torch.no_grad():
        inputs = case.encode(samples)
        found, expected = compiled(**inputs), case.model(**inputs)
        assert found.granularity.tolist() == expected.granularity.tolist() == [sample.level for sample in samples]
        torch.testing.assert_close(found.granularity_logits, expected.granularity_logits, atol=1e-5, rtol=1e-5)
        for row in range(len(samples)):
            assert_close(
                text_logits(case, inputs, found.logits, row), text_logits(case, inputs, expected.logits, row), row
            )
        with torch.compiler.set_stance("fail_on_recompile"):
            inputs["input_ids"], inputs["attention_mask"] = (
                inputs[name].flip(0) for name in ("input_ids", "attention_mask")
            )
            found, expected = compiled(**inputs), case.model(**inputs)
        assert (
            found.granularity.tolist() == expected.granularity.tolist() == [sample.level for sample in samples[::-1]]
        )
        assert_close(found.logits[inputs["attention_mask"].bool()], expected.logits[inputs["attention_mask"].bool()])


# ---------------------------------------------------------------------- inputs that cannot be right


def forward(case: Case, inputs: dict[str, Any]) -> Any:
    return case.model(**inputs)


def run_generate(case: Case, inputs: dict[str, Any]) -> Any:
    return case.model.generate(**inputs, max_new_tokens=2)


either_call = pytest.mark.parametrize("call", [forward, run_generate])


@either_call
@pytest.mark.parametrize("kind", ["image_token_id", "semantic_token_id"])
def test_a_prompt_cut_inside_an_image_is_refused(kind: str, call: Callable[[Case, dict[str, Any]], Any]):
    case = load("qwen2", True)
    inputs = case.encode(case.samples()[:1])
    token_id = getattr(case.model.config, kind)
    place = int((inputs["input_ids"][0] == token_id).nonzero()[0])
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.cat([inputs[name][:, :place], inputs[name][:, place + 3 :]], dim=1)
    with pytest.raises(ValueError, match="Image features and image tokens do not match: a run of .*max_length"):
        call(case, inputs)


@either_call
@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_images_is_refused(change: int, call: Callable[[Case, dict[str, Any]], Any]):
    case = load()
    inputs = case.encode(case.samples())
    pixel_values, number = inputs["pixel_values"], len(inputs["pixel_values"])
    inputs["pixel_values"] = pixel_values[:-1] if change < 0 else torch.cat([pixel_values, pixel_values[:1]])
    with pytest.raises(
        ValueError, match=f"Image features and image tokens do not match: {number + change} images.*{number}"
    ):
        call(case, inputs)


@either_call
def test_images_without_a_placeholder_are_refused(call: Callable[[Case, dict[str, Any]], Any]):
    case = load()
    inputs = case.encode(case.samples()[1:2])
    inputs["pixel_values"] = case.encode(case.samples()[:1])["pixel_values"]
    with pytest.raises(ValueError, match="Image features and image tokens do not match: 1 images"):
        call(case, inputs)


@either_call
def test_placeholders_without_images_are_refused(call: Callable[[Case, dict[str, Any]], Any]):
    case = load()
    inputs = case.encode(case.samples())
    inputs.pop("pixel_values")
    with pytest.raises(ValueError, match="image placeholders, but no `pixel_values`"):
        call(case, inputs)


@either_call
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_pixels_are_refused(value: float, call: Callable[[Case, dict[str, Any]], Any]):
    case = load()
    inputs = case.encode(case.samples())
    inputs["pixel_values"][1, 0, 3, 3] = value
    with pytest.raises(ValueError, match="`pixel_values` holds NaN or infinite pixels"):
        call(case, inputs)


@either_call
@pytest.mark.parametrize(
    ("shape", "message"), [((64, 60), "64 x 60 pixels.*patches of 8 x 8"), ((4, 64), "4 x 64 pixels")]
)
def test_images_that_patches_do_not_tile_are_refused(
    shape: tuple[int, int], message: str, call: Callable[[Case, dict[str, Any]], Any]
):
    case = load()
    inputs = case.encode(case.samples()[:1])
    inputs["pixel_values"] = torch.zeros(1, 3, *shape)
    with pytest.raises(ValueError, match=f"{message}|Image features and image tokens do not match"):
        call(case, inputs)


@either_call
def test_pixels_without_an_image_dimension_are_refused(call: Callable[[Case, dict[str, Any]], Any]):
    case = load()
    inputs = case.encode(case.samples()[:1])
    inputs["pixel_values"] = inputs["pixel_values"][0]
    with pytest.raises(ValueError, match="`pixel_values` has the shape|Image features and image tokens do not match"):
        call(case, inputs)


@either_call
@pytest.mark.parametrize("levels", [[0, 0, 4, 0, 0, 0], [0, 0, -2, 0, 0, 0], [0, 0]])
def test_levels_out_of_range_are_refused(levels: list[int], call: Callable[[Case, dict[str, Any]], Any]):
    case = load()
    inputs = case.encode(case.samples())
    with pytest.raises(ValueError, match=r"`granularity` must hold one level index per row \(6\), each from 0 to 3"):
        call(case, {**inputs, "granularity": torch.tensor(levels)})


@pytest.mark.parametrize("granularity", ["ultra", 1.0, True, {"level": 1}, torch.ones(6), [0, 1, 2, 3, "ultra", 0]])
def test_an_unknown_level_is_answered_with_the_known_ones(granularity: Any):
    case = load()
    with pytest.raises(ValueError, match="`granularity` got .*'coarse', 'medium', 'fine', 'finest'.* an index"):
        generate(case, case.encode(case.samples()), granularity=granularity)


@either_call
def test_a_prompt_made_for_another_level_is_refused(call: Callable[[Case, dict[str, Any]], Any]):
    case = load("qwen2", True)
    inputs = case.encode(case.samples()[:1], granularity="medium")
    inputs["granularity"] = torch.tensor([0])
    with pytest.raises(ValueError, match="pass on the `granularity` that the processor returned"):
        call(case, inputs)


def test_chunked_prefill_is_refused():
    case = load()
    with pytest.raises(ValueError, match="`prefill_chunk_size`"):
        generate(case, case.encode(case.samples()), prefill_chunk_size=16)


def test_images_with_embeddings_are_refused():
    case = load()
    inputs = case.encode(case.samples()[:1])
    embeds = case.model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
        case.model(**inputs, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="Images need `input_ids`"):
        case.model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="Images need `input_ids`"):
        case.model.generate(**inputs, inputs_embeds=embeds, max_new_tokens=2)
