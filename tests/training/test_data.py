"""Readers of training data: every form gives the same rows, and every bad row is named with its reason."""

import json
from pathlib import Path

import datasets
import pytest
from data_tools import chat_row, simple_rows, write_chat
from datasets import Dataset
from tiny import make_granulon, make_image

from granulon.training.data import BadRowError, combine, load_training_data, split_by_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What is remembered of images and of tables stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def processor():
    return make_granulon()[1]


def texts(row: dict) -> list[tuple[str, list[str]]]:
    """Roles with the parts of their turns; an image as its mark."""
    chat = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    return [
        (turn["role"], [part["text"] if part["type"] == "text" else "[image]" for part in turn["content"]])
        for turn in chat
    ]


def pixels(row: dict) -> list[bytes]:
    return [image.convert("RGB").tobytes() for image in row["images"]]


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


def test_an_image_that_changed_is_checked_again(tmp_path):
    folder = write_chat(tmp_path / "photos", simple_rows(2))
    load_training_data(folder)
    (folder / "images" / "1.png").write_bytes(b"broken")
    with pytest.raises(BadRowError, match="row 1"):
        load_training_data(folder)


def test_no_usable_row(tmp_path):
    folder = write_chat(tmp_path / "photos", [chat_row("Q?", "a", image="absent.png")])
    with pytest.raises(ValueError, match="no usable row"):
        load_training_data(folder, on_bad_row="skip")
    with pytest.raises(ValueError, match="no images"):
        load_training_data(write_chat(tmp_path / "text", [chat_row("Q?", "a")]))


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
