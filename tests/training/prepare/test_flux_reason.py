"""A sample of FLUX-Reason-6M, drawn from a small replica with the 36 documented columns."""

import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from granulon.training.data import load_training_data, seeded_fraction
from granulon.training.prepare import flux_reason
from granulon.training.prepare.flux_reason import CAPTIONS, QUESTIONS, main, sample_flux_reason


NUM_ROWS = 120
BROKEN, IMAGELESS, BLANK, BLURRED, UNSCORED, UNORIGINAL = "r3", "r4", "r5", "r6", "r7", "r8"
SCORES = [*(f"score_{kind}" for kind in QUESTIONS if kind != "original"), "score_image_clarity"]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *((f"caption_{kind}", pa.string()) for kind in CAPTIONS),
        *((f"bool_caption_{kind}", pa.bool_()) for kind in QUESTIONS),
        *((score, pa.float64()) for score in SCORES),
        ("score_image_structure", pa.float64()),
        ("score_image_quality", pa.float64()),
    ]
)


def make_row(index: int) -> dict:
    key = f"r{index}"
    buffer = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    content = buffer.getvalue()
    row = dict.fromkeys(SCHEMA.names)
    row |= {"id": key, "image": {"bytes": content[:200] if key == BROKEN else content, "path": None}}
    row |= {f"bool_caption_{kind}": key != UNORIGINAL for kind in QUESTIONS}
    row |= dict.fromkeys(SCORES, 2.0 if key == BLURRED else 8.0)
    row |= {"caption_detail": f"all about {key}", "caption_detail_cn": f"关于 {key}"}
    if index % 2:
        row["caption_original"] = f" short {key}\n"
    if key == IMAGELESS:
        row["image"] = None
    if key == BLANK:
        row |= {"caption_original": "  ", "caption_detail": None}
    if key == UNSCORED:
        row["score_image_clarity"] = None
    return row


ROWS = [make_row(index) for index in range(NUM_ROWS)]


def write_parquet(folder, rows=ROWS, num_files=3, schema=SCHEMA):
    folder.mkdir()
    table = pa.Table.from_pylist(rows, schema=schema)
    size = -(-len(rows) // num_files)
    for index in range(num_files):
        part = folder / f"Part{index:02d}" / "data.parquet"
        part.parent.mkdir()
        pq.write_table(table.slice(index * size, size), part, row_group_size=15)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("flux") / "replica")


def sample(output, source, **options):
    return sample_flux_reason(output, source, **{"train": 80, "validation": 20, "show_progress": False, **options})


def chat(output, side="train"):
    return json.loads((output / side / "chat.json").read_text(encoding="utf-8"))


def everything(output):
    files = [file for side in ("train", "validation") for file in (output / side).rglob("*") if file.is_file()]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def ids(output, side="train"):
    return {row["id"] for row in chat(output, side)}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, source):
    output = tmp_path_factory.mktemp("sampled")
    return output, sample(output, source)


def test_replica_has_the_documented_columns():
    assert len(SCHEMA) == 36


def test_rows_go_where_their_hash_says(sampled):
    output, result = sampled
    bad = {BROKEN, IMAGELESS, BLANK}
    drawn = {row["id"]: seeded_fraction(0, row["id"]) for row in ROWS}
    train = {key for key, fraction in drawn.items() if 20 / 120 <= fraction < 100 / 120}
    validation = {key for key, fraction in drawn.items() if fraction < 20 / 120}
    assert ids(output, "train") == train - bad
    assert ids(output, "validation") == validation - bad
    assert result.num_taken == {"train": len(train - bad), "validation": len(validation - bad)}
    assert sum(result.num_skipped.values()) == len((train | validation) & bad)
    assert result.num_rows == NUM_ROWS and result.is_complete
    fractions = [seeded_fraction(0, row["id"]) for row in chat(output)]
    assert fractions == sorted(fractions)


def test_images_are_the_bytes_of_the_source_and_captions_the_first_that_is_there(sampled):
    output, _ = sampled
    for side in ("train", "validation"):
        for row in chat(output, side):
            index = int(row["id"][1:])
            assert (output / side / "images" / row["image"]).read_bytes() == ROWS[index]["image"]["bytes"]
            kind, answer = ("original", f"short r{index}") if index % 2 else ("detail", f"all about r{index}")
            question = row["conversations"][0]["value"].removeprefix("<image>\n")
            assert question in QUESTIONS[kind] and row["conversations"][1]["value"] == answer
    asked = {row["conversations"][0]["value"] for row in chat(output) if row["caption_kind"] == "detail"}
    assert len(asked) == len(QUESTIONS["detail"])


def test_training_reads_what_was_written(sampled):
    output, result = sampled
    for side in ("train", "validation"):
        data = load_training_data(output / side)
        assert data.num_rows == result.num_taken[side] and data.layout == "prompt-completion"
        assert data.dataset[0]["images"][0].size == (24, 24)
    readme = (output / "README.md").read_text()
    assert "license: apache-2.0" in readme and "LucasFang/FLUX-Reason-6M" in readme and result.report() in readme


def test_all_rows_drawn_count_every_reason(tmp_path, source):
    options = {"train": 120, "validation": 0, "min_clarity": 5.0, "require_original": True}
    result = sample(tmp_path, source, **options)
    assert result.num_skipped == {"bad_image": 2, "no_caption": 1, "not_clear": 2, "not_original": 1}
    assert not ids(tmp_path) & {BROKEN, IMAGELESS, BLANK, BLURRED, UNSCORED, UNORIGINAL}
    assert result.num_taken["train"] == NUM_ROWS - 6 == len(ids(tmp_path))


def test_the_order_of_rows_does_not_matter_and_the_seed_does(tmp_path, sampled):
    shuffled = random.Random(1).sample(ROWS, NUM_ROWS)
    other = write_parquet(tmp_path / "shuffled", shuffled, num_files=2)
    sample(tmp_path / "same", other)
    assert everything(tmp_path / "same") == everything(sampled[0])
    sample(tmp_path / "different", other, seed=1)
    assert ids(tmp_path / "different") != ids(sampled[0])


def test_a_smaller_sample_lies_within(tmp_path, source, sampled):
    sample(tmp_path, source, train=30)
    assert ids(tmp_path) < ids(sampled[0])


def test_captions_in_chinese(tmp_path, source):
    sample(tmp_path, source, captions=("style", "detail_cn"))
    row = chat(tmp_path)[0]
    assert row["conversations"][1]["value"] == f"关于 {row['id']}"
    assert row["conversations"][0]["value"].endswith("Answer in Chinese.")


@pytest.mark.parametrize("limit", [7, 40, 95])
def test_a_limit_stops_and_a_later_call_goes_on(tmp_path, source, sampled, limit):
    first = sample(tmp_path, source, limit_rows=limit)
    assert first.num_rows == limit and not first.is_complete
    assert ids(tmp_path) <= {f"r{index}" for index in range(limit)}
    assert len(load_training_data(tmp_path / "train").dataset) == first.num_taken["train"]
    result = sample(tmp_path, source)
    assert everything(tmp_path) == everything(sampled[0])
    assert result.report() == sampled[1].report()
    assert sample(tmp_path, source).report() == result.report()  # nothing is left to do


def test_after_a_crash_no_row_is_lost_or_doubled_and_no_image_rewritten(tmp_path, source, sampled, monkeypatch):
    monkeypatch.setattr(flux_reason, "_SAVE_EVERY", 20)
    take = flux_reason._take
    reads: list[str] = []

    def crash(row, *rest):
        reads.append(row["id"])
        if len(reads) == 77:
            raise KeyboardInterrupt
        take(row, *rest)

    monkeypatch.setattr(flux_reason, "_take", crash)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path, source)
    assert not (tmp_path / "train" / "chat.json").exists()
    written = {file: file.stat().st_ino for file in tmp_path.rglob("*.jpg")}
    reads.clear()
    reads += [""] * 1000
    result = sample(tmp_path, source)
    assert reads[1000:] == [f"r{index}" for index in range(60, NUM_ROWS)]  # from the last note on
    assert {file: file.stat().st_ino for file in written} == written
    assert everything(tmp_path) == everything(sampled[0]) and result.report() == sampled[1].report()


def test_other_settings_do_not_mix(tmp_path, source):
    sample(tmp_path, source, limit_rows=5)
    with pytest.raises(ValueError, match="seed was 0 and is now 3"):
        sample(tmp_path, source, seed=3)


def test_a_repeated_id_is_taken_once_and_a_missing_one_not_at_all(tmp_path):
    folder = write_parquet(tmp_path / "twice", [ROWS[0], ROWS[1], ROWS[0], {**ROWS[2], "id": None}], num_files=1)
    result = sample(tmp_path / "out", folder, train=3, validation=0)
    assert result.num_taken["train"] == 2 and result.num_skipped == {"duplicate": 1, "no_id": 1}


def test_files_can_be_chosen(tmp_path, source):
    result = sample(tmp_path, source, data_files="Part01/*.parquet", train=30, validation=10)
    assert result.num_rows == 40 and ids(tmp_path) <= {f"r{index}" for index in range(40, 80)}


def test_a_missing_column_is_named_beside_those_found(tmp_path):
    without = pa.schema([field for field in SCHEMA if field.name not in ("caption_detail", "score_image_clarity")])
    rows = [{name: row[name] for name in without.names} for row in ROWS[:3]]
    folder = write_parquet(tmp_path / "short", rows, num_files=1, schema=without)
    with pytest.raises(ValueError, match=r"\['caption_detail', 'score_image_clarity'\].*It has \['id', 'image'"):
        sample(tmp_path / "out", folder, train=1, validation=1, min_clarity=1.0)
    sample(tmp_path / "out", folder, train=1, validation=1, captions="original")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": ("orignal",)}, "orignal.*expected some of"),
        ({"train": 200}, "200 rows for training.*more than the 120"),
        ({"limit_rows": 0}, "limit_rows.*1 or more"),
    ],
)
def test_bad_arguments_teach(tmp_path, source, options, message):
    with pytest.raises(ValueError, match=message):
        sample(tmp_path, source, **options)
    assert not list(tmp_path.iterdir())


def test_no_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        sample(tmp_path, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no parquet files"):
        sample(tmp_path / "out", tmp_path)


def test_hub_files_need_their_number_of_rows(tmp_path, monkeypatch):
    class Api:
        def dataset_info(self, source, revision):
            return type("Info", (), {"sha": "c0ffee"})

    monkeypatch.setattr(flux_reason, "HfApi", Api)
    with pytest.raises(ValueError, match="total_rows"):
        sample(tmp_path, flux_reason.SOURCE, data_files="*Text*/*.parquet")
    located = flux_reason._locate(flux_reason.SOURCE, None, "train", None, None, None)
    assert located[0]["revision"] == "c0ffee" and located[4] == flux_reason.TOTAL_ROWS
    begun = {"settings": {"revision": "0ld"}}  # a run goes on from the commit that it began with
    assert flux_reason._locate(flux_reason.SOURCE, None, "train", None, None, begun)[2] == "0ld"


def test_command_line(tmp_path, source, capsys):
    options = ["--output", str(tmp_path), "--source", str(source), "--no-progress"]
    assert main([*options, "--train", "80", "--validation", "20", "--captions", "detail"]) == 0
    assert "120 rows read" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*options, "--train", "800"])
    assert "more than the 120" in capsys.readouterr().err
