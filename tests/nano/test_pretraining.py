"""Packed reading asks every question as if it stood alone."""

import pytest
import torch
from PIL import Image
from pretrain_encoder import make_encoder
from pretrain_language import LEVELS, PackedReader, Pictures, make_language_model, make_tokenizer, word_tokens

from granulon import GranulonForConditionalGeneration
from granulon.chats import chat_inputs


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model, processor = GranulonForConditionalGeneration.from_backbones(
        make_encoder(), make_language_model(tokenizer), tokenizer=tokenizer, levels=LEVELS, initializer_range=0.07
    )
    model.model.multi_modal_projector.gate.data.fill_(1.0)
    return model, processor


@torch.no_grad()
def test_packed_logits_are_those_of_ordinary_prompts(parts):
    model, processor = parts
    data = Pictures(processor.tokenizer, "train", 0, 3, 0, easy_share=0)
    batch = [data[index] for index in range(3)]
    logits, labels, *_ = PackedReader(model, processor.tokenizer)(batch)
    levels = set()
    place = 0
    for item in batch:
        image = Image.fromarray(item["pixels"].numpy())
        for _, answer, row in item["branches"]:
            levels.add(row["granularity"])
            inputs = chat_inputs(processor, row["question"], image, granularity=row["granularity"])
            input_ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
            output = model(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                pixel_values=inputs["pixel_values"],
                granularity=inputs["granularity"],
            )
            expected = output.logits[0, -len(answer) - 1 : -1]
            assert labels[place : place + len(answer)].tolist() == answer
            torch.testing.assert_close(logits[place : place + len(answer)], expected, rtol=1e-4, atol=1e-4)
            place += len(answer)
    assert place == len(labels) and levels == {"coarse", "medium", "fine"}


def test_the_words_of_the_tasks_are_one_token_each(parts):
    tokenizer = parts[1].tokenizer
    assert all(len(ids.unique()) == len(ids) for spellings in word_tokens(tokenizer).values() for ids in spellings)
    text = "Is the Quokka's badge légible?"
    assert tokenizer.decode(tokenizer.encode(text)) == text.lower()  # other words are in pieces, none is lost
