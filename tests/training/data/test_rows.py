"""The reader of rows is total: a row is good, or it is a bad row with its index and the reason."""

import json

import pytest
from data_tools import chat_row, write_chat
from datasets import Dataset, Features, Image, List, Value
from tiny import make_granulon, make_image

from granulon.training.data import BadRowError, load_training_data
from granulon.training.data.formats import formats_named
from granulon.training.data.rows import RowReader


pytestmark = pytest.mark.usefixtures("own_cache")

GOOD = {"image": "0.png", "question": "What?", "answer": "a"}


def ask(content) -> dict:
    return {
        "image": "0.png",
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}],
    }


BAD_ROWS = {
    "null": (None, "is a NoneType"),
    "a list": ([GOOD], "is a list"),
    "zero byte in a name": ({**GOOD, "image": "0\0.png"}, "zero byte in the name"),
    "surrogate in a name": ({**GOOD, "image": "\ud800.png"}, "surrogate"),
    "endless name": ({**GOOD, "image": "x" * 10_000}, "cannot be read"),
    "a folder": ({**GOOD, "image": "."}, "is not a file"),
    "bytes that are text": ({**GOOD, "image": {"bytes": "abc"}}, "`bytes` are 'abc'"),
    "bytes that are numbers": ({**GOOD, "image": {"bytes": [1, 2]}}, "`bytes` are [1, 2]"),
    "an image in a list in a list": ({**GOOD, "image": [["0.png"]]}, "has the image ['0.png']"),
    "a file's address": ({**GOOD, "image": "file:///0.png"}, "pass its path"),
    "another address": ({**GOOD, "image": "HTTPS://x/0.png"}, "download it first"),
    "zero byte in a text": ({**GOOD, "question": "a\0b"}, "zero byte in a text"),
    "surrogate in a text": ({**GOOD, "answer": "\udc80"}, "surrogate"),
    "number as question": ({**GOOD, "question": 5}, "has the content 5"),
    "object as answer": ({**GOOD, "answer": {"text": "a"}}, "has the content {'text': 'a'}"),
    "number as text": (ask([{"type": "text", "text": 5}]), "has 5 as a text"),
    "list as type": (ask([{"type": []}]), "type []"),
    "texts without type": (ask(["What?"]), "has the content ['What?']"),
    "text as index": (ask([{"type": "image", "index": "0"}, {"type": "text", "text": "What?"}]), "`index` '0'"),
    "list as role": ({"image": "0.png", "messages": [{"role": ["user"], "content": "a"}]}, "a turn of ['user']"),
    "text as messages": ({"image": "0.png", "messages": "What?"}, "expected a list of turns"),
    "object as conversations": ({"image": "0.png", "conversations": {"from": "human"}}, "expected a list of turns"),
    "system in the end": (
        {**ask("What?"), "messages": [*ask("What?")["messages"], {"role": "system", "content": "Stop."}]},
        "system turn that no question follows",
    ),
    "image of the system": (
        {
            "image": "0.png",
            "messages": [{"role": "system", "content": [{"type": "image"}]}, *ask("What?")["messages"]],
        },
        "image in its system turn",
    ),
    "nested labels": ({**GOOD, "granularity_labels": [[1.0], 0, 0, 0]}, "granularity_labels"),
    "labels that are no number": ({**GOOD, "granularity_labels": [float("nan"), 1, 0, 0]}, "granularity_labels"),
    "object as granularity": ({**GOOD, "granularity": {}}, "granularity {}"),
    "granularity out of range": ({**GOOD, "granularity": 10**30}, "has the granularity"),
    "yes as granularity": ({**GOOD, "granularity": True}, "granularity True"),
}


@pytest.fixture(scope="module")
def processor():
    return make_granulon()[1]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_malformed_row_is_a_bad_row(tmp_path, kind, streaming):
    row, words = BAD_ROWS[kind]
    data = load_training_data(
        write_chat(tmp_path / "photos", [GOOD, row, GOOD]), on_bad_row="skip", streaming=streaming
    )
    assert len(list(data.dataset)) == 2
    ((index, reason),) = data.bad_rows.rows
    assert index == 1 and words in reason, reason
    assert data.bad_rows.report().encode()  # a reason can be printed


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"question": ' + b"[" * 20_000 + b'",]"' + b"]" * 20_000 + b"}", "recursion"),
        (b'{"image": "0.png", "question": "a", "answer": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"image": "0.png", "question": "\xff", "answer": "a"}', "not UTF-8"),
    ],
    ids=["brackets", "digits", "bytes"],
)
def test_a_row_that_cannot_be_parsed_is_no_other_rows_end(tmp_path, ending, streaming, text, words):
    folder = write_chat(tmp_path / "photos", [])
    good = json.dumps(GOOD).encode()
    file = tmp_path / f"rows{ending}"
    file.write_bytes((b"[%s , %s,%s]" if ending == ".json" else b"%s\n%s\n\n%s") % (good, text, good))
    data = load_training_data(file, images=folder / "images", on_bad_row="skip", streaming=streaming)
    assert len(list(data.dataset)) == 2
    ((index, reason),) = data.bad_rows.rows
    assert index == 1 and words in reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1},]', "is not JSON: Expecting value"),
        ('[{"a": 1} {"a": 1}]', "is not JSON: Expecting ',' delimiter"),
        ('[{"a": 1}', "is not JSON: Expecting ',' delimiter"),
        ("[] []", "is not JSON: Extra data"),
        ('{"a": 1}\n{"a": 1}', r"One object per line is a \.jsonl file"),
        (" [ ] ", "no usable row"),
    ],
)
def test_a_file_that_is_no_list_of_rows_is_refused(tmp_path, text, words):
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_training_data(file, on_bad_row="skip")


def test_whatever_breaks_inside_is_a_bad_row(monkeypatch):
    reader = RowReader(formats_named("auto"))

    def fail(*arguments):
        raise MemoryError("out of it")

    monkeypatch.setattr("granulon.training.data.rows.place_images", fail)
    with pytest.raises(BadRowError, match="cannot be read .MemoryError: out of it"):
        reader.read({**GOOD, "image": make_image()})


def test_a_chat_that_the_template_refuses_is_a_bad_row(tmp_path):
    processor = make_granulon()[1]
    processor.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system here!') }}{% endif %}"
        "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    )
    instructed = {**ask("What?"), "messages": [{"role": "system", "content": "Be brief."}, *ask("What?")["messages"]]}
    folder = write_chat(tmp_path / "photos", [GOOD, instructed])
    data = load_training_data(folder, on_bad_row="skip", processor=processor)
    ((index, reason),) = data.bad_rows.rows
    assert index == 1 and "prompt" in reason and "No system here!" in reason


def test_rows_of_a_table_keep_their_faults_to_themselves():
    stored = {"bytes": b"broken", "path": None}
    rows = [{"nested": [{"picture": stored}], "image": stored, "question": "What?", "answer": "a"}]
    rows.append({**rows[0], "image": make_image(1)})
    features = Features(
        {
            "nested": List({"picture": Image()}),  # of which no row asks
            "image": Image(),
            "question": Value("string"),
            "answer": Value("string"),
        }
    )
    data = load_training_data(Dataset.from_list(rows, features=features), on_bad_row="skip")
    assert data.num_rows == 1
    assert [index for index, _ in data.bad_rows.rows] == [0]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_and_levels_are_kept(tmp_path, processor, streaming):
    weights = [0.5, 0.25, 0.125, 0.125]
    rows = [
        chat_row("A?", "a", image="0.png", granularity_labels=weights),
        chat_row("B?", "b", image="1.png", granularity=processor.level_names[2]),
        chat_row("C?", "c", image="2.png"),
    ]
    data = load_training_data(write_chat(tmp_path / "photos", rows), streaming=streaming, processor=processor)
    read = list(data.dataset)
    assert [row["granularity_labels"] for row in read] == [weights, None, None]
    assert [row["granularity"] for row in read] == [-1, 2, -1]


def test_labels_are_rebinned_to_the_models_levels(tmp_path, processor):
    rows = [chat_row("A?", "a", image="0.png", granularity_labels=[0.5, 0.5, 0, 0, 0, 0, 0.0, 0.0])]
    data = load_training_data(write_chat(tmp_path / "photos", rows), processor=processor)
    assert data.dataset[0]["granularity_labels"] == [1.0, 0.0, 0.0, 0.0]


def test_bad_labels_and_reserved_tokens_are_bad_rows(tmp_path, processor):
    rows = [
        chat_row("A?", "a", image="0.png"),
        chat_row("B?", "b", image="0.png", granularity_labels=[0.5, 0.1, 0.1, 0.1]),
        chat_row("C?", "c", image="0.png", granularity="microscopic"),
        chat_row(f"D{processor.image_token}?", "d", image="0.png"),
    ]
    folder = write_chat(tmp_path / "photos", rows)
    data = load_training_data(folder, on_bad_row="skip", processor=processor)
    found = dict(data.bad_rows.rows)
    assert sorted(found) == [1, 2, 3]
    assert "granularity_labels" in found[1] and "'microscopic'" in found[2] and "reserved" in found[3]
