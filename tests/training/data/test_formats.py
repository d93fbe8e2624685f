"""Formats of rows: each one's example is read, and every source of the same rows gives the same."""

import json
import re
from pathlib import Path

import pytest
from data_tools import pixels, simple_rows, texts, write_chat
from datasets import Dataset
from tiny import make_image

from granulon.training.data import FORMATS, load_training_data
from granulon.training.data.formats import formats_named


pytestmark = pytest.mark.usefixtures("own_cache")

GUIDE = Path(__file__).parents[3] / "docs" / "training.md"
READ = [("user", ["[image]", "What is it?"]), ("assistant", ["A dog."])]
EXAMPLES = {  # by the name of the format
    "llava": {
        "image": "1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A dog."},
        ],
    },
    "messages": {
        "images": ["1.png"],
        "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A dog."}],
    },
    "prompt-completion": {"image": "1.png", "prompt": "What is it?", "completion": "A dog."},
    "question-answer": {"image": "1.png", "question": "What is it?", "answer": "A dog."},
    "surgical": {"image": "1.png", "question": "What is it?", "answer": "A dog.", "task": "phase"},
}


@pytest.mark.parametrize("format", [each.name for each in FORMATS])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_format_is_read(tmp_path, format, streaming):
    folder = write_chat(tmp_path / "photos", [EXAMPLES[format]])
    (row,) = load_training_data(folder, format=format, streaming=streaming).dataset
    assert texts(row) == READ and pixels(row) == [make_image(1).tobytes()]
    if format in [each.name for each in formats_named("auto")]:
        (guessed,) = load_training_data(folder, streaming=streaming).dataset
        assert texts(guessed) == READ


def test_a_named_format_takes_no_other(tmp_path):
    folder = write_chat(tmp_path / "photos", list(EXAMPLES.values()))
    data = load_training_data(folder, format="messages", on_bad_row="skip")
    assert [index for index, _ in data.bad_rows.rows] == [0, 2, 3, 4]
    assert "expected `messages`; with" in data.bad_rows.rows[0][1]


def test_the_guide_shows_every_format(tmp_path):
    table = re.findall(r"^\| (.*?) \| `(\{.*\})` \|$", GUIDE.read_text(encoding="utf-8"), re.M)
    named = [name for label, _ in table for name in re.findall(r"`([\w-]+)`", label)[:1]]
    assert [name for name in named if name in EXAMPLES] == [each.name for each in FORMATS]
    for label, row in table:
        is_caption = label.startswith("captions")
        options = {"question": "What is it?", "columns": {"answer": "caption"}} if is_caption else {}
        options |= {"format": "surgical"} if "surgical" in label else {}
        data = load_training_data(write_chat(tmp_path / str(len(label)), [json.loads(row)]), **options)
        assert texts(data.dataset[0])[0][1][0] == "[image]" and data.num_rows == 1


def test_other_forms_give_the_same_rows(tmp_path):
    folder = write_chat(tmp_path / "photos", simple_rows(3))
    expected = [(texts(row), pixels(row)) for row in load_training_data(folder).dataset]

    def check(source, **options):
        data = load_training_data(source, **options)
        assert [(texts(row), pixels(row)) for row in data.dataset] == expected

    plain = [(f"What is {index}?", f"it is {'x' * (index % 3)}{index}") for index in range(3)]
    images = [make_image(index) for index in range(3)]
    check(
        Dataset.from_list(
            [
                {
                    "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
                    "images": [image],
                }
                for (q, a), image in zip(plain, images, strict=True)
            ]
        )
    )
    split = Dataset.from_list(
        [{"prompt": q, "completion": a, "image": image} for (q, a), image in zip(plain, images, strict=True)]
    )
    check(split)
    split.to_parquet(tmp_path / "rows.parquet")
    check(tmp_path / "rows.parquet")
    split.save_to_disk(tmp_path / "saved")
    check(tmp_path / "saved")
    lines = [{"question": q, "caption": a, "image": f"{place}.png"} for place, (q, a) in enumerate(plain)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    check(file, images=folder / "images", columns={"answer": "caption"})


def test_captions_get_a_question(tmp_path):
    rows = Dataset.from_list([{"image": make_image(0), "caption": "a dog"}])
    data = load_training_data(rows, columns={"answer": "caption"}, question="Describe the image.")
    assert texts(data.dataset[0]) == [("user", ["[image]", "Describe the image."]), ("assistant", ["a dog"])]


def test_surgical_lines(tmp_path):
    make_image(0).save(tmp_path / "0.png")
    good = {"image": "0.png", "question": "Which phase?", "answer": "dissection", "task": "phase"}
    lines = [good, {**good, "task": "weather"}, {"question": "Q?", "answer": "a", "task": "instrument"}]
    file = tmp_path / "frames.jsonl"
    file.write_text("\n".join([json.dumps(line) for line in lines] + ["{not json"]))
    data = load_training_data(file, format="surgical", on_bad_row="skip")
    assert data.dataset["task"][:] == ["phase"]
    found = dict(data.bad_rows.rows)
    assert "'weather'" in found[1] and "no image" in found[2] and "not JSON" in found[3]
