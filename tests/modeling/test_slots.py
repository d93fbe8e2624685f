"""Visual tokens in the slots of a prompt: a forward equals the splice under padding and at mixed levels."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from splice import (
    CASES,
    POOLED_LEVELS,
    Case,
    assert_close,
    every_case,
    generate,
    load,
    splice,
    text_logits,
    true_logits,
    true_tokens,
)


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
    with pytest.raises(ValueError, match=r"`granularity` .* (from 0 to 3|for 6 rows)"):
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
