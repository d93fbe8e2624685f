"""Generation equals the splice under caches, beams and mixed levels, in as many tokens, and encodes images once."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from splice import (
    CACHES,
    CAUSAL_CLASSES,
    STEPS,
    CountTower,
    both_budgets,
    every_case,
    generate,
    load,
    new_tokens,
    pad,
    splice_sample,
    true_batch,
    true_tokens,
)

from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer


# ---------------------------------------------------------------------- generation


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


# ---------------------------------------------------------------------- drafts


def test_every_draft_leads_to_the_greedy_answer():
    """The model itself, one with another head, one of other levels, and one that has never heard of images."""
    case = load("qwen2", True)
    other = copy.deepcopy(case.model)
    other.lm_head.weight.data.mul_(-1)
    blind = load("qwen2").model
    text = CAUSAL_CLASSES["qwen2"](case.model.config.text_config).eval()
    for sample in case.samples():
        inputs = case.encode([sample])
        expected = generate(case, inputs)
        for draft in (copy.deepcopy(case.model), other, blind, text):
            assert generate(case, inputs, assistant_model=draft) == expected


def test_a_draft_with_the_same_eyes_is_believed():
    case = load("qwen2", True)
    inputs = case.encode(case.samples()[:1])
    calls = []
    draft = copy.deepcopy(case.model)
    settings = {"num_assistant_tokens": STEPS, "num_assistant_tokens_schedule": "constant"}
    draft.generation_config.update(**settings, assistant_confidence_threshold=0.0)
    hook = case.model.model.language_model.register_forward_hook(lambda *args: calls.append(1))
    generate(case, inputs, assistant_model=draft)
    hook.remove()
    assert len(calls) <= 3
