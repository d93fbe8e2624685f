"""A question about an image as tensors: the one home of what every caller would else write by hand."""

import pytest
import torch
from tiny import make_granulon, make_image

from granulon.chats import chat_inputs, question_chat


@pytest.fixture(scope="module")
def processor():
    return make_granulon()[1]


@pytest.fixture(scope="module")
def base_processor():
    """Of a language model without a chat template."""
    processor = make_granulon()[1]
    processor.chat_template = processor.tokenizer.chat_template = None
    return processor


def test_one_question_is_the_chat_with_a_generation_prompt(processor):
    image = make_image(3)
    inputs = chat_inputs(processor, "What is it?", image, granularity="fine")
    expected = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"granularity": "fine"},
    )
    assert set(inputs) == set(expected) >= {"input_ids", "attention_mask", "pixel_values", "granularity"}
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_a_batch_is_its_questions_one_by_one_padded(processor):
    questions, images = ["What is it?", "And where?", "Hm?"], [make_image(1), None, make_image(2)]
    levels = ["coarse", "auto", 2]
    batch = chat_inputs(processor, questions, images, granularity=levels)
    for row, (question, image, level) in enumerate(zip(questions, images, levels, strict=True)):
        single = chat_inputs(processor, question, image, granularity=level)
        kept = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][kept], single["input_ids"][0])
        assert int(batch["granularity"][row]) == (int(single["granularity"][0]) if "granularity" in single else -1)
    assert len(batch["pixel_values"]) == 2
    assert "pixel_values" not in chat_inputs(processor, questions)


def test_another_number_of_images_than_questions_is_refused(processor):
    with pytest.raises(ValueError, match="1 images came with 2 questions"):
        chat_inputs(processor, ["What?", "Where?"], [make_image()])


def test_a_model_without_a_chat_template_is_asked_in_plain_text(base_processor):
    image = make_image(3)
    inputs = chat_inputs(base_processor, "What is it?", image)
    expected = base_processor(images=image, text=f"{base_processor.image_token}\nWhat is it?\n", return_tensors="pt")
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    text_only = chat_inputs(base_processor, "What is it?")
    assert torch.equal(text_only["input_ids"], base_processor(text="What is it?\n", return_tensors="pt")["input_ids"])


@pytest.mark.parametrize("kind", ["processor", "base_processor"])
def test_a_placeholder_in_a_question_stays_text(kind, request):
    processor = request.getfixturevalue(kind)
    inputs = chat_inputs(processor, f"What is {processor.image_token}?", make_image(), granularity="coarse")
    plain = chat_inputs(processor, "What is it?", make_image(), granularity="coarse")
    assert len(inputs["pixel_values"]) == 1
    count = [(each["input_ids"] == processor.image_token_id).sum() for each in (inputs, plain)]
    assert count[0] == count[1]


def test_the_messages_are_a_pipelines(processor):
    chat = question_chat("What is it?", make_image())
    assert processor.image_token in processor.apply_chat_template(chat)
    assert [part["type"] for part in question_chat("Hi")[0]["content"]] == ["text"]
