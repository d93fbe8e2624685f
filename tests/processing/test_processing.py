"""Prompts: as many slots as the model fills, text that stays text, masks of the assistant's words, telling errors."""

import base64
import importlib.util
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

from transformers import AutoProcessor, PreTrainedTokenizerFast, pipeline
from transformers.utils.chat_template_utils import encode_marked_chat

from granulon import GranulonProcessor
from granulon.processing import chats_granulon, image_processing_granulon
from granulon.processing.chat_templates import default_chat_template, find_turn_ends, mark_assistant_turns


POOLED_LEVELS = [
    {"name": "glance", "pool": 2, "clusters": 4, "tokens": 3, "pixel_pool": 2},
    {"name": "look", "pool": 1, "clusters": 9, "tokens": 9, "pixel_pool": 1},
    {"name": "stare", "pool": 1, "clusters": 12, "tokens": 7, "pixel_pool": 3},
]
CHATML_LIKE = "[{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}]"
MISTRAL_LIKE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
VICUNA_LIKE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def qwen() -> tuple[Any, GranulonProcessor]:
    return tiny.make_granulon("qwen2")


@pytest.fixture(scope="module")
def processor(qwen: tuple[Any, GranulonProcessor]) -> GranulonProcessor:
    return qwen[1]


@pytest.fixture(scope="module")
def families(qwen: tuple[Any, GranulonProcessor]) -> dict[str, GranulonProcessor]:
    return {
        "qwen2": qwen[1],
        "llama": tiny.make_granulon("llama")[1],
        "smollm2": tiny.make_granulon("llama", family="smollm2")[1],
    }


@pytest.fixture(scope="module")
def pooled() -> tuple[Any, GranulonProcessor]:
    return tiny.make_granulon("qwen2", levels=POOLED_LEVELS)


def ask(*parts: Any) -> list[dict[str, Any]]:
    """A chat of one user message: strings are text, everything else an image."""
    items = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": items}]


def encode(processor: GranulonProcessor, chat: Any, **kwargs: Any) -> Any:
    return processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt", **kwargs)


def count_slots(processor: GranulonProcessor, input_ids: torch.Tensor) -> list[tuple[int, int]]:
    """`<image>` and `<semantic>` slots of each row."""
    ids = (processor.image_token_id, processor.semantic_token_id)
    return [tuple(int((row == token_id).sum()) for token_id in ids) for row in input_ids]


def expect_slots(levels: list[dict[str, Any]], rows: int, columns: int) -> list[tuple[int, int]]:
    """`<image>` and `<semantic>` slots of each level, and at last of the open level, on a grid of patches."""
    pixel = [math.ceil(rows / level["pixel_pool"]) * math.ceil(columns / level["pixel_pool"]) for level in levels]
    semantic = [level["tokens"] for level in levels]
    return [*zip(pixel, semantic, strict=True), (max(pixel), max(semantic))]


@torch.no_grad()
def count_consumed(model: Any, inputs: Any) -> list[tuple[int, int]]:
    """Slots of each row that the model fills: the language model sees them, the others are masked."""
    seen = model(**inputs).attention_mask.bool()
    ids = (model.config.image_token_id, model.config.semantic_token_id)
    return [tuple(int(((inputs["input_ids"] == i) & seen)[row].sum()) for i in ids) for row in range(len(seen))]


# ---------------------------------------------------------------------- slots


@pytest.mark.parametrize("size", [None, {"height": 48, "width": 88}, {"height": 72, "width": 64}])
@pytest.mark.parametrize("kind", ["default", "pooled"])
def test_placeholders_equal_what_the_model_consumes(kind: str, size: Any, request: pytest.FixtureRequest) -> None:
    model, processor = request.getfixturevalue("qwen" if kind == "default" else "pooled")
    height, width = (64, 64) if size is None else (size["height"], size["width"])
    wanted = expect_slots(processor.levels, height // tiny.PATCH, width // tiny.PATCH)
    options = {} if size is None else {"size": size}
    chat = ask("What is ", tiny.make_image(), "?")
    for level, slots in enumerate(wanted[:-1]):
        inputs = encode(processor, chat, processor_kwargs={"granularity": level, **options})
        assert inputs["pixel_values"].shape == (1, 3, height, width)
        assert count_slots(processor, inputs["input_ids"]) == [slots]
        assert count_consumed(model, inputs) == [slots]
    inputs = encode(processor, chat, processor_kwargs=options)
    assert count_slots(processor, inputs["input_ids"]) == wanted[-1:]
    for level, slots in enumerate(wanted[:-1]):  # an open prompt serves every level
        assert count_consumed(model, {**inputs, "granularity": torch.tensor([level])}) == [slots]


def test_every_image_of_a_row_gets_its_levels_slots(pooled: tuple[Any, GranulonProcessor]) -> None:
    model, processor = pooled
    chats = [ask(tiny.make_image(0), tiny.make_image(1), "both?"), ask("no image"), ask(tiny.make_image(2), "one?")]
    inputs = encode(processor, chats, processor_kwargs={"granularity": ["glance", "look", None], "padding": True})
    glance, _, _, widest = expect_slots(POOLED_LEVELS, 8, 8)
    wanted = [(2 * glance[0], 2 * glance[1]), (0, 0), widest]
    assert count_slots(processor, inputs["input_ids"]) == wanted
    assert count_consumed(model, inputs)[:2] == wanted[:2]


@pytest.mark.parametrize("vision", ["clip", "dinov2", "siglip", "siglip2"])
def test_other_encoders_count_right_and_take_no_other_size(vision: str) -> None:
    model, processor = tiny.make_granulon(vision=vision)
    wanted = expect_slots(processor.levels, 8, 8)
    for level in (0, 3, -1):
        inputs = encode(processor, ask(tiny.make_image(), "?"), processor_kwargs={"granularity": level})
        assert count_slots(processor, inputs["input_ids"]) == [wanted[level]]
    assert count_consumed(model, {**inputs, "granularity": torch.tensor([1])}) == [wanted[1]]
    with pytest.raises(ValueError, match="64 x 64 pixels.*got 48 x 64"):
        encode(processor, ask(tiny.make_image(), "?"), processor_kwargs={"size": {"height": 48, "width": 64}})
    with pytest.raises(ValueError, match="64 x 64 pixels.*got 72 x 64"):
        image = tiny.make_image(size=(64, 72))
        encode(processor, ask(image, "?"), processor_kwargs={"do_resize": False})


@pytest.mark.parametrize("size", [(8, 8), (64, 32), (96, 136)])
def test_images_can_come_at_their_own_size(size: tuple[int, int], processor: GranulonProcessor) -> None:
    prompt = f"{processor.image_token} here"
    inputs = processor(tiny.make_image(size=size), prompt, do_resize=False, return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (size[1], size[0])
    wanted = expect_slots(processor.levels, size[1] // tiny.PATCH, size[0] // tiny.PATCH)[-1]
    assert count_slots(processor, inputs["input_ids"]) == [wanted]


@pytest.mark.parametrize("size", [(63, 64), (64, 60), (4, 4), (64, 7)])
def test_sides_that_patches_do_not_tile_raise(size: tuple[int, int], processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match=f"{size[1]} x {size[0]} pixels.*patches of 8 x 8"):
        processor(tiny.make_image(size=size), processor.image_token, do_resize=False)


def test_images_of_different_sizes_raise_without_resizing(processor: GranulonProcessor) -> None:
    images = [tiny.make_image(size=(64, 64)), tiny.make_image(size=(64, 32))]
    with pytest.raises(ValueError, match="must be equal"):
        processor(images, processor.image_token * 2, do_resize=False)
    assert processor(images, processor.image_token * 2, return_tensors="pt")["pixel_values"].shape == (2, 3, 64, 64)


def test_planned_token_counts_equal_the_prompts(pooled: tuple[Any, GranulonProcessor]) -> None:
    processor = pooled[1]
    wanted = expect_slots(POOLED_LEVELS, 8, 8)
    for level in (None, "glance", 1, "stare"):
        planned = processor._get_num_multimodal_tokens(image_sizes=[(100, 30), (20, 20)], granularity=level)
        inputs = processor(tiny.make_image(), processor.image_token, granularity=level, return_tensors="pt")
        slots = count_slots(processor, inputs["input_ids"])[0]
        assert planned.num_image_tokens == [sum(slots)] * 2 and planned.num_image_patches == [1, 1]
    assert sum(wanted[0]) < sum(wanted[-1])
    assert processor._get_num_multimodal_tokens().num_image_tokens is None


def test_modality_ids_mark_both_kinds_of_slots(processor: GranulonProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    for each in (processor, AutoProcessor.from_pretrained(tmp_path)):
        prompt = f"a{each.image_token}b"
        inputs = each(tiny.make_image(), prompt, return_mm_token_type_ids=True, return_tensors="pt")
        is_slot = torch.isin(inputs["input_ids"], torch.tensor([each.image_token_id, each.semantic_token_id]))
        assert torch.equal(torch.as_tensor(inputs["mm_token_type_ids"]), is_slot.long())
        assert is_slot.sum() == sum(expect_slots(each.levels, 8, 8)[-1])


# ---------------------------------------------------------------------- granularity


@pytest.mark.parametrize(
    "granularity, wanted",
    [
        ("fine", [2, 2]),
        (1, [1, 1]),
        (["coarse", "finest"], [0, 3]),
        ([2, "medium"], [2, 1]),
        (("auto", 0), [-1, 0]),
        ([None, "fine"], [-1, 2]),
        ([-1, 3], [-1, 3]),
        (torch.tensor([3, -1]), [3, -1]),
        (torch.tensor(2), [2, 2]),
    ],
)
def test_levels_by_name_index_list_and_tensor(
    granularity: Any, wanted: list[int], processor: GranulonProcessor
) -> None:
    texts = [f"a {processor.image_token}", f"longer {processor.image_token}"]
    images = [tiny.make_image(0), tiny.make_image(1)]
    inputs = processor(images, texts, granularity=granularity, padding=True, return_tensors="pt")
    assert inputs["granularity"].dtype == torch.int64
    assert inputs["granularity"].tolist() == wanted
    slots = expect_slots(processor.levels, 8, 8)
    assert count_slots(processor, inputs["input_ids"]) == [slots[level] for level in wanted]
    assert processor(images, texts, granularity=granularity)["granularity"] == wanted  # without tensors: a list


@pytest.mark.parametrize("granularity", [None, "auto", "", -1, ["auto"], [None]])
def test_an_open_level_is_not_written(granularity: Any, processor: GranulonProcessor) -> None:
    inputs = processor(tiny.make_image(), processor.image_token, granularity=granularity, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}


def test_the_level_is_among_the_models_inputs(processor: GranulonProcessor) -> None:
    assert {"granularity", "pixel_values", "input_ids", "attention_mask"} <= set(processor.model_input_names)


@pytest.mark.parametrize("kwargs", [{"granularity": "medium"}, {"images_kwargs": {"granularity": "medium"}}])
def test_levels_reach_the_processor_from_every_side(kwargs: dict, processor: GranulonProcessor) -> None:
    image = tiny.make_image()
    called = processor(image, processor.image_token, return_tensors="pt", **kwargs)
    chatted = encode(processor, ask(image), processor_kwargs=kwargs)
    wanted = expect_slots(processor.levels, 8, 8)[1]
    for inputs in (called, chatted):
        assert inputs["granularity"].tolist() == [1]
        assert count_slots(processor, inputs["input_ids"]) == [wanted]
    assert kwargs in ({"granularity": "medium"}, {"images_kwargs": {"granularity": "medium"}})  # left as it was


@pytest.mark.parametrize("granularity", ["finer", "4", 4, -2, True, False, 1.0, {"level": 1}, ["fine", "no"]])
def test_unknown_levels_raise_with_the_choices(granularity: Any, processor: GranulonProcessor) -> None:
    texts = [processor.image_token] * (2 if isinstance(granularity, list) else 1)
    with pytest.raises(ValueError, match=r"`granularity` got .*coarse.*medium.*fine.*finest"):
        processor([tiny.make_image()] * len(texts), texts, granularity=granularity)


@pytest.mark.parametrize("granularity", [["fine"], ["fine"] * 3, [], torch.tensor([1, 1, 1])])
def test_lists_of_another_length_raise(granularity: Any, processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match=r"levels for 2 rows"):
        processor([tiny.make_image()] * 2, [processor.image_token] * 2, granularity=granularity)


# ---------------------------------------------------------------------- images and texts


def test_images_flat_nested_single_and_in_one_tensor_are_the_same(processor: GranulonProcessor) -> None:
    first, second, third = (tiny.make_image(seed) for seed in range(3))
    token = processor.image_token
    texts = [f"{token} and {token}", "none", f"only {token}"]
    expected = processor([[first, second], [], [third]], texts, padding=True, return_tensors="pt")
    assert expected["pixel_values"].shape[0] == 3
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in (first, second, third)]))
    flat = [first, second, third]
    for images in (flat, tuple(flat), [[first, second], [], third], stacked, [stacked], stacked.numpy()):
        inputs = processor(images, texts, padding=True, return_tensors="pt")
        for name, value in expected.items():
            assert torch.equal(inputs[name], value)
    single = processor(third, texts[2], return_tensors="pt")
    assert torch.equal(single["pixel_values"], expected["pixel_values"][2:])
    assert torch.equal(single["pixel_values"], processor([third], [texts[2]], return_tensors="pt")["pixel_values"])


def test_images_stay_in_the_order_of_their_placeholders(processor: GranulonProcessor) -> None:
    images = [tiny.make_image(seed) for seed in range(3)]
    chats = [ask("x", images[0], "y", images[1]), ask(images[2])]
    pixels = encode(processor, chats, processor_kwargs={"padding": True})["pixel_values"]
    one_by_one = [processor.image_processor(image, return_tensors="pt")["pixel_values"] for image in images]
    assert torch.equal(pixels, torch.cat(one_by_one))


@pytest.mark.parametrize(
    "images, counts",
    [
        (1, [2]),  # too few
        (3, [2]),  # too many
        (None, [1]),  # placeholder without image
        (1, [0]),  # image without placeholder
        ([[1], [1]], [2, 0]),  # the sum is right, the rows are not
        ([[2], [0]], [1, 1]),
        ([[1]], [1, 1]),  # too few rows
        (1, [1, 1]),
        ([], [1]),
    ],
)
def test_images_that_do_not_match_placeholders_raise(
    images: Any, counts: list[int], processor: GranulonProcessor
) -> None:
    texts = ["q" + processor.image_token * count for count in counts]
    if isinstance(images, int):
        given: Any = [tiny.make_image(seed) for seed in range(images)]
    else:
        given = None if images is None else [[tiny.make_image()] * row[0] for row in images]
    with pytest.raises(ValueError, match="image placeholders"):
        processor(given, texts)


@pytest.mark.parametrize("text", ["", "  \n ", ["fine", ""]])
def test_empty_texts_raise(text: Any, processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match=r"Text \d is empty"):
        processor(text=text)


def test_texts_of_another_type_raise(processor: GranulonProcessor) -> None:
    with pytest.raises(TypeError, match="Text 1 is a int"):
        processor(text=["fine", 7])


def test_semantic_tokens_in_a_prompt_raise(processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match="reserved for semantic tokens"):
        processor(tiny.make_image(), processor.image_token + processor.semantic_token)


def test_text_alone_has_neither_slots_nor_pixels(processor: GranulonProcessor) -> None:
    inputs = processor(text="only words", return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert processor.decode(inputs["input_ids"][0]) == "only words"


def test_images_alone_give_pixels(processor: GranulonProcessor) -> None:
    inputs = processor(images=[tiny.make_image(0), tiny.make_image(1)], return_tensors="pt")
    assert set(inputs) == {"pixel_values"} and inputs["pixel_values"].shape == (2, 3, 64, 64)


def test_padding_is_left_and_saved_so(processor: GranulonProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    for each in (processor, AutoProcessor.from_pretrained(tmp_path)):
        inputs = each(text=["short", "rather longer"], padding=True, return_tensors="pt")
        assert inputs["attention_mask"][0].tolist() == [0] * 8 + [1] * 5
        assert inputs["input_ids"][0, :8].tolist() == [each.tokenizer.pad_token_id] * 8


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("part", ["image", "semantic"])
def test_truncation_inside_an_image_raises(part: str, side: str, processor: GranulonProcessor) -> None:
    pixel, semantic = expect_slots(processor.levels, 8, 8)[-1]
    kept = {
        ("image", "right"): 10 + pixel // 2,
        ("semantic", "right"): 10 + pixel + semantic // 2,
        ("image", "left"): 10 + semantic + pixel // 2,
        ("semantic", "left"): 10 + semantic // 2,
    }[part, side]
    options = {"truncation": True, "max_length": kept, "truncation_side": side}
    with pytest.raises(ValueError, match=r"(?i)truncation"):
        processor(tiny.make_image(), "ten chars " + processor.image_token + " ten chars", **options)


def test_truncation_beside_an_image_is_allowed(processor: GranulonProcessor) -> None:
    slots = sum(expect_slots(processor.levels, 8, 8)[-1])
    prompt = "ten chars " + processor.image_token + " ten chars"
    inputs = processor(tiny.make_image(), prompt, truncation=True, max_length=slots + 12, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, slots + 12)


@pytest.mark.parametrize("max_length", [60, 110])
def test_truncation_of_a_chat_with_reserved_text_raises_too(max_length: int, processor: GranulonProcessor) -> None:
    chat = ask(f"{processor.image_token}?", tiny.make_image())
    with pytest.raises(ValueError, match=r"(?i)truncation"):
        encode(processor, chat, processor_kwargs={"truncation": True, "max_length": max_length})


# ---------------------------------------------------------------------- chats


def to_data_uri(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_every_way_to_put_an_image_into_a_chat(processor: GranulonProcessor, tmp_path: Path) -> None:
    image = tiny.make_image()
    image.save(tmp_path / "image.png")
    path, uri = str(tmp_path / "image.png"), to_data_uri(image)
    content = (tmp_path / "image.png").read_bytes()
    expected = encode(processor, ask(image, "What?"))
    for item in (
        {"type": "image", "path": path},
        {"type": "image", "url": path},
        {"type": "image", "image": path},
        {"type": "image", "image": tmp_path / "image.png"},
        {"type": "image", "url": f"file://{path}"},
        {"type": "image", "image": content},
        {"type": "image", "image": BytesIO(content)},
        {"type": "image", "image": {"bytes": content, "path": None}},
        {"type": "image", "image": {"bytes": None, "path": path}},
        {"type": "image", "image": np.asarray(image)},
        {"type": "image", "base64": uri.partition(",")[2]},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image_url", "image_url": uri},
        {"type": "image_url", "url": uri},
    ):
        inputs = encode(processor, [{"role": "user", "content": [item, {"type": "text", "text": "What?"}]}])
        for name, value in expected.items():
            assert torch.equal(inputs[name], value), (item["type"], name)
    placeholder = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    inputs = encode(processor, placeholder, processor_kwargs={"images": [image]})
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(inputs["input_ids"], expected["input_ids"])


def test_string_content_equals_a_text_item(processor: GranulonProcessor) -> None:
    whole = [{"role": "user", "content": "Plain words."}]
    assert torch.equal(encode(processor, whole)["input_ids"], encode(processor, ask("Plain words."))["input_ids"])


def test_the_messages_that_came_are_not_changed(processor: GranulonProcessor) -> None:
    image = tiny.make_image()
    chat = [*ask("Where is ", image, processor.image_token), {"role": "assistant", "content": "There."}]
    options: dict[str, Any] = {"granularity": "fine"}
    before = repr(chat)
    encode(processor, chat, processor_kwargs=options)
    assert repr(chat) == before and options == {"granularity": "fine"}


@pytest.mark.parametrize("family", ["qwen2", "llama", "smollm2"])
def test_an_answer_can_be_continued(family: str, families: dict[str, GranulonProcessor]) -> None:
    processor = families[family]
    chat = [*ask(tiny.make_image(), "What is it?"), {"role": "assistant", "content": "It is a"}]
    inputs = encode(processor, chat, continue_final_message=True, processor_kwargs={"granularity": "fine"})
    assert processor.decode(inputs["input_ids"][0]).endswith("It is a")
    assert count_slots(processor, inputs["input_ids"]) == [expect_slots(processor.levels, 8, 8)[2]]


def test_a_chat_with_an_image_item_but_no_image_raises(processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match="image placeholders"):
        encode(processor, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}])


@pytest.mark.parametrize("chat", [[], None, "words", {"role": "user"}])
def test_what_is_no_conversation_raises(chat: Any, processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match="`conversation` must be"):
        processor.apply_chat_template(chat)


def test_unknown_items_raise_with_the_kinds(processor: GranulonProcessor) -> None:
    with pytest.raises(ValueError, match="'video', expected `text`, `image` or `image_url`"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video", "path": "a.mp4"}]}])


@pytest.mark.parametrize(
    "message, kind, named",
    [
        (None, TypeError, "Message 1 is None, expected a dictionary"),
        ("words", TypeError, "Message 1 is of the type str"),
        ({"content": "q"}, ValueError, "Message 1: `role` is missing"),
        ({"role": 7, "content": "q"}, TypeError, "Message 1: `role` is of the type int"),
        ({"role": "user"}, ValueError, "Message 1: `content` is missing"),
        ({"role": "user", "content": None}, ValueError, "Message 1: `content` is missing"),
        ({"role": "user", "text": "q"}, ValueError, "Message 1: `content` is missing"),
        ({"role": "user", "content": {"type": "text", "text": "q"}}, TypeError, "`content` is of the type dict"),
        ({"role": "user", "content": 7}, TypeError, "Message 1: `content` is of the type int"),
        ({"role": "user", "content": "half \ud83d"}, ValueError, "Message 1: `content` holds .* surrogate"),
        ({"role": "user\udc00", "content": "q"}, ValueError, "Message 1: `role` holds .* surrogate"),
    ],
)
def test_malformed_messages_raise_with_their_place(
    message: Any, kind: type, named: str, processor: GranulonProcessor
) -> None:
    chat = [{"role": "system", "content": "s"}, message]
    with pytest.raises(kind, match=named):
        encode(processor, chat)
    with pytest.raises(kind, match=named.replace("Message 1", "Message 1 of chat 2")):
        encode(processor, [ask("q"), ask("q"), chat])


@pytest.mark.parametrize(
    "item, kind, named",
    [
        ("q", TypeError, r"`content\[1\]` is of the type str"),
        ({"text": "q"}, ValueError, r"`content\[1\].type` is None, expected `text`"),
        ({"type": "text"}, ValueError, r"`content\[1\].text` is missing"),
        ({"type": "text", "text": 1}, TypeError, r"`content\[1\].text` is of the type int"),
        ({"type": "image", "image": 7}, TypeError, r"`content\[1\].image`: .* came as int"),
        ({"type": "image", "path": "no.png"}, ValueError, r"`content\[1\].path`: No image"),
        ({"type": "image", "url": "a", "path": "b"}, ValueError, r"`content\[1\]` names its image 2 times"),
        ({"type": "image_url", "image_url": None}, ValueError, r"`content\[1\].image_url` is None"),
        ({"type": "image_url"}, ValueError, r"`content\[1\].image_url` is"),
    ],
)
def test_malformed_items_raise_with_their_place(
    item: Any, kind: type, named: str, processor: GranulonProcessor
) -> None:
    with pytest.raises(kind, match="Message 0: " + named):
        encode(processor, [{"role": "user", "content": [{"type": "text", "text": "q"}, item]}])


def test_a_chat_without_messages_raises(processor: GranulonProcessor) -> None:
    for chat in ([], {"role": "user", "content": "q"}):
        with pytest.raises(ValueError, match="Chat 1 must be a non-empty list"):
            encode(processor, [ask("q"), chat])


def test_what_a_template_refuses_names_the_message(processor: GranulonProcessor) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'judge' %}{{ raise_exception('no judges') }}{% endif %}"
        "{{ m.content + m.note|default('') }}{% endfor %}"
    )
    chat = [{"role": "user", "content": "q"}, {"role": "judge", "content": "j"}, {"role": "user", "content": "q"}]
    with pytest.raises(ValueError, match=r"does not take message 1, which .*'role'.*: no judges"):
        processor.apply_chat_template(chat, chat_template=template)
    with pytest.raises(ValueError, match=r"does not take message 2 of chat 1, which .*'note'.*concatenate"):
        noted = [*chat[::2], {"role": "user", "content": "q", "note": 3}]
        encode(processor, [ask("q"), noted], chat_template=template)


def test_a_call_of_tools_needs_no_content(processor: GranulonProcessor) -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ c.name }}{% endfor %}"
    template = "{% for m in messages %}[{{ m.content }}" + calls + "]{% endfor %}"
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}]
    ids = encode(processor, chat, chat_template=template)["input_ids"][0]
    assert processor.decode(ids) == processor.apply_chat_template(chat, chat_template=template) == "[q][look]"


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_an_empty_text_is_a_text(role: str, processor: GranulonProcessor) -> None:
    for content in ("", []):
        chat = [{"role": "user", "content": "q"}, {"role": role, "content": content}]
        text = processor.apply_chat_template(chat)
        assert text.endswith(f"<|im_start|>{role}\n<|im_end|>\n")
        assert processor.decode(encode(processor, chat)["input_ids"][0]) == text


def test_a_chat_with_an_unreadable_image_raises_with_its_name(processor: GranulonProcessor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.png"):
        encode(processor, ask("What?") + [{"role": "user", "content": [{"type": "image", "path": "missing.png"}]}])


@pytest.mark.parametrize("way", ["call", "chat", "pipeline"])
def test_an_image_is_opened_and_decoded_once(
    way: str, qwen: tuple[Any, GranulonProcessor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = qwen
    path = str(tmp_path / "image.png")
    tiny.make_image().save(path)
    counted = dict.fromkeys(("opened", "decoded"), 0)

    def count(name: str, function: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return function(*args, **kwargs)

        return counting

    monkeypatch.setattr(Image, "open", count("opened", Image.open))
    decode = count("decoded", image_processing_granulon.pil_to_array)
    monkeypatch.setattr(image_processing_granulon, "pil_to_array", decode)
    chat = [{"role": "user", "content": [{"type": "image", "path": path}, {"type": "text", "text": "What?"}]}]
    if way == "call":
        processor(path, processor.image_token)
    elif way == "chat":
        encode(processor, chat)
    else:
        pipeline("image-text-to-text", model=model, processor=processor)(text=chat, max_new_tokens=1)
    assert counted == {"opened": 1, "decoded": 1}


SNAPSHOT_CHAT = [
    {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": "And its colour? "},
]
SNAPSHOTS = {
    "qwen2": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|image_pad|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nAnd its colour? <|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "llama": (
        "<|begin_of_text|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<|reserved_special_token_0|>What is it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd its colour?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "smollm2": (
        "<|im_start|>system\nYou are helpful<|im_end|>\n"
        "<|im_start|>user\n<repo_name>What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nAnd its colour? <|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
}


@pytest.mark.parametrize("family", SNAPSHOTS)
def test_rendered_chats(family: str, families: dict[str, GranulonProcessor]) -> None:
    processor = families[family]
    assert processor.apply_chat_template(SNAPSHOT_CHAT, add_generation_prompt=True) == SNAPSHOTS[family]
    assert processor.apply_chat_template([SNAPSHOT_CHAT] * 2, add_generation_prompt=True) == [SNAPSHOTS[family]] * 2
    closed = processor.apply_chat_template(SNAPSHOT_CHAT)
    assert SNAPSHOTS[family].startswith(closed) and closed != SNAPSHOTS[family]


@pytest.mark.parametrize("family", SNAPSHOTS)
def test_encoding_a_chat_equals_encoding_its_text(family: str, families: dict[str, GranulonProcessor]) -> None:
    processor, image = families[family], tiny.make_image()
    chat = [{**SNAPSHOT_CHAT[0], "content": [{"type": "image", "image": image}, "What is it?"]}, *SNAPSHOT_CHAT[1:]]
    chat[0]["content"][1] = {"type": "text", "text": "What is it?"}
    inputs = encode(processor, chat, add_generation_prompt=True)
    expected = processor(image, SNAPSHOTS[family], return_tensors="pt", add_special_tokens=False)
    for name, value in expected.items():
        assert torch.equal(inputs[name], value)


# ---------------------------------------------------------------------- text that looks like a slot


@pytest.mark.parametrize("family", SNAPSHOTS)
@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("content", ["items", "string"])
def test_reserved_tokens_in_a_users_text_stay_text(
    family: str, with_image: bool, content: str, families: dict[str, GranulonProcessor]
) -> None:
    processor = families[family]
    text = f"What does {processor.image_token} or {processor.semantic_token}{processor.image_token} mean?"
    if content == "items":
        chat = ask(*([tiny.make_image()] if with_image else []), text)
    else:
        chat = [{"role": "user", "content": text}, {"role": "assistant", "content": "Nothing."}]
        chat += ask(tiny.make_image()) if with_image else []
    inputs = encode(processor, chat, add_generation_prompt=True)
    slots = expect_slots(processor.levels, 8, 8)[-1] if with_image else (0, 0)
    assert count_slots(processor, inputs["input_ids"]) == [slots]
    assert ("pixel_values" in inputs) == with_image
    words = [int(i) for i in inputs["input_ids"][0] if i not in processor.image_token_ids]
    assert text in processor.decode(words)
    special = [i for i in words if i in processor.tokenizer.added_tokens_decoder]
    plain = encode(
        processor,
        [*ask("harmless"), *chat[1:]] if content == "string" else ask("harmless"),
        add_generation_prompt=True,
    )
    kept = [int(i) for i in plain["input_ids"][0] if i not in processor.image_token_ids]
    assert special == [i for i in kept if i in processor.tokenizer.added_tokens_decoder]  # the template's own


def test_reserved_tokens_stay_text_in_a_batch(qwen: tuple[Any, GranulonProcessor]) -> None:
    model, processor = qwen
    text = f"Is {processor.semantic_token} in {processor.image_token}?"
    chats = [ask(tiny.make_image(0), text), ask("Nothing special"), ask(text, tiny.make_image(1), tiny.make_image(2))]
    inputs = encode(processor, chats, processor_kwargs={"granularity": ["fine", None, 0], "padding": True})
    fine, coarse = (expect_slots(processor.levels, 8, 8)[level] for level in (2, 0))
    wanted = [fine, (0, 0), (2 * coarse[0], 2 * coarse[1])]
    assert count_slots(processor, inputs["input_ids"]) == wanted
    assert count_consumed(model, inputs) == wanted
    for row in range(3):  # padding changes nothing else
        alone = encode(processor, chats[row], processor_kwargs={"granularity": ["fine", None, 0][row]})["input_ids"][0]
        padded = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        assert torch.equal(alone, padded)


def test_reserved_tokens_cannot_be_smuggled_in_pieces(processor: GranulonProcessor) -> None:
    for token in (processor.image_token, processor.semantic_token):
        chat = ask(token[:5], token[5:] + " in two items")
        inputs = encode(processor, chat)
        assert count_slots(processor, inputs["input_ids"]) == [(0, 0)]
        assert f"{token} in two items" in processor.decode(inputs["input_ids"][0])
    inputs = encode(processor, ask(processor.image_token[:5], tiny.make_image(), processor.image_token[5:]))
    assert count_slots(processor, inputs["input_ids"]) == [expect_slots(processor.levels, 8, 8)[-1]]


def test_the_librarys_marks_in_a_users_text_do_no_harm(processor: GranulonProcessor) -> None:
    start, end = chats_granulon.START, chats_granulon.END
    for text in (f"{start}{processor.image_token}{end}", f"{processor.image_token}{end}", f"<|image{start}_pad|>"):
        inputs = encode(processor, ask(text, tiny.make_image()))
        assert count_slots(processor, inputs["input_ids"]) == [expect_slots(processor.levels, 8, 8)[-1]]
        assert processor.image_token in processor.decode([i for i in inputs["input_ids"][0] if i < 256])


def test_rendered_text_shows_reserved_tokens_without_marks(processor: GranulonProcessor) -> None:
    text = processor.apply_chat_template(ask(f"What is {processor.semantic_token}?"))
    assert f"user\nWhat is {processor.semantic_token}?<|im_end|>" in text


@pytest.mark.parametrize("family", SNAPSHOTS)
@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_control_tokens_in_a_text_stay_text(family: str, role: str, families: dict[str, GranulonProcessor]) -> None:
    processor = families[family]
    tokenizer = processor.tokenizer
    for token in tokenizer.added_tokens_encoder:
        for text in (f"a {token}\nb", f"{token}{token}", f"{token[:4]}{token}{token[4:]}"):
            said, plain = ([{"role": role, "content": each}, *ask("Q", tiny.make_image())] for each in (text, "a b"))
            found, expected = (encode(processor, chat)["input_ids"][0].tolist() for chat in (said, plain))
            special = set(tokenizer.added_tokens_decoder)
            assert [i for i in found if i in special] == [i for i in expected if i in special]
            assert role == "tool" or text in processor.decode(found)


def test_control_tokens_of_a_role_a_tool_and_a_document_stay_text(processor: GranulonProcessor) -> None:
    template = (
        "{% for t in tools or [] %}{{ t.name }}{% endfor %}{% for d in documents or [] %}{{ d.text }}{% endfor %}"
        "{{ note }}{% for m in messages %}<|im_start|>{{ m.role + m.content + (m.name or '') }}<|im_end|>{% endfor %}"
    )
    options = {"tools": [{"name": "t<|im_end|>"}], "documents": [{"text": "d<|im_end|>"}], "note": "n<|im_end|>"}
    chat = [{"role": "r<|im_end|>", "content": "c<|im_end|>", "name": "<|im_end|>"}]
    found = encode(processor, chat, chat_template=template, sanitize_control_tokens=True, **options)["input_ids"][0]
    assert [int(i) for i in found].count(processor.tokenizer.eos_token_id) == 1
    words = "t<|im_end|>d<|im_end|>n<|im_end|><|im_start|>r<|im_end|>c<|im_end|><|im_end|><|im_end|>"
    assert processor.decode(found) == words


def test_what_an_assistant_thinks_keeps_its_tokens(processor: GranulonProcessor) -> None:
    tokenizer = processor.tokenizer
    template = tokenizer.chat_template + "{% if add_generation_prompt %}<think>{% endif %}"
    reasoning = tiny.make_granulon("qwen2")[1]
    reasoning.tokenizer.add_tokens(["<think>", "<tool>"], special_tokens=False)
    think, tool = reasoning.tokenizer.convert_tokens_to_ids(["<think>", "<tool>"])
    chat = [{"role": "user", "content": "<think>q<tool>"}, {"role": "assistant", "content": "<think>a<|im_end|>"}]
    ids = encode(reasoning, chat, chat_template=template)["input_ids"][0].tolist()
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    ends = encode(reasoning, said, chat_template=template)["input_ids"][0].tolist().count(tokenizer.eos_token_id)
    assert ids.count(tokenizer.eos_token_id) == ends
    assert ids.count(think) == 1 and ids.count(tool) == 1  # the assistant's; what no template writes is no control


@pytest.mark.parametrize("images", [0, 2])
def test_a_tokenizer_that_begins_texts_does_so_for_reserved_text_too(images: int) -> None:
    processor = tiny.make_granulon("llama", family="smollm2")[1]
    begin = ("<|endoftext|>", processor.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    processor.tokenizer._tokenizer.post_processor = TemplateProcessing("<|endoftext|> $A", None, [begin])
    processor.tokenizer.bos_token = begin[0]  # which the template does not write
    pictures = [tiny.make_image(seed) for seed in range(images)]
    rows = []
    for text in ("q", "q<|im_end|>"):
        chat = [*ask(*pictures, text), {"role": "assistant", "content": "Yes."}]
        inputs = encode(processor, chat, return_assistant_tokens_mask=True)
        assert inputs["input_ids"][0, 0] == begin[1] and (inputs["input_ids"] == begin[1]).sum() == 1
        assert processor.decode(inputs["input_ids"][0][inputs["assistant_masks"][0].bool()]) == "Yes.<|im_end|>"
        rows.append(inputs["input_ids"][0].tolist())
    place = len(rows[0]) - rows[0][::-1].index(processor.tokenizer.convert_tokens_to_ids("q"))
    assert rows[1] == rows[0][:place] + tokenize(processor.tokenizer, "<|im") + rows[1][place + 4 :]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("family", SNAPSHOTS)
def test_masks_of_a_chat_with_reserved_text(
    family: str, padding_side: str, families: dict[str, GranulonProcessor]
) -> None:
    processor, end = families[family], ENDS[family]
    for control in (processor.image_token, end, f"{end[:3]}{end}{end[3:]}"):
        said = f"No {control}, \u00e9."
        chats = [
            [
                {"role": "user", "content": f"{control}?"},
                {"role": "assistant", "content": said},
                *ask(control, tiny.make_image(), "and?"),
                {"role": "assistant", "content": control},
            ],
            ask("Short"),
        ]
        options = {"padding": True, "padding_side": padding_side}
        inputs = encode(processor, chats, return_assistant_tokens_mask=True, processor_kwargs=options)
        without = encode(processor, chats, processor_kwargs=options)
        assert torch.equal(inputs["input_ids"], without["input_ids"])
        masked = inputs["input_ids"][0][inputs["assistant_masks"][0].bool()]
        assert processor.decode(masked) == f"{said}{end}{control}{end}"
        assert not inputs["assistant_masks"][1].any()


def test_tokens_of_marked_text_cover_its_characters(families: dict[str, GranulonProcessor]) -> None:
    for processor in families.values():
        tokenizer = processor.tokenizer
        control = chats_granulon.control_tokens(tokenizer, processor.chat_template, ())
        text = f"{ENDS['qwen2']}\n" + chats_granulon.mark("a <|im_end|><|eot_id|> \u00e9 <repo_name>", control[0], "")
        ids, spans = chats_granulon.encode_with_offsets(tokenizer, text)
        assert ids == encode_marked_chat(tokenizer, text) and len(spans) == len(ids)
        plain = tokenizer("plain \u00e9 words", add_special_tokens=False, return_offsets_mapping=True)
        expected = (plain["input_ids"], plain["offset_mapping"])
        assert chats_granulon.encode_with_offsets(tokenizer, "plain \u00e9 words") == expected
        for token, (begin, end) in zip(ids, spans, strict=True):
            letters = chats_granulon.strip_marks(text[begin:end])
            assert tokenizer.decode([token]).strip("\ufffd") in letters


# ---------------------------------------------------------------------- what the assistant says


ENDS = {"qwen2": "<|im_end|>", "llama": "<|eot_id|>", "smollm2": "<|im_end|>"}


@pytest.mark.parametrize("family", ENDS)
def test_assistant_masks_are_its_text_and_its_end_of_turn(family: str, families: dict[str, GranulonProcessor]) -> None:
    processor, end = families[family], ENDS[family]
    chats = [
        [
            *ask(tiny.make_image(0), "What is it?", tiny.make_image(1)),
            {"role": "assistant", "content": "A cat, a dog."},
            *ask("Sure? assistant ", tiny.make_image(2)),
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        ],
        [
            {"role": "system", "content": "Be brief."},
            *ask("Hello"),
            {"role": "assistant", "content": "Hello"},
        ],
        ask(tiny.make_image(3), "Nobody answered."),
    ]
    wanted = [[f"A cat, a dog.{end}", f"Yes.{end}"], [f"Hello{end}"], []]
    for granularity in (None, "coarse"):
        options = {"padding": True, "granularity": granularity}
        inputs = encode(processor, chats, return_assistant_tokens_mask=True, processor_kwargs=options)
        assert inputs["assistant_masks"].shape == inputs["input_ids"].shape
        assert not bool((inputs["assistant_masks"] & (1 - inputs["attention_mask"])).any())
        for ids, mask, spans in zip(inputs["input_ids"], inputs["assistant_masks"], wanted, strict=True):
            assert processor.decode(ids[mask.bool()]) == "".join(spans)
            starts = torch.diff(mask, prepend=mask.new_zeros(1)) == 1
            assert int(starts.sum()) == len(spans)
    assert (inputs["attention_mask"] == 0).any()


def test_masks_follow_right_padding_too(processor: GranulonProcessor) -> None:
    chats = [[*ask(tiny.make_image(), "Long"), {"role": "assistant", "content": "Yes."}], ask("Short")]
    options = {"padding": True, "padding_side": "right"}
    inputs = encode(processor, chats, return_assistant_tokens_mask=True, processor_kwargs=options)
    assert inputs["attention_mask"][1, -1] == 0
    assert processor.decode(inputs["input_ids"][0][inputs["assistant_masks"][0].bool()]) == "Yes.<|im_end|>"


PROBES = [
    [{"role": "user", "content": "hi"}],
    [{"role": "user", "content": " hi\n"}, {"role": "assistant", "content": "\n\nyes "}],
    [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "1 < 2 {{ x }}"},
        {"role": "assistant", "content": "'quoted' {% y %}"},
        {"role": "user", "content": "and?"},
    ],
]


def read_official_template(name: str) -> str:
    """A model's own chat template, as TRL carries it."""
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize("source", ["qwen2_5", "llama3_2", *tiny.TEMPLATES])
def test_marked_templates_render_the_same_text(source: str) -> None:
    template = tiny.TEMPLATES.get(source) or read_official_template(source)
    family = "llama" if "llama" in source else "smollm2" if source == "smollm2" else "qwen2"
    tokenizer = tiny.make_tokenizer(family)
    marked = mark_assistant_turns(tokenizer, template)
    assert marked != template and "generation %}" in marked
    for chat in PROBES:
        for prompt in (False, True):
            rendered = [
                tokenizer.apply_chat_template(chat, chat_template=each, tokenize=False, add_generation_prompt=prompt)
                for each in (template, marked)
            ]
            assert rendered[0] == rendered[1]
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "an answer"}]
    inputs = tokenizer.apply_chat_template(
        chat, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    said = [i for i, mask in zip(inputs["input_ids"], inputs["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "an answer" + ENDS[family]
    assert mark_assistant_turns(tokenizer, marked) == marked  # once is enough


def test_templates_that_cannot_be_marked_safely_stay_as_they_are() -> None:
    tokenizer = tiny.make_tokenizer("qwen2")
    turn = "'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    spaced = "{% for message in messages %}x {{ " + turn + " }} {% endfor %}"  # marking would eat the spaces
    for template in (CHATML_LIKE, MISTRAL_LIKE, VICUNA_LIKE, spaced):
        assert mark_assistant_turns(tokenizer, template) == template


def test_an_unknown_template_gets_plain_strings() -> None:
    model, processor = tiny.make_granulon(chat_template=CHATML_LIKE, turn_end="</user>")
    assert processor.chat_template == CHATML_LIKE
    chat = [*ask("a ", tiny.make_image(), " b"), {"role": "assistant", "content": [{"type": "text", "text": "c"}]}]
    text = processor.apply_chat_template(chat)
    assert text == f"[<user>a {processor.image_token} b</user><assistant>c</assistant>]"
    inputs = encode(processor, chat)
    assert count_slots(processor, inputs["input_ids"]) == [expect_slots(processor.levels, 8, 8)[-1]]
    assert int(model(**inputs).granularity) >= 0  # the question was found through `turn_end`


# ---------------------------------------------------------------------- the ends of turns


def tokenize(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "family, ends, start",
    [
        ("qwen2", ["<|im_end|>", "<|im_end|>\n"], "<|im_start|>assistant\n"),
        ("smollm2", ["<|im_end|>", "<|im_end|>\n"], "<|im_start|>assistant\n"),
        ("llama", ["<|eot_id|>"], "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ],
)
def test_turn_ends_of_the_families(family: str, ends: list[str], start: str) -> None:
    tokenizer = tiny.make_tokenizer(family)
    for template in (tokenizer.chat_template, mark_assistant_turns(tokenizer, tokenizer.chat_template)):
        found, assistant_start = find_turn_ends(tokenizer, template)
        assert sorted(found) == sorted(tokenize(tokenizer, end) for end in ends)
        assert assistant_start == tokenize(tokenizer, start)


@pytest.mark.parametrize("template", [MISTRAL_LIKE, VICUNA_LIKE, CHATML_LIKE, None])
def test_turns_that_only_text_separates_have_no_ends(template: str | None) -> None:
    assert find_turn_ends(tiny.make_tokenizer("base"), template) == ([], [])


def test_a_special_token_before_the_answer_ends_the_question() -> None:
    tokenizer = tiny.make_tokenizer("base")
    tokenizer.add_tokens(["[INST]", "[/INST]"], special_tokens=True)
    ends, start = find_turn_ends(tokenizer, MISTRAL_LIKE)
    assert tokenize(tokenizer, "[/INST]") in ends and [] not in ends
    assert all(sequence[0] in tokenizer.added_tokens_decoder for sequence in ends)
    assert not any(i in tokenizer.added_tokens_decoder for i in start)


def test_templates_that_drop_a_turn_have_no_ends() -> None:
    last_only = "{{ '<|im_start|>' + messages[-1]['content'] + '<|im_end|>' }}"
    assert find_turn_ends(tiny.make_tokenizer("qwen2"), last_only) == ([], [])


@pytest.mark.parametrize("family", ["qwen2", "llama", "smollm2", "base"])
def test_a_missing_template_is_chosen_by_the_vocabulary(family: str) -> None:
    tokenizer = tiny.make_tokenizer(family, template=None)
    template = default_chat_template(tokenizer.get_vocab())
    if family == "base":
        assert template is None
        return
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
    own = tokenizer.apply_chat_template(
        [{"role": "system", "content": "s"}, *chat],
        chat_template=tiny.TEMPLATES[family],
        tokenize=False,
        add_generation_prompt=True,
    )
    system = {"llama": "<|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"}
    assert text == own.replace(system.get(family, "<|im_start|>system\ns<|im_end|>\n"), "")
    marked = mark_assistant_turns(tokenizer, template)
    assert marked != template and find_turn_ends(tokenizer, marked)[0]


# ---------------------------------------------------------------------- saving


@pytest.mark.parametrize("family", SNAPSHOTS)
def test_a_saved_processor_gives_the_same_inputs(
    family: str, families: dict[str, GranulonProcessor], tmp_path: Path
) -> None:
    processor = families[family]
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(reloaded) is GranulonProcessor
    assert {**reloaded.to_dict(), "auto_map": None} == {**processor.to_dict(), "auto_map": None}
    for name in ("levels", "patch_size", "image_size", "image_token_ids", "image_token", "semantic_token"):
        assert getattr(reloaded, name) == getattr(processor, name)
    chat = [*ask(tiny.make_image(), "What?"), {"role": "assistant", "content": "Yes."}]
    for options in ({}, {"processor_kwargs": {"granularity": "fine"}}, {"return_assistant_tokens_mask": True}):
        expected, inputs = (encode(each, chat, **options) for each in (processor, reloaded))
        assert set(inputs) == set(expected)
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(inputs[name]), torch.as_tensor(value))
    saved = (tmp_path / "processor_config.json").read_text()
    assert "image_token_id" not in saved
