"""How answers are read. VQA's cases are what its vqaEval.py makes of them."""

import pytest

from granulon.evaluation.metrics.text import (
    caption_words,
    evalai_answer,
    letter_index,
    option_index,
    plain_answer,
    vqa_answer,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Two dogs!", "2 dogs"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("black-and-white", "black and white"),
        ("black- white", "black white"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("U.S.", "us"),
        ("a/b", "b"),
    ],
)
def test_vqa_answers(text: str, expected: str):
    assert vqa_answer(text) == expected


def test_evalai_answers():
    assert evalai_answer("What's\nthat, then?") == "what 's that then"


def test_plain_answers():
    assert plain_answer("  Two\n Dogs. ") == "two dogs" and plain_answer("U.S.") == "u.s"


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "b.",
        "B. a cat",
        "B) a cat",
        "B: a cat",
        "B\nsince",
        "The answer is B",
        "Answer: (b)",
        "Answer:B",
    ]
    + ["**B**", "The correct option is **B**.", "I think (B) is right", "option B, not A", "the answer is b."],
)
def test_letters(text: str):
    assert letter_index(text, 4) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "E",
        "A cat",
        "a dog",
        "The answer is a cat",
        "Bees",
        "none",
        "Both (a)nd (B), or (C)",
        "I see Big Cats",
        "1",
    ],
)
def test_no_letter(text: str):
    assert letter_index(text, 4) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red.", 0),
        ("it is a red bus", 1),
        ("red or blue", None),
        ("reddish", None),
        ("", None),
        ("a bus that is red", 0),
    ],
)
def test_options(text: str, expected: int | None):
    assert option_index(text, ["red", "red bus", "blue"]) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man's dog can't sit.", "a man 's dog ca n't sit"),
        ("A sign reads “STOP” (in white). Snow lies on it.", "a sign reads stop in white snow lies on it"),
        ("A well-worn T-shirt costs $5.99!", "a well-worn t-shirt costs $ 5.99"),
        ("Well… – no.", "well no"),
    ],
)
def test_caption_words(caption: str, expected: str):
    assert " ".join(caption_words(caption)) == expected
