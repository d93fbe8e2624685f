"""
Images that no one should send: damaged files of every format, arrays of any shape and values, things that are none.

Allowed are a `ValueError` or a `TypeError`; an image that is taken has pixels between 0 and 1, of the size asked for.
"""

import base64
import random
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, features

from granulon import GranulonImageProcessorPil


ALLOWED = (TypeError, ValueError)
COUNT = 400

MODES = ["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I;16", "I", "F", "YCbCr"]
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "PPM", "TGA", "DDS", "SGI", "PCX", "MPO", "ICNS"]
FORMATS += [name for name, feature in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(feature)]
DTYPES = ["uint8", "uint16", "int32", "int64", "float16", "float32", "float64", "bool", "complex64", "object", "U1"]
BYTES = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x01"]
JUNK = [None, 7, 2.5, "", "a.png", "http://", "http://[", "file://host/a", "data:image/png,", "\0", {}, object()]
KEYS = [None, 0, 300, -1, (1, 2), (300, 2, 3), b"\0\1", "grey"]  # that an image may call its transparent colour

PROCESSORS = [
    GranulonImageProcessorPil(
        size={"height": 12, "width": 16}, max_image_pixels=2**18, do_normalize=False, rescale_first=rescale_first
    )
    for rescale_first in (True, False)
]


def make_file(rng: random.Random) -> bytes:
    """An image file with a few bytes changed, cut off, or put in another place."""
    size = rng.randint(1, 40), rng.randint(1, 40)
    image = Image.frombytes("RGBA", size, rng.randbytes(4 * size[0] * size[1]))
    image = image.convert("RGB").convert("I").convert("I;16") if (mode := rng.choice(MODES)) == "I;16" else image
    image = image.convert("RGB") if mode in ("CMYK", "YCbCr", "P", "1", "I", "F") else image
    buffer, options = BytesIO(), {"exif": b"Exif\0\0" + rng.randbytes(20)} if rng.random() < 0.1 else {}
    try:
        (image if image.mode == mode else image.convert(mode)).save(buffer, rng.choice(FORMATS), **options)
    except Exception:  # a format that does not know the mode
        buffer = BytesIO()
        Image.new("RGB", size, "teal").save(buffer, rng.choice(["PNG", "JPEG", "GIF", "TIFF"]))
    content = bytearray(buffer.getvalue())
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        place, action = rng.randrange(len(content)), rng.random()
        place = place if rng.random() < 0.5 else min(place, rng.randrange(64))  # headers are near the beginning
        if action < 0.4:
            content[place] ^= 1 << rng.randrange(8)
        elif action < 0.8:
            content[place : place + 4] = rng.choice(BYTES)
        elif action < 0.9:
            del content[place : place + rng.randint(1, 20)]
        else:
            content[place:place] = content[: rng.randint(1, 60)]
        content = content or bytearray(b"\0")
    return bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)


def make_array(rng: random.Random) -> Any:
    shape = [rng.choice([0, 1, 2, 3, 4, 9]) for _ in range(rng.randint(0, 5))]
    numbers = np.random.default_rng(rng.randrange(2**32))
    values = np.asarray(numbers.random(shape) * rng.choice([1, 1, 255, 70_000, -1]))
    if values.size and rng.random() < 0.1:
        values.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(all="ignore"):
        array = values.astype(rng.choice(DTYPES))
    return torch.from_numpy(array) if array.dtype.kind in "uifb" and rng.random() < 0.4 else array


def make(rng: random.Random) -> Any:
    if rng.random() < 0.15:
        return rng.choice(JUNK)
    if rng.random() < 0.25:
        return make_array(rng)
    content = make_file(rng)
    wrap = rng.choice(["bytes", "dict", "uri", "base64", "file", "image"])
    if wrap == "image":
        image = Image.new(rng.choice(MODES), (rng.randint(0, 9), rng.randint(1, 9)))
        image.info = {"transparency": rng.choice(KEYS), "exif": rng.choice([b"", b"Exif\0\0", b"no EXIF"])}
        return image
    encoded = base64.b64encode(content).decode()
    return {
        "dict": {"bytes": content, "path": rng.choice([None, "a.png"])},
        "uri": "data:image/png;base64," + encoded,
        "base64": encoded,
        "file": BytesIO(content),
    }.get(wrap, content)


def run(case: Any) -> None:
    faults = []
    for processor in PROCESSORS:
        try:
            pixels = processor(case, return_tensors="pt")["pixel_values"]
        except ALLOWED as error:
            assert str(error), "an error without a text"
            faults.append(error)
        else:
            is_empty = len(pixels) == 0  # a batch without images has none
            assert is_empty or (pixels.shape[1:] == (3, 12, 16) and pixels.dtype == torch.float32)
            assert bool((pixels >= 0).all()) and bool((pixels <= 1.0001).all())
    assert len(faults) in (0, len(PROCESSORS)), f"taken one way, refused the other: {faults}"
    if faults:
        raise faults[0]
