"""
Chats that no one should send: a message or a field of the wrong kind or missing, texts made of control tokens.

Allowed are a `TypeError` or a `ValueError` that names the message, the chat or the whole conversation. A chat that is
taken must have exactly the control tokens that the same chat has with an `x` in place of each one in its texts.
"""

import copy
import random
import re
from functools import cache
from typing import Any

import tiny
from PIL import Image
from tokenizers.processors import TemplateProcessing

from granulon.processing.chats_granulon import END, START


ALLOWED = (TypeError, ValueError)
COUNT = 1500

NAMED = re.compile(r"[Mm]essage \d|[Cc]hat \d|`conversation`|continue_final_message|image placeholders|is empty")
FAMILIES = {"qwen2": "qwen2", "llama": "llama", "smollm2": "llama", "begins": "llama"}
JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    2.5,
    float("nan"),
    "",
    b"raw",
    (),
    [],
    {},
    [[]],
    [None],
    {"type": "text"},
    object,
    {1: 2},
]
KEYS = ["role", "content", "type", "text", "image", "image_url", "url", "path", "tool_calls", "name", "reasoning", 7]


@cache
def load(family: str) -> Any:
    """The processor of a family; the tokenizer of `begins` writes a token before each text."""
    processor = tiny.make_granulon(FAMILIES[family], family="smollm2" if family == "begins" else family)[1]
    if family == "begins":
        begin = ("<|endoftext|>", processor.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
        processor.tokenizer._tokenizer.post_processor = TemplateProcessing("<|endoftext|> $A", None, [begin])
        processor.tokenizer.bos_token = begin[0]  # which the template does not write
    return processor


def control_words(family: str) -> list[str]:
    names = tiny.SPECIAL_TOKENS["smollm2" if family == "begins" else family]
    return [*names, "user", "assistant", "\n", START, END]


def make_text(rng: random.Random, family: str) -> str:
    words = control_words(family)
    text = "".join(rng.choice([*words, "what", " ", "é", "\U0001f600", "\0", "{{ x }}", "{% if %}"]) for _ in range(5))
    if rng.random() < 0.4:  # a token within a token
        outer, inner = rng.choice(words), rng.choice(words)
        cut = rng.randrange(len(outer) + 1)
        text += outer[:cut] + inner + outer[cut:]
    return text + ("\ud83d" if rng.random() < 0.02 else "")


def make_item(rng: random.Random, family: str) -> Any:
    if rng.random() < 0.5:
        return {"type": "text", "text": make_text(rng, family)}
    if rng.random() < 0.8:
        return {"type": "image", "image": Image.new("RGB", (rng.randint(1, 9), rng.randint(1, 9)))}
    named = {"type": "image_url", "image_url": {"url": rng.choice(["data:image/png;base64,AAAA", "nowhere.png"])}}
    return rng.choice([{"type": "image"}, named])


def make_chat(rng: random.Random, family: str) -> list[Any]:
    roles = ["user", "assistant"] * rng.randint(1, 2)
    if rng.random() < 0.3:
        roles.insert(0, "system")
    return [
        {
            "role": role,
            "content": make_text(rng, family)
            if rng.random() < 0.5
            else [make_item(rng, family) for _ in range(rng.randint(0, 3))],
        }
        for role in roles
    ]


def mutate(rng: random.Random, value: Any, family: str) -> Any:
    """`value` with something in it, or all of it, replaced, removed or added."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        action = rng.random()
        if action < 0.15:
            del value[key]
        elif action < 0.3 and isinstance(value, dict):
            value[rng.choice(KEYS)] = copy.deepcopy(rng.choice([*JUNK, make_text(rng, family)]))
        else:
            value[key] = mutate(rng, value[key], family)
        return value
    others = [*JUNK, make_text(rng, family), make_item(rng, family), [value], {"text": value}]
    return copy.deepcopy(rng.choice(others))  # the next mutation changes it


def make(rng: random.Random) -> dict[str, Any]:
    family = rng.choice(list(FAMILIES))
    conversation: Any = make_chat(rng, family)
    for _ in range(rng.choice([0, 0, 1, 2])):
        conversation = mutate(rng, conversation, family)
    if rng.random() < 0.2:
        conversation = [conversation, make_chat(rng, family)]
    options = {
        "tokenize": rng.random() < 0.8,
        "add_generation_prompt": rng.random() < 0.3,
        "return_assistant_tokens_mask": rng.random() < 0.3,
    }
    return {"family": family, "conversation": conversation, "options": options}


def neutral(value: Any, control: re.Pattern[str]) -> Any:
    """The value with an `x` in place of each control token in its texts."""
    if isinstance(value, str):
        return control.sub("x", value.replace(START, "").replace(END, ""))
    if isinstance(value, dict):
        return {key: neutral(item, control) for key, item in value.items()}
    return [neutral(item, control) for item in value] if isinstance(value, list | tuple) else value


def run(case: dict[str, Any]) -> None:
    processor, options = load(case["family"]), case["options"]
    try:
        found = encode(processor, case["conversation"], options)
    except ALLOWED as error:
        assert NAMED.search(str(error)), f"{type(error).__name__} that names no message: {error}"
        raise
    names = sorted(processor.tokenizer.added_tokens_encoder, key=len, reverse=True)
    control = re.compile("|".join(map(re.escape, names)))
    expected = encode(processor, neutral(case["conversation"], control), options)
    if not options["tokenize"]:
        assert not any(sign in text for text in found for sign in (START, END))
        return
    special = set(processor.tokenizer.added_tokens_decoder)
    for row, wanted in zip(found, expected, strict=True):
        kept, wanted = ([token for token in ids if token in special] for ids in (row, wanted))
        assert kept == wanted, f"{kept} instead of {wanted}"


def encode(processor: Any, conversation: Any, options: dict[str, Any]) -> list[Any]:
    output = processor.apply_chat_template(conversation, return_dict=True, **options)
    if not options["tokenize"]:
        return [output] if isinstance(output, str) else output
    if options["return_assistant_tokens_mask"]:
        pairs = zip(output["input_ids"], output["assistant_masks"], strict=True)
        assert all(len(ids) == len(mask) for ids, mask in pairs)
    return output["input_ids"]
