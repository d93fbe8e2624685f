"""What a tokenizer's chat template needs to serve Granulon: marked assistant turns, and known ends of turns."""

import re
from typing import Any


_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# The expression that writes a whole turn in the templates of Qwen2.5, Llama 3 and SmolLM2.
_TURN = re.compile(
    r"""\{\{-?\s*'(?P<open>[^']*)'\s*\+\s*(?P<role>message(?:\['role'\]|\.role))\s*\+\s*'(?P<middle>[^']*)'\s*\+\s*
    (?P<content>message(?:\['content'\]|\.content)(?:\s*\|\s*trim)?)\s*\+\s*'(?P<close>[^']*)'
    (?:\s*\+\s*'(?P<tail>[^']*)')?\s*-?\}\}""",
    re.VERBOSE,
)
_PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "a"}],
    [
        {"role": "system", "content": " s "},
        {"role": "user", "content": " a\n"},
        {"role": "assistant", "content": " b "},
    ],
    [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)],
)


def default_chat_template(vocabulary: dict[str, int]) -> str | None:
    """A template for a tokenizer that has none, where its vocabulary tells which: ChatML or Llama 3."""
    if {"<|im_start|>", "<|im_end|>"} <= vocabulary.keys():
        return _CHATML
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= vocabulary.keys():
        return _LLAMA3
    return None


def mark_assistant_turns(tokenizer: Any, template: str) -> str:
    """
    The template with `{% generation %}` around what the assistant says, end of turn included, so that
    `return_assistant_tokens_mask=True` works. It renders the same text: this is verified, and a template that cannot
    be changed without changing its text is returned as it is.
    """
    if "generation %}" in template or "generation -%}" in template:
        return template

    def mark(found: re.Match) -> str:
        opened = f"'{found['open']}' + {found['role']} + '{found['middle']}'"
        said = f"{{{{- {found['content']} + '{found['close']}' }}}}"
        return (
            f"{{{{- {opened} }}}}{{%- if {found['role']} == 'assistant' %}}"
            f"{{%- generation %}}{said}{{%- endgeneration %}}{{%- else %}}{said}{{%- endif %}}"
            f"{{{{- '{found['tail'] or ''}' }}}}"
        )

    marked, count = _TURN.subn(mark, template)
    if count == 0:
        return template
    for probe in _PROBES:
        for prompt in (False, True):
            texts = {
                tokenizer.apply_chat_template(
                    probe, chat_template=candidate, tokenize=False, add_generation_prompt=prompt
                )
                for candidate in (template, marked)
            }
            if len(texts) > 1:
                return template
    return marked


def find_turn_ends(tokenizer: Any, template: str | None) -> tuple[list[list[int]], list[int]]:
    """
    How turns end and how the assistant's begin, from rendering user, assistant and user sentinels.

    Returns:
        token sequences that end a turn: the first special token after a turn's text, alone and with the white space
        that follows it; and the tokens between the end of a user's turn and the assistant's text. Both are empty where
        no special token separates a user's turn from the answer.
    """
    if template is None:
        return [], []
    sentinels = ["sentinelone", "sentineltwo", "sentinelthree"]
    chat = [
        {"role": role, "content": text} for role, text in zip(["user", "assistant", "user"], sentinels, strict=True)
    ]
    rendered = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False)
    first, second, third = (rendered.find(sentinel) for sentinel in sentinels)
    if not 0 <= first < second < third:
        return [], []
    ends: list[list[int]] = []
    assistant_start: list[int] = []
    special = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    for start, stop in ((first + len(sentinels[0]), second), (second + len(sentinels[1]), third)):
        ids = tokenizer(rendered[start:stop], add_special_tokens=False)["input_ids"]
        begin = next((place for place, token_id in enumerate(ids) if token_id in special), None)
        if begin is None:
            if start < second:
                return [], []
            continue
        stop_at = begin + 1
        while stop_at < len(ids) and ids[stop_at] not in special and not tokenizer.decode([ids[stop_at]]).strip():
            stop_at += 1
        if start < second:
            assistant_start = ids[stop_at:]
        for sequence in (ids[begin : begin + 1], ids[begin:stop_at]):
            if sequence not in ends:
                ends.append(sequence)
    return ends, assistant_start
