"""Second turns on a kept cache equal a fresh run."""

import copy
from typing import Any

import pytest
import torch
from splice import Case, CountTower, Sample, assert_close, both_budgets, generate, load, pad, splice, true_tokens

from transformers import (
    DynamicCache,
    StaticCache,
)


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
