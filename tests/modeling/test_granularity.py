"""The granularity controller: what it reads of a prompt, its equations (Eq. 5-7), and how losses reach it."""

import functools
import math
from typing import Any

import pytest
import tiny
import torch

from granulon import GranulonForConditionalGeneration, GranulonModel, GranulonProcessor
from granulon.modeling_granulon.granularity_granulon import question_mask, straight_through


# the header of a user's turn; SmolLM2's `<|im_start|>` is its bos token, which belongs to no turn
HEADERS = {"qwen2": "<|im_start|>user\n", "llama": "<|start_header_id|>user<|end_header_id|>\n\n", "smollm2": "user\n"}
FAMILIES = list(HEADERS)
QUESTION, OTHER = "How many birds sit on the wire?", "Where are we?"
Turns = list[tuple[str, str]]


@functools.cache
def load(family: str) -> tuple[GranulonForConditionalGeneration, GranulonProcessor]:
    """A tiny model whose controller's probabilities are neither equal nor one-hot. Tests leave it as it is."""
    model, processor = tiny.make_granulon("qwen2" if family == "qwen2" else "llama", family=family)
    with torch.no_grad():
        model.model.granularity_controller.head[-1].weight.mul_(0.001)
    return model, processor


def encode(processor: GranulonProcessor, *chats: Turns, prompt: bool = True, **kwargs: Any) -> dict[str, torch.Tensor]:
    """Chats of `(role, text)` turns, each `@` an image, as the model's inputs."""
    conversations = []
    for turns in chats:
        messages = []
        for role, text in turns:
            items: list[dict[str, Any]] = []
            for part in text.replace("@", "\0@\0").split("\0"):
                if part == "@":
                    items.append({"type": "image", "image": tiny.make_image(len(conversations))})
                elif part:
                    items.append({"type": "text", "text": part})
            messages.append({"role": role, "content": items})
        conversations.append(messages)
    kwargs.setdefault("padding", True)
    return dict(
        processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=prompt,
            processor_kwargs=kwargs,
        )
    )


def append(inputs: dict[str, torch.Tensor], processor: GranulonProcessor, text: str) -> dict[str, torch.Tensor]:
    """`inputs` of one row as they are while the answer grows."""
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    input_ids = torch.cat([inputs["input_ids"], ids], dim=1)
    return {**inputs, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


@torch.no_grad()
def logits_of(model: GranulonForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).granularity_logits


def question_of(
    model: GranulonForConditionalGeneration, processor: GranulonProcessor, inputs: dict[str, torch.Tensor]
) -> list[str]:
    """What `find_question` finds in each row."""
    found = question_mask(model.config, inputs["input_ids"], inputs["attention_mask"])
    return [processor.tokenizer.decode(row[mask]) for row, mask in zip(inputs["input_ids"], found, strict=True)]


# ---------------------------------------------------------------------- the equations, slowly


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def slow_linear(layer: torch.nn.Linear, values: list[float]) -> list[float]:
    rows, biases = layer.weight.double().tolist(), layer.bias.double().tolist()
    return [sum(w * x for w, x in zip(row, values, strict=True)) + b for row, b in zip(rows, biases, strict=True)]


@torch.no_grad()
def slow_controller(
    model: GranulonForConditionalGeneration, processor: GranulonProcessor, question: str
) -> tuple[list[float], list[float]]:
    """Logits and h of Eq. 5-7, from the bare question in a row of its own."""
    ids = processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"]
    first_block = model.model.language_model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
    mean = [sum(values) / len(values) for values in first_block.T.double().tolist()]
    controller = model.model.granularity_controller
    descriptor = slow_linear(controller.descriptor, [gelu(x) for x in mean])
    values = descriptor
    for layer in (controller.head[0], controller.head[2]):
        values = [gelu(x) for x in slow_linear(layer, values)]
    return slow_linear(controller.head[4], values), descriptor


@pytest.mark.parametrize("family", FAMILIES)
def test_controller_equals_the_loops(family: str):
    model, processor = load(family)
    inputs = encode(processor, [("user", f"@{QUESTION}")])
    output = model(**inputs)
    logits, descriptor = slow_controller(model, processor, HEADERS[family] + QUESTION)
    torch.testing.assert_close(output.granularity_logits[0], torch.tensor(logits), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.question_descriptor[0], torch.tensor(descriptor), atol=1e-5, rtol=1e-4)
    exponents = [math.exp(x - max(logits)) for x in logits]
    expected = torch.tensor([[x / sum(exponents) for x in exponents]])
    torch.testing.assert_close(model.get_granularity(inputs["input_ids"]), expected, atol=1e-5, rtol=1e-4)
    assert output.granularity.tolist() == [logits.index(max(logits))]
    assert 0.01 < float(expected.max()) < 0.99


def test_probabilities_are_one_row_of_levels_that_sums_to_one():
    model, processor = load("qwen2")
    inputs = encode(processor, [("user", f"@{QUESTION}")], [("user", OTHER)])
    probabilities = model.get_granularity(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert probabilities.shape == (2, 4)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))


# ---------------------------------------------------------------------- what the controller reads


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_question_changes_the_choice(family: str):
    model, processor = load(family)
    chat = [("user", f"@{QUESTION}")]
    plain = encode(processor, chat)
    others = {
        "no answer opened": encode(processor, chat, prompt=False),
        "a system turn": encode(processor, [("system", "Answer in French, " * 5), *chat]),
        "an answer": encode(processor, [*chat, ("assistant", "Three.")], prompt=False),
        "a later turn": encode(processor, [*chat, ("assistant", "Three."), ("user", OTHER)]),
        "a later image": encode(processor, [*chat, ("assistant", "Three."), ("user", f"@@{OTHER}")]),
        "another place of the image": encode(processor, [("user", f"{QUESTION}@")]),
        "an image inside the text": encode(processor, [("user", f"{QUESTION[:9]}@{QUESTION[9:]}")]),
        "two images": encode(processor, [("user", f"@@{QUESTION}")]),
        "fewer slots": encode(processor, chat, granularity="coarse"),
        "generated text": append(plain, processor, "Three, and a"),
        "a generated end of turn": append(plain, processor, "Three" + processor.tokenizer.eos_token + "\nand more"),
    }
    expected = logits_of(model, plain)
    for name, inputs in others.items():
        assert question_of(model, processor, inputs) == [HEADERS[family] + QUESTION], name
        torch.testing.assert_close(logits_of(model, inputs), expected, atol=1e-5, rtol=1e-4, msg=name)
    changed = logits_of(model, encode(processor, [("user", f"@{QUESTION[:-1]}!")]))
    assert float((changed - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_neighbours_change_nothing(family: str, side: str):
    model, processor = load(family)
    chats = [
        [("user", f"@{QUESTION}")],
        [
            ("system", "Be brief. " * 9),
            ("user", f"{OTHER}@@ Look twice."),
            ("assistant", "In a wood."),
            ("user", "Why?"),
        ],
        [("user", "@?")],
    ]
    batch = encode(processor, *chats, padding_side=side)
    assert bool((batch["attention_mask"] == 0).any())
    together = logits_of(model, batch)
    probabilities = model.get_granularity(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(probabilities, together.softmax(-1))
    for row, chat in enumerate(chats):
        alone = logits_of(model, encode(processor, chat))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_in_the_second_turn_makes_that_turn_the_question(family: str):
    model, processor = load(family)
    history = [("system", "Be brief."), ("user", OTHER), ("assistant", "In a wood.")]
    inputs = encode(processor, [*history, ("user", f"@{QUESTION}"), ("assistant", "Three."), ("user", "@Why?")])
    assert question_of(model, processor, inputs) == [HEADERS[family] + QUESTION]
    expected = logits_of(model, encode(processor, [("user", f"@{QUESTION}")]))
    torch.testing.assert_close(logits_of(model, inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_image_the_last_user_turn_is_the_question(family: str):
    model, processor = load(family)
    history = [("system", "Be brief."), ("user", OTHER), ("assistant", "In a wood."), ("user", QUESTION)]
    open_turn = encode(processor, history, prompt=False)
    end = max(
        i for i, token in enumerate(open_turn["input_ids"][0].tolist()) if [token] in model.config.turn_end_token_ids
    )
    cases = {
        "answer opened": encode(processor, history),
        "closed": encode(processor, history, prompt=False),
        "open": {name: value[:, :end] for name, value in open_turn.items()},
        "answered": encode(processor, [*history, ("assistant", "Three.")], prompt=False),
        "half answered": append(encode(processor, history), processor, "Thr"),
        "alone": encode(processor, [("user", QUESTION)]),
    }
    expected = torch.tensor([slow_controller(model, processor, HEADERS[family] + QUESTION)[0]]).softmax(-1)
    for name, inputs in cases.items():
        assert question_of(model, processor, inputs) == [HEADERS[family] + QUESTION], name
        found = model.get_granularity(inputs["input_ids"], inputs["attention_mask"])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, msg=name)
    with_image = encode(processor, [("user", f"@{QUESTION}")])
    torch.testing.assert_close(model.get_granularity(with_image["input_ids"]), expected, atol=1e-5, rtol=1e-4)


def test_rows_without_an_image_have_no_level_and_zero_logits():
    model, processor = load("qwen2")
    output = model(**encode(processor, [("user", OTHER)], [("user", f"@{QUESTION}")], [("user", "Hm?")]))
    assert [level >= 0 for level in output.granularity.tolist()] == [False, True, False]
    assert output.granularity[::2].tolist() == [-1, -1]
    assert not bool(output.granularity_logits[::2].any())
    assert bool(output.granularity_logits[1].any())


# ---------------------------------------------------------------------- templates without ends of turns


def make_unmarked(**config: Any) -> tuple[GranulonForConditionalGeneration, GranulonProcessor]:
    """A base model: no chat template, no special token between the turns."""
    return tiny.make_granulon("llama", family="base", **config)


def encode_text(processor: GranulonProcessor, text: str, **kwargs: Any) -> dict[str, torch.Tensor]:
    text = text.replace("@", processor.image_token)
    images = [tiny.make_image()] * text.count(processor.image_token) or None
    return dict(processor(images=images, text=text, return_tensors="pt", **kwargs))


def test_unmarked_turns_need_a_fixed_level():
    model, processor = make_unmarked()
    assert not model.config.turn_end_token_ids
    inputs = encode_text(processor, "USER: @What is it? ASSISTANT:")
    for call in (model, lambda **kwargs: model.generate(**kwargs, max_new_tokens=2)):
        with pytest.raises(ValueError, match="does not mark.*`granularity=`.*`turn_end=`"):
            call(**inputs)
    with pytest.raises(ValueError, match="`turn_end=`"):
        model.get_granularity(inputs["input_ids"])

    fixed = encode_text(processor, "USER: @What is it? ASSISTANT:", granularity="fine")
    output = model(**fixed)
    assert output.granularity.tolist() == [2]
    assert not bool(output.granularity_logits.any())
    assert model.generate(**inputs, granularity="fine", max_new_tokens=2, do_sample=False).shape[1] > 2
    text_only = encode_text(processor, "USER: What is it? ASSISTANT:")
    assert model(**text_only).granularity.tolist() == [-1]


def test_turn_end_tells_the_question_from_the_answer():
    model, processor = make_unmarked(turn_end=" ASSISTANT:")
    with torch.no_grad():
        model.model.granularity_controller.head[-1].weight.mul_(0.001)
    plain = encode_text(processor, f"USER: @{QUESTION} ASSISTANT:")
    assert question_of(model, processor, plain) == [f"USER: {QUESTION}"]
    expected = logits_of(model, plain)
    oracle = slow_controller(model, processor, f"USER: {QUESTION}")[0]
    torch.testing.assert_close(expected[0], torch.tensor(oracle), atol=1e-5, rtol=1e-4)
    for tail in (" Three.", " Three. USER: Why? ASSISTANT: I counted."):
        later = encode_text(processor, f"USER: @{QUESTION} ASSISTANT:{tail}")
        torch.testing.assert_close(logits_of(model, later), expected, atol=1e-5, rtol=1e-4)


def test_several_turn_ends_may_be_given():
    model, processor = make_unmarked(turn_end=[" ASSISTANT:", "</s>"])
    inputs = encode_text(processor, f"USER: {OTHER} ASSISTANT: In a wood.</s>USER: @{QUESTION} ASSISTANT: Three.</s>")
    assert question_of(model, processor, inputs) == [f"USER: {QUESTION}"]


# ---------------------------------------------------------------------- straight-through


def test_straight_through_is_exactly_one_hot():
    generator = torch.Generator().manual_seed(0)
    logits = torch.cat([torch.randn(50, 4, generator=generator) * scale for scale in (0.1, 3.0, 1e4)])
    levels = torch.randint(4, (150,), generator=generator)
    weights = straight_through(logits, levels, torch.ones(150, dtype=torch.bool))
    assert torch.equal(weights, torch.nn.functional.one_hot(levels, 4).float())
    assert weights.dtype == torch.float32
    bf16 = straight_through(logits.bfloat16(), levels, torch.ones(150, dtype=torch.bool))
    assert torch.equal(bf16, weights)


def test_straight_through_passes_the_gradient_of_softmax_where_the_controller_chose():
    logits = torch.randn(3, 4, requires_grad=True)
    upstream, is_chosen = torch.randn(3, 4), torch.tensor([True, False, True])
    weights = straight_through(logits, torch.tensor([2, 2, -1]), is_chosen)
    (found,) = torch.autograd.grad(weights, logits, upstream)
    (expected,) = torch.autograd.grad(logits.softmax(-1), logits, upstream)
    torch.testing.assert_close(found[is_chosen], expected[is_chosen])
    assert not bool(found[~is_chosen].any())


@pytest.mark.parametrize(("levels", "reaches"), [(None, True), ([-1, -1], True), ([1, -1], True), ([1, 2], False)])
def test_the_task_loss_reaches_the_controller_where_it_chose(levels: list[int] | None, reaches: bool):
    model, processor = load("qwen2")
    inputs = encode(processor, [("user", f"@{QUESTION}")], [("user", f"@{OTHER}")])
    granularity = None if levels is None else torch.tensor(levels)
    loss = model(**inputs, granularity=granularity, labels=inputs["input_ids"]).loss
    parameters = list(model.model.granularity_controller.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients) == reaches


def test_each_level_projects_with_its_own_gate():
    model, processor = load("qwen2")
    inputs = encode(processor, [("user", f"@{QUESTION}")], [("user", f"@{OTHER}")])
    loss = model(**inputs, granularity=torch.tensor([1, 3]), labels=inputs["input_ids"]).loss
    (gradient,) = torch.autograd.grad(loss, [model.model.multi_modal_projector.gate])
    assert gradient.any(dim=1).tolist() == [False, True, False, True]


def test_gates_start_near_one_and_differ_between_levels():
    config = load("qwen2")[0].config
    gate = GranulonModel(config).multi_modal_projector.gate.detach()
    assert gate.shape == (4, 32)
    assert abs(float(gate.mean()) - 1) < 0.02
    assert 0.01 < float(gate.std()) < 0.03
    assert len({tuple(row) for row in gate.tolist()}) == 4


# ---------------------------------------------------------------------- precision


def test_the_controller_stays_in_fp32():
    model, processor = GranulonForConditionalGeneration.from_backbones(
        tiny.make_vision().bfloat16(), tiny.make_text().bfloat16(), tokenizer=tiny.make_tokenizer()
    )
    assert {parameter.dtype for parameter in model.model.granularity_controller.parameters()} == {torch.float32}
    assert model.model.multi_modal_projector.gate.dtype == torch.bfloat16
    output = model(**encode(processor, [("user", f"@{QUESTION}")]))
    assert output.granularity_logits.dtype == output.question_descriptor.dtype == torch.float32
    assert output.logits.dtype == torch.bfloat16


def test_autocast_leaves_the_controllers_head_in_fp32():
    model, _ = load("qwen2")
    question = torch.randn(2, 32)
    expected = model.model.granularity_controller(question)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.model.granularity_controller(question)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
