"""Readers of training data: every form gives the same rows, and every bad row is named with its reason."""

from pathlib import Path

import pytest
from data_tools import chat_row, pixels, simple_rows, texts, write_chat
from datasets import Dataset
from tiny import make_image

from granulon.training.data import BadRowError, combine, load_training_data, split_by_image


pytestmark = pytest.mark.usefixtures("own_cache")


def test_chat_json_single_turns(tmp_path):
    data = load_training_data(write_chat(tmp_path / "photos", simple_rows(4)))
    assert (data.layout, data.num_rows, data.name) == ("prompt-completion", 4, "photos")
    assert sorted(data.dataset.column_names) == ["completion", "images", "prompt"]
    assert texts(data.dataset[1]) == [("user", ["[image]", "What is 1?"]), ("assistant", ["it is x1"])]
    assert pixels(data.dataset[1]) == [make_image(1).tobytes()]
    assert data.provenance() == {"name": "photos", "num_rows": 4, "fingerprint": data.fingerprint}


def test_chat_json_several_turns_and_images(tmp_path):
    rows = [
        chat_row("Compare.", "alike", "And now?", "still alike", image=["2.png", "0.png"]),
        chat_row("One?", "one", image="images/1.png"),
        chat_row("No image?", "none"),
    ]
    data = load_training_data(write_chat(tmp_path / "photos", rows))
    assert data.layout == "messages"
    assert texts(data.dataset[0]) == [
        ("user", ["[image]", "[image]", "Compare."]),
        ("assistant", ["alike"]),
        ("user", ["And now?"]),
        ("assistant", ["still alike"]),
    ]
    assert pixels(data.dataset[0]) == [make_image(2).tobytes(), make_image(0).tobytes()]
    assert pixels(data.dataset[1]) == [make_image(1).tobytes()]
    assert data.dataset[2]["images"] == []


def broken_folder(folder: Path) -> tuple[Path, dict[int, str]]:
    """A folder in which rows 1 to 8 are bad, each for one reason."""
    rows = [
        chat_row("Good?", "good", image="0.png"),
        chat_row("Missing?", "no", image="absent.png"),
        chat_row("Cut?", "no", image="cut.png"),
        chat_row("Escape?", "no", image="../../outside.png"),
        chat_row("Empty?", " ", image="1.png"),
        {"conversations": simple_rows(2)[1]["conversations"], "image": ["0.png", "1.png"]},
        chat_row("Asked only", image="1.png"),
        {"image": "1.png", "caption": "a dog"},
        chat_row("Noted?", "no", image="note.png"),
        chat_row("Last?", "good", image="2.png"),
    ]
    write_chat(folder, rows)
    whole = (folder / "images" / "3.png").read_bytes()
    (folder / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "note.png").write_text("not an image")
    make_image(7).save(folder.parent / "outside.png")
    reasons = {
        1: "absent.png",
        2: "cannot be decoded",
        3: "leads out of the folder",
        4: "empty answer",
        5: "marks the place of 1 images (<image>), but has 2",
        6: "no answer",
        7: "has the columns",
        8: "cannot be decoded",
    }
    return folder, reasons


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_skipped_with_index_and_reason(tmp_path, streaming):
    folder, reasons = broken_folder(tmp_path / "photos")
    data = load_training_data(folder, on_bad_row="skip", streaming=streaming)
    answers = [texts(row)[1][1] for row in data.dataset]
    assert answers == [["good"], ["good"]]
    assert data.bad_rows.num_seen == 10
    assert [index for index, _ in data.bad_rows.rows] == sorted(reasons)
    for index, reason in data.bad_rows.rows:
        assert reasons[index] in reason, (index, reason)
    report = data.bad_rows.report()
    assert "left out 8 of 10 rows" in report and "row 1:" in report and "and 3 more" in report


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_row_stops_by_default(tmp_path, streaming):
    folder, _ = broken_folder(tmp_path / "photos")
    with pytest.raises(BadRowError, match=r"photos, row 1: .*absent\.png"):
        list(load_training_data(folder, streaming=streaming).dataset)


def test_too_many_bad_rows_stop(tmp_path):
    folder, _ = broken_folder(tmp_path / "photos")
    with pytest.raises(BadRowError, match="More than `max_bad_rows` = 3"):
        load_training_data(folder, on_bad_row="skip", max_bad_rows=3)


def test_no_usable_row(tmp_path):
    folder = write_chat(tmp_path / "photos", [chat_row("Q?", "a", image="absent.png")])
    with pytest.raises(ValueError, match="no usable row"):
        load_training_data(folder, on_bad_row="skip")
    with pytest.raises(ValueError, match="no images"):
        load_training_data(write_chat(tmp_path / "text", [chat_row("Q?", "a")]))


def test_streaming_equals_reading_at_once(tmp_path):
    rows = [*simple_rows(5), chat_row("Two?", "2", "More?", "3", image=["1.png", "2.png"])]
    folder = write_chat(tmp_path / "photos", rows)
    at_once, stream = load_training_data(folder), load_training_data(folder, streaming=True)
    assert stream.num_rows is None and stream.fingerprint.startswith("stream:")
    streamed = list(stream.dataset)
    assert [texts(row) for row in streamed] == [texts(row) for row in at_once.dataset]
    assert [pixels(row) for row in streamed] == [pixels(row) for row in at_once.dataset]
    assert len(list(load_training_data(folder, streaming=True, max_rows=3).dataset)) == 3


def test_fingerprint_follows_the_content(tmp_path):
    rows = simple_rows(4)
    first = load_training_data(write_chat(tmp_path / "a", rows)).fingerprint
    assert load_training_data(write_chat(tmp_path / "b", rows)).fingerprint == first  # not the folder
    changed = [*rows[:3], chat_row("What is 3?", "something else", image="3.png")]
    assert load_training_data(write_chat(tmp_path / "c", changed)).fingerprint != first
    assert load_training_data(write_chat(tmp_path / "d", rows[::-1])).fingerprint != first
    make_image(99).save(tmp_path / "b" / "images" / "2.png")
    assert load_training_data(tmp_path / "b").fingerprint != first


def test_holding_out_by_image(tmp_path):
    data = load_training_data(write_chat(tmp_path / "photos", simple_rows(24)))
    train, held = split_by_image(data, 0.4, seed=1)
    sides = [{tuple(pixels(row)) for row in side.dataset} for side in (train, held)]
    assert not sides[0] & sides[1] and train.num_rows + held.num_rows == 24
    assert len({train.fingerprint, held.fingerprint, data.fingerprint}) == 3


def test_combining_sources(tmp_path):
    plain = load_training_data(write_chat(tmp_path / "a", simple_rows(3)))
    labelled = [chat_row("L?", "l", image="0.png", granularity_labels=[0, 0, 0, 1.0])]
    both = combine([plain, load_training_data(write_chat(tmp_path / "b", labelled))])
    assert both.num_rows == 4
    assert both.dataset["granularity_labels"][:] == [None, None, None, [0, 0, 0, 1]]
    several = load_training_data(write_chat(tmp_path / "c", [chat_row("A?", "a", "B?", "b", image="0.png")]))
    with pytest.raises(ValueError, match="layout='messages'"):
        combine([plain, several])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("no/such/folder", FileNotFoundError, "no file or folder"),
        (3, TypeError, "expected a path"),
        ("rows.csv", ValueError, r"expected \.json"),
        ("empty", FileNotFoundError, "holds no training data"),
    ],
)
def test_sources_that_cannot_be_opened(tmp_path, monkeypatch, source, error, words):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a,b")
    Path("empty").mkdir()
    with pytest.raises(error, match=words):
        load_training_data(source)


def test_unknown_columns_and_choices():
    rows = Dataset.from_list([{"picture": "0.png", "caption": "a dog"}])
    with pytest.raises(ValueError, match=r"caption.*columns"):
        load_training_data(rows)
    with pytest.raises(ValueError, match=r"`columns` names \['text'\]"):
        load_training_data(rows, columns={"answer": "text"}, question="What?")
    with pytest.raises(ValueError, match="on_bad_row"):
        load_training_data(rows, on_bad_row="ignore")
