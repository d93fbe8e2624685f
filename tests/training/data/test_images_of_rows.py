"""Images of rows: found in their folder, whole, and of a size that training can decode."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from data_tools import pixels, simple_rows, write_chat
from datasets import Dataset
from PIL import Image
from tiny import make_granulon, make_image

from granulon.training.data import BadRowError, check_image, load_training_data
from granulon.training.data.images import locate_image


pytestmark = pytest.mark.usefixtures("own_cache")


def png(**options) -> bytes:
    buffer = io.BytesIO()
    make_image(**options).save(buffer, "PNG")
    return buffer.getvalue()


def with_size(content: bytes, width: int, height: int) -> bytes:
    """A PNG whose header tells another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def test_the_size_is_read_off_the_header_before_anything_is_decoded(monkeypatch):
    def fail(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert "10000 x 10000 = 100,000,000 pixels" in str(check_image(with_size(png(), 10_000, 10_000)))
    assert "pixels" in str(check_image(with_size(png(), 50_000, 50_000)))  # which Pillow does not even open
    assert "more than the 100 of" in str(check_image(png(), max_pixels=100))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bomb_is_a_bad_row(tmp_path, streaming):
    folder = write_chat(tmp_path / "photos", simple_rows(2))
    (folder / "images" / "0.png").write_bytes(with_size(png(), 20_000, 20_000))
    data = load_training_data(folder, on_bad_row="skip", streaming=streaming)
    assert len(list(data.dataset)) == 1
    ((index, reason),) = data.bad_rows.rows
    assert index == 0 and "pixels" in reason


def test_the_limit_is_the_image_processors(tmp_path):
    folder, processor = write_chat(tmp_path / "photos", simple_rows(2)), make_granulon()[1]
    assert load_training_data(folder, processor=processor).num_rows == 2
    processor.image_processor.max_image_pixels = 100
    with pytest.raises(BadRowError, match="row 0: the image '0.png' .* more than the 100 of `max_image_pixels`"):
        load_training_data(folder, processor=processor)  # not what was found within another limit


def test_what_cannot_become_rgb_is_a_bad_row(tmp_path):
    pixels = np.full((8, 8), np.nan, dtype=np.float32)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF")
    assert "NaN" in str(check_image(buffer.getvalue()))


def test_undecoded_images_are_read_where_they_are(tmp_path):
    make_image(1).save(tmp_path / "1.png")
    held = {"bytes": png(seed=2), "path": str(tmp_path / "1.png")}  # the path tells where the bytes came from
    assert locate_image(held, None) == held["bytes"]
    assert locate_image({"bytes": None, "path": "1.png"}, tmp_path) == str(tmp_path / "1.png")
    rows = Dataset.from_list([{"image": held, "question": "What?", "answer": "a"}])
    assert pixels(load_training_data(rows).dataset[0]) == [make_image(2).tobytes()]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_image(tmp_path):
    folder = write_chat(tmp_path / "photos", simple_rows(2))
    (folder / "images" / "0.png").unlink()
    os.mkfifo(folder / "images" / "0.png")
    data = load_training_data(folder, on_bad_row="skip", check_images=False)
    assert "is not a file" in dict(data.bad_rows.rows)[0]


def test_a_damaged_memory_of_checks_is_forgotten(tmp_path):
    folder = write_chat(tmp_path / "photos", simple_rows(2))
    load_training_data(folder)
    (file,) = (tmp_path / "cache" / "granulon-image-checks").iterdir()
    for content in ("[1, 2]", "{", '{"a": 3}'):
        file.write_text(content)
        assert load_training_data(folder).num_rows == 2


def test_an_image_that_changed_is_checked_again(tmp_path):
    folder = write_chat(tmp_path / "photos", simple_rows(2))
    load_training_data(folder)
    (folder / "images" / "1.png").write_bytes(b"broken")
    with pytest.raises(BadRowError, match="row 1"):
        load_training_data(folder)
