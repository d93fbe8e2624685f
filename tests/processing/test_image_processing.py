"""Images to pixels: published preprocessing as oracle, every kind of image, and errors that name what is wrong."""

import base64
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin, features
from torch.nn import functional as F

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from granulon import GranulonImageProcessor, GranulonImageProcessorPil
from granulon.processing import image_processing_granulon, images_granulon
from granulon.processing.images_granulon import download


MEAN = torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None]
STD = torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]
RAW = {"do_resize": False, "do_normalize": False}


def make_noise(height: int = 12, width: int = 10, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Uniform 8-bit noise: the hardest image for a resize, and every channel differs."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def to_dinov3_pixels(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """DINOv3's own preprocessing of `(height, width, 3)` 8-bit pixels: rescale, antialiased bilinear, normalise."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
    return (pixels[0] - MEAN) / STD


def read(image: Any, processor: Any = None, **kwargs: Any) -> torch.Tensor:
    """`(height, width, 3)` in [0, 255] as the processor decodes it, neither resized nor normalised."""
    processor = processor or GranulonImageProcessorPil()
    pixels = processor(image, return_tensors="pt", **{**RAW, **kwargs})["pixel_values"]
    assert pixels.shape[0] == 1 and pixels.dtype == torch.float32
    return pixels[0].permute(1, 2, 0) * 255


def assert_reads(image: Any, expected: np.ndarray, atol: float = 1e-3, **kwargs: Any) -> None:
    torch.testing.assert_close(read(image, **kwargs), torch.tensor(expected).float(), rtol=0, atol=atol)


def encode(image: Image.Image, kind: str, **kwargs: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


# ---------------------------------------------------------------------- the published preprocessing


@pytest.mark.parametrize(
    "source, target",
    [
        ((64, 64), (64, 64)),  # nothing to resize
        ((200, 200), (64, 64)),  # down
        ((20, 20), (64, 64)),  # up
        ((37, 211), (64, 64)),  # up and down
        ((150, 90), (48, 80)),  # not square
        ((1, 1), (16, 16)),
    ],
)
def test_pil_pixels_equal_dinov3s_own(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = make_noise(*source)
    processor = GranulonImageProcessorPil(size={"height": target[0], "width": target[1]})
    pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, *target) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0], to_dinov3_pixels(image, target), rtol=0, atol=1e-4)


def test_shortest_edge_keeps_the_aspect_ratio() -> None:
    image = make_noise(60, 90)
    processor = GranulonImageProcessorPil(size={"shortest_edge": 32})
    pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0], to_dinov3_pixels(image, (32, 48)), rtol=0, atol=1e-4)


def test_eight_bit_resizing_is_not_dinov3s() -> None:
    image = make_noise(200, 200)
    settings = {"size": {"height": 64, "width": 64}, "rescale_first": False}
    pixels = GranulonImageProcessorPil(**settings)(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    assert (pixels[0] - to_dinov3_pixels(image, (64, 64))).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(90, 60), (30, 50), (64, 64)])
@pytest.mark.parametrize("family", ["CLIPImageProcessorPil", "SiglipImageProcessorPil", "BitImageProcessorPil"])
def test_other_encoders_pixels_equal_the_librarys(family: str, shape: tuple[int, int]) -> None:
    import transformers

    library = getattr(transformers, family)
    if family == "SiglipImageProcessorPil":
        theirs = library(size={"height": 48, "width": 40})
    else:  # resized by the shorter side, then cropped; BiT's is the processor of DINOv2
        theirs = library(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40})
    names = ("size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std")
    settings = {name: getattr(theirs, name) for name in names if getattr(theirs, name, None) is not None}
    ours = GranulonImageProcessorPil(**settings, rescale_first=False)
    image = Image.fromarray(make_noise(*shape))
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours(image, return_tensors="pt")["pixel_values"], expected, rtol=0, atol=1e-6)


def test_centre_crop_takes_the_centre() -> None:
    image = make_noise(40, 60)
    settings = {"do_center_crop": True, "crop_size": {"height": 16, "width": 24}}
    assert_reads(Image.fromarray(image), image[12:28, 18:42], processor=GranulonImageProcessorPil(**settings))


@pytest.mark.parametrize("rescale_first", [True, False])
def test_a_batch_equals_its_images_one_by_one(rescale_first: bool) -> None:
    processor = GranulonImageProcessorPil(size={"height": 32, "width": 32}, rescale_first=rescale_first)
    images = [Image.fromarray(make_noise(20 + 9 * index, 50, seed=index)) for index in range(3)]
    batch = processor(images, return_tensors="pt")["pixel_values"]
    single = [processor(image, return_tensors="pt")["pixel_values"] for image in images]
    torch.testing.assert_close(batch, torch.cat(single), rtol=0, atol=0)


def test_unknown_size_keys_raise() -> None:
    with pytest.raises(ValueError, match="`height` and `width`, or `shortest_edge`"):
        GranulonImageProcessorPil()(Image.fromarray(make_noise()), size={"longest_edge": 32})


# ---------------------------------------------------------------------- modes


def test_rgb_and_grey_images() -> None:
    rgb = make_noise()
    assert_reads(Image.fromarray(rgb), rgb)
    assert_reads(Image.fromarray(rgb[..., 0]), np.repeat(rgb[..., :1], 3, axis=2))


def test_one_bit_images_are_black_and_white() -> None:
    dots = make_noise(channels=1)[..., 0] > 127
    assert_reads(Image.fromarray(dots), np.repeat(dots[..., None], 3, axis=2) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    colour, alpha = make_noise(), make_noise(channels=1, seed=1)
    if mode == "RGBA":
        image, opaque = Image.fromarray(np.concatenate([colour, alpha], axis=2)), colour
    else:
        opaque = np.repeat(colour[..., :1], 3, axis=2)
        pixels = np.concatenate([colour[..., :1], alpha], axis=2)
        image = Image.frombytes(mode, (10, 12), pixels.tobytes())
        if mode == "PA":
            image.putpalette(bytes(value for grey in range(256) for value in (grey, grey, grey)))
    assert image.mode == mode
    weight = alpha / 255
    assert_reads(image, opaque * weight + 255 * (1 - weight), atol=1.0)


@pytest.mark.parametrize("mode, colour", [("RGBa", (255, 0, 0)), ("La", (100, 100, 100))])
def test_premultiplied_transparency_is_laid_over_white(mode: str, colour: tuple[int, ...]) -> None:
    channels = (*colour, 51) if mode == "RGBa" else (colour[0], 51)
    image = Image.new(mode.upper(), (4, 4), channels).convert(mode)
    assert image.mode == mode
    assert_reads(image, np.full((4, 4, 3), [value * 0.2 + 255 * 0.8 for value in colour]), atol=1.5)


def test_palettes_are_looked_up() -> None:
    indices, palette = make_noise(channels=1)[..., 0] % 7, make_noise(1, 7)[0]
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    assert_reads(image, palette[indices])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palettes_transparent_entry_becomes_white(kind: str) -> None:
    indices, palette = make_noise(channels=1)[..., 0] % 7, make_noise(1, 7)[0]
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    saved = Image.open(BytesIO(encode(image, kind, transparency=3)))
    assert saved.mode == "P" and "transparency" in saved.info
    palette[3] = 255
    assert_reads(saved, palette[indices])


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    pixels = make_noise() if mode == "RGB" else make_noise(channels=1)[..., 0]
    key = tuple(int(value) for value in pixels[2, 3]) if mode == "RGB" else int(pixels[2, 3])
    image = Image.open(BytesIO(encode(Image.fromarray(pixels), "PNG", transparency=key)))
    assert image.mode == mode and "transparency" in image.info
    expected = pixels.copy()
    expected[(pixels == key).all(-1) if mode == "RGB" else pixels == key] = 255
    assert_reads(image, expected if mode == "RGB" else np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("resize", [False, True])
def test_what_hides_under_transparent_pixels_does_not_matter(resize: bool) -> None:
    alpha = np.where(make_noise(32, 32, 1) > 127, 255, 0).astype(np.uint8)
    shown = make_noise(32, 32, seed=1)
    hidden = [np.where(alpha > 0, shown, make_noise(32, 32, seed=seed)) for seed in (2, 3)]
    images = [Image.fromarray(np.concatenate([colour, alpha], axis=2)) for colour in hidden]
    processor = GranulonImageProcessorPil(size={"height": 24, "width": 20})
    first, second = (processor(image, do_resize=resize, return_tensors="pt")["pixel_values"] for image in images)
    assert torch.equal(first, second)
    assert not np.array_equal(*hidden)
    if not resize:
        assert_reads(images[0], np.where(alpha > 0, shown, 255))


def test_cmyk_is_converted() -> None:
    inks = make_noise(channels=4)
    cyan_magenta_yellow, black = inks[..., :3].astype(float), inks[..., 3:].astype(float)
    image = Image.fromarray(inks, mode="CMYK")
    assert_reads(image, (255 - cyan_magenta_yellow) * (255 - black) / 255, atol=1.0)


def test_a_cmyk_jpeg_has_the_colours_of_its_rgb_version(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), (200, 60, 20))
    image.convert("CMYK").save(tmp_path / "image.jpg", quality=100)
    assert Image.open(tmp_path / "image.jpg").mode == "CMYK"
    assert_reads(str(tmp_path / "image.jpg"), np.asarray(image), atol=4.0)


@pytest.mark.parametrize("mode", ["HSV", "YCbCr"])
def test_other_colour_spaces_are_converted(mode: str) -> None:
    image = Image.new("RGB", (6, 5), (180, 90, 40))
    assert_reads(image.convert(mode), np.asarray(image), atol=4.0)


# ---------------------------------------------------------------------- more than eight bits


@pytest.mark.parametrize(
    "kind, shape",
    [
        *((kind, (12, 10)) for kind in ("I;16", "I;16B", "I", "tiff", "png", "uint16", "int32", "tensor")),
        *((kind, (12, 10, 3)) for kind in ("uint16", "int32", "tensor")),  # PIL has no colours of 16 bits
    ],
)
def test_sixteen_bits_equal_their_eight_bit_version(kind: str, shape: tuple[int, ...]) -> None:
    wide = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    narrow = np.round(wide / 257)
    if len(shape) == 2:
        narrow = np.repeat(narrow[..., None], 3, axis=2)
    if kind == "I;16":
        image: Any = Image.fromarray(wide)
    elif kind == "I;16B":
        image = Image.frombytes("I;16B", (10, 12), wide.astype(">u2").tobytes())
    elif kind == "I":
        image = Image.fromarray(wide.astype(np.int32))
    elif kind in ("tiff", "png"):
        image = Image.open(BytesIO(encode(Image.fromarray(wide), kind.upper())))
    else:
        image = torch.from_numpy(wide.astype(np.int32)) if kind == "tensor" else wide.astype(kind)
    if isinstance(image, Image.Image):
        assert image.mode == {"tiff": "I;16", "png": "I;16"}.get(kind, kind)
    assert_reads(image, narrow, atol=0.51)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_a_dark_sixteen_bit_image_stays_dark(mode: str) -> None:
    wide = np.full((4, 4), 200, dtype=">u2" if mode == "I;16B" else "<u2")
    assert_reads(Image.frombytes(mode, (4, 4), wide.tobytes()), np.full((4, 4, 3), 200 / 257))


def test_sixteen_bits_are_not_rounded_off() -> None:
    image = np.full((8, 8), 257 * 100 + 64, dtype=np.uint16)
    assert_reads(image, np.full((8, 8, 3), 100 + 64 / 257))
    assert_reads(image, np.full((8, 8, 3), 100.0), rescale_first=False)  # the other encoders take eight bits
    assert_reads(image + 128, np.full((8, 8, 3), 101.0), rescale_first=False)  # the nearest ones


def test_int32_images_may_hold_eight_bits() -> None:
    grey = make_noise(channels=1)[..., 0]
    assert_reads(Image.fromarray(grey.astype(np.int32)), np.repeat(grey[..., None], 3, axis=2))
    assert_reads(make_noise().astype(np.int64), make_noise())


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_float_images_are_unit_or_eight_bit(scale: float) -> None:
    unit = np.random.default_rng(0).random((9, 7), dtype=np.float32)
    image = Image.fromarray(unit * scale)
    assert image.mode == "F"
    assert_reads(image, np.repeat(unit[..., None], 3, axis=2) * 255)


def make_png(pixels: np.ndarray, kind: int, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16-bit `(height, width, channels)` of a colour type that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    parts += [chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))] if transparent else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


@pytest.mark.parametrize("resize", [False, True])
def test_a_transparent_grey_of_sixteen_bits_becomes_white(resize: bool) -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (12, 10, 1)).astype(np.uint16)
    wide[3:6, 2:5] = key = 4660
    expected = np.where(wide == key, 255, wide / 257).repeat(3, axis=2)
    opened = Image.open(BytesIO(make_png(wide, 0, (key,))))
    assert opened.mode == "I;16" and opened.info["transparency"] == key
    if resize:
        processor = GranulonImageProcessorPil(size={"height": 5, "width": 7})
        pixels, wanted = (processor(image, return_tensors="pt")["pixel_values"] for image in (opened, expected))
        torch.testing.assert_close(pixels, wanted, rtol=0, atol=1e-4)
    else:
        assert_reads(opened, expected)
    assert_reads(Image.open(BytesIO(make_png(wide, 0))), (wide / 257).repeat(3, axis=2))


def test_transparent_greys_and_colours_of_sixteen_bits_are_laid_over_white() -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (12, 10, 4)).astype(np.uint16)
    weight = wide[..., 1:2] / 65535
    grey = wide[..., :1] / 257 * weight + 255 * (1 - weight)
    assert_reads(Image.open(BytesIO(make_png(wide[..., :2], 4))), grey.repeat(3, axis=2), atol=2.0)
    weight = wide[..., 3:] / 65535
    colour = wide[..., :3] / 257 * weight + 255 * (1 - weight)
    assert_reads(Image.open(BytesIO(make_png(wide, 6))), colour, atol=2.0)
    key = tuple(int(value) for value in wide[2, 3, :3])
    expected = (wide[..., :3] >> 8).astype(np.float64)
    expected[2, 3] = 255
    assert_reads(Image.open(BytesIO(make_png(wide[..., :3], 2, key))), expected)


# ---------------------------------------------------------------------- files and other sources


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "frames.gif", save_all=True, append_images=frames[1:], duration=50)
    opened = Image.open(tmp_path / "frames.gif")
    assert opened.n_frames == 3
    red = np.full((8, 8, 3), (255, 0, 0))
    assert_reads(opened, red)
    assert_reads(str(tmp_path / "frames.gif"), red)


@pytest.mark.parametrize(
    "orientation, turn",
    [
        (1, lambda upright: upright),
        (2, lambda upright: upright[:, ::-1]),
        (3, lambda upright: np.rot90(upright, 2)),
        (4, lambda upright: upright[::-1]),
        (5, lambda upright: upright.transpose(1, 0, 2)),
        (6, lambda upright: np.rot90(upright, 1)),
        (7, lambda upright: np.rot90(upright, 2).transpose(1, 0, 2)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_photographs_stand_upright(orientation: int, turn: Any) -> None:
    upright = make_noise(6, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(Image.fromarray(np.ascontiguousarray(turn(upright))), "PNG", exif=exif.tobytes())
    assert_reads(Image.open(BytesIO(stored)), upright)


def test_damaged_exif_data_do_no_harm() -> None:
    stored = Image.open(BytesIO(encode(Image.fromarray(make_noise()), "PNG", exif=b"Exif\0\0MM no TIFF")))
    assert "exif" in stored.info
    for _ in range(2):
        assert_reads(stored, make_noise())


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_paths_data_uris_and_base64_open_the_same_image(kind: str, tmp_path: Path) -> None:
    image = make_noise(40, 30)
    options = {"lossless": True} if kind == "webp" else {}
    content = encode(Image.fromarray(image), kind, **options)
    path = tmp_path / f"image.{kind}"
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    for source in (str(path), path, f"data:image/{kind};base64,{text}", text):
        fetched = GranulonImageProcessorPil().fetch_images([source])
        assert_reads(fetched[0], image)
    assert_reads(str(path), image)  # the processor fetches by itself


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "dict", "path dict", "open file", "read file"])
def test_undecoded_images_open_the_same_image(kind: str, tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_noise()), "png")
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with open(path, "rb") as file:
        if kind == "read file":
            file.read()
        source = {
            "bytes": content,
            "bytearray": bytearray(content),
            "memoryview": memoryview(content),
            "dict": {"bytes": content, "path": "elsewhere.png"},
            "path dict": {"bytes": None, "path": str(path)},
        }.get(kind, file)
        fetched = GranulonImageProcessorPil().fetch_images([source, [source]])
        assert_reads(source, make_noise())
    for image in (fetched[0], fetched[1][0]):  # the file may be closed before it is decoded
        assert_reads(image, make_noise())


def test_a_stream_that_cannot_go_back_is_read_once() -> None:
    class Stream:
        def read(self) -> bytes:
            return encode(Image.fromarray(make_noise()), "png")

    assert_reads(Stream(), make_noise())


@pytest.mark.parametrize("address", ["file://{}", "file://localhost{}"])
def test_file_addresses_of_this_machine_are_paths(address: str, tmp_path: Path) -> None:
    Image.fromarray(make_noise()).save(tmp_path / "an image.png")
    assert_reads(address.format(quote(f"{tmp_path}/an image.png")), make_noise())


@pytest.mark.parametrize("address", ["file://server/share/a.png", "file://10.0.0.1/a.png"])
def test_file_addresses_of_other_machines_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="files of other machines .* are not fetched"):
        read(address)


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", str(tmp_path / "pipe"), "/dev/zero", f"file://{tmp_path}/pipe", tmp_path):
        with pytest.raises(ValueError, match="as an image: it is not a file"):
            read(source)
    with pytest.raises(ValueError, match=r"missing\.png"):
        read(tmp_path / "missing.png")


@pytest.mark.parametrize("source", [b"", b"no image", {"bytes": b"no image", "path": None}, BytesIO(b"no image")])
def test_bytes_of_something_else_raise(source: Any) -> None:
    with pytest.raises(ValueError, match="as an image"):
        read(source)


@pytest.mark.parametrize("source", [{}, {"bytes": None, "path": None}, {"bytes": b"", "url": "a.png"}])
def test_dictionaries_that_hold_no_image_raise(source: Any) -> None:
    with pytest.raises(TypeError, match="came as dict.* dictionary with `bytes` or `path`"):
        read(source)


# ---------------------------------------------------------------------- downloads


class Handler(SimpleHTTPRequestHandler):
    """Serves the test's folder, and servers that misbehave under the paths that name how."""

    def do_GET(self) -> None:
        kind = self.path.strip("/").partition("-")[0]
        if kind not in ("endless", "announced", "drip", "headers", "loop", "moved"):
            return super().do_GET()
        try:
            if kind == "headers":
                self.write(b"HTTP/1.0 200 OK\r\n", *[b"X-%d: y\r\n" % index for index in range(1000)], pause=0.05)
                return None
            self.send_response(302 if kind in ("loop", "moved") else 200)
            if kind in ("loop", "moved"):
                self.send_header("Location", {"loop": "/loop", "moved": "/image.png"}[kind])
            if kind == "announced":
                self.send_header("Content-Length", "1000000000000")
            self.end_headers()
            if kind == "endless":
                self.write(*[bytes(2**16)] * 10_000)
            elif kind in ("announced", "drip"):
                self.write(*[b"x"] * 1000, pause=0.05)
        except OSError:  # the reader is gone
            pass

    def write(self, *chunks: bytes, pause: float = 0.0) -> None:
        for chunk in chunks:
            self.wfile.write(chunk)
            self.wfile.flush()
            time.sleep(pause)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that serves the test's folder."""
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    serving.daemon_threads = True
    serving.block_on_close = False
    with serving:
        threading.Thread(target=serving.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_addresses_are_fetched(server: str, tmp_path: Path) -> None:
    Image.fromarray(make_noise()).save(tmp_path / "image.png")
    (tmp_path / "page.html").write_text("<p>no image</p>")
    assert_reads(f"{server}/image.png", make_noise())
    assert_reads(f"{server}/moved", make_noise())
    for name in ("missing.png", "page.html", "loop"):
        with pytest.raises(ValueError, match=name):
            read(f"{server}/{name}")
    with pytest.raises(ValueError, match="Could not open 'http://127.0.0.1:1/"):
        read("http://127.0.0.1:1/image.png")


@pytest.mark.parametrize("address", ["http://", "http://[", "http://a\0b/", "http://\ud800/", "http://x:99999999/"])
def test_addresses_that_are_none_raise(address: str) -> None:
    with pytest.raises(ValueError, match="Could not open 'http://"):
        read(address)


@pytest.mark.parametrize("kind", ["drip", "headers"])
def test_a_download_that_drips_ends_in_time(kind: str, server: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"{kind}.* took"):
        download(f"{server}/{kind}", max_seconds=0.4)
    assert time.monotonic() - start < 2
    for thread in threading.enumerate():
        if thread.name == "granulon-download":
            thread.join(2)
            assert not thread.is_alive()  # nobody goes on listening


@pytest.mark.parametrize("kind", ["endless", "announced"])
def test_a_download_that_is_too_large_ends_early(kind: str, server: str) -> None:
    with pytest.raises(ValueError, match=f"{kind}.* holds more than 1,000,000 bytes"):
        download(f"{server}/{kind}", max_bytes=1_000_000, max_seconds=20)


def test_the_processors_downloads_are_bounded(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_granulon, "download", partial(download, max_bytes=1000, max_seconds=0.4))
    for kind in ("endless", "drip"):
        with pytest.raises(ValueError, match=f"Could not open '{server}/{kind}"):
            read(f"{server}/{kind}")


# ---------------------------------------------------------------------- large images


def test_a_limit_in_pixels_is_checked_on_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(make_noise(40, 30)).save(tmp_path / "image.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("the image was decoded"))
    processor = GranulonImageProcessorPil(max_image_pixels=1199)
    with pytest.raises(ValueError, match=r"image\.png.* 40 x 30 = 1,200 pixels, more than the 1,199"):
        processor(str(tmp_path / "image.png"))
    with pytest.raises(ValueError, match="more than the 7 of `max_image_pixels`"):
        GranulonImageProcessorPil()(str(tmp_path / "image.png"), max_image_pixels=7)
    monkeypatch.undo()
    for limit in (1200, None):
        assert_reads(str(tmp_path / "image.png"), make_noise(40, 30), processor=processor, max_image_pixels=limit)


def test_the_limit_in_pixels_is_pillows_and_is_saved(tmp_path: Path) -> None:
    assert GranulonImageProcessorPil().max_image_pixels == Image.MAX_IMAGE_PIXELS
    GranulonImageProcessorPil(max_image_pixels=5000).save_pretrained(tmp_path)
    assert GranulonImageProcessorPil.from_pretrained(tmp_path).max_image_pixels == 5000


@pytest.mark.parametrize("size", [{"height": 16, "width": 24}, {"shortest_edge": 20}])
@pytest.mark.parametrize("rescale_first", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "CMYK", "I;16", "F", "LA", "La", "PA", "array"])
def test_large_images_have_the_same_pixels_band_by_band(
    mode: str, rescale_first: bool, size: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image: Any = Image.fromarray(make_noise(61, 47))
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (61, 47)).astype(np.uint16))
    elif mode == "array":
        image = make_noise(61, 47)
    elif mode in ("La", "PA"):
        image = Image.fromarray(make_noise(61, 47, 4)).convert("LA").convert(mode)
    else:
        image = image.convert(mode)
        image.info["transparency"] = 3 if mode == "P" else None
    processor = GranulonImageProcessorPil(size=size, rescale_first=rescale_first)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    for band in (1, 100, 61 * 47 - 1):
        for module in (images_granulon, image_processing_granulon):
            monkeypatch.setattr(module, "BAND_PIXELS", band)
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("shape", [(4000, 1), (1, 4000), (900, 3), (60, 60)])
def test_narrow_images_shrink_along_their_length_first(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(make_noise(*shape))
    processor = GranulonImageProcessorPil(size={"height": 16, "width": 24})
    expected = processor(image, return_tensors="pt")["pixel_values"]
    for name in ("BAND_PIXELS", "MAX_STRIP_PIXELS"):
        monkeypatch.setattr(images_granulon, name, 500)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)


MEASURE = """
import resource, sys
from PIL import Image
from granulon import GranulonImageProcessorPil

processor = GranulonImageProcessorPil()
processor(Image.new("RGB", (9, 9)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert processor(sys.argv[1])["pixel_values"][0].shape == (3, 224, 224)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode, file", [("1", "large.png"), ("RGB", "large.jpg"), ("RGBA", "large.png")])
def test_shrinking_a_large_image_takes_less_than_a_gigabyte(mode: str, file: str, tmp_path: Path) -> None:
    size = (13000, 6880)  # just below the limit
    Image.new(mode, size).save(tmp_path / file)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / file)], check=True, capture_output=True, text=True
    )
    assert int(measured.stdout) < 1000


def test_sources_may_be_nested_and_mixed(tmp_path: Path) -> None:
    Image.fromarray(make_noise(seed=1)).save(tmp_path / "image.png")
    array, tensor = make_noise(seed=2), torch.from_numpy(make_noise(seed=3))
    processor = GranulonImageProcessorPil()
    fetched = processor.fetch_images([[str(tmp_path / "image.png"), array], (tensor,), []])
    assert [len(group) for group in fetched] == [2, 1, 0]
    images = [make_noise()[..., 0], make_noise(), Image.fromarray(make_noise())]
    for batch in (images, images[::-1]):
        assert processor(batch, return_tensors="pt")["pixel_values"].shape == (3, 3, 224, 224)
    assert isinstance(fetched[0][0], Image.Image) and fetched[0][1] is array and fetched[1][0] is tensor


# ---------------------------------------------------------------------- arrays and tensors


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("layout", ["HWC", "CHW", "HW", "HW1", "1HW"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "float16", "bool"])
def test_arrays_and_tensors_of_every_layout_and_dtype(kind: Any, layout: str, dtype: str) -> None:
    pixels = make_noise()
    if "C" not in layout:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    if dtype == "bool":
        values, pixels = pixels > 127, (pixels > 127) * np.uint8(255)
    elif dtype == "uint16":
        values = pixels.astype(np.uint16) * 257
    else:
        values = pixels if dtype == "uint8" else (pixels / 255).astype(dtype)
    if "C" not in layout:
        values = values[..., 0]
    axes = {"HWC": (0, 1, 2), "CHW": (2, 0, 1), "HW": (0, 1)}.get(layout)
    values = values.transpose(axes) if axes else values[..., None] if layout == "HW1" else values[None]
    assert_reads(kind(np.ascontiguousarray(values)), pixels, atol=0.1 if dtype == "float16" else 1e-3)


def test_bfloat16_tensors() -> None:
    pixels = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat(8, 2)
    assert_reads(pixels.bfloat16(), np.repeat(pixels.numpy()[..., None], 3, axis=2) * 255)


def test_tensors_with_a_graph_are_read_without_it() -> None:
    pixels = torch.rand(8, 8, 3, requires_grad=True)
    assert_reads(pixels, pixels.detach().numpy() * 255)


def test_floats_above_one_are_eight_bit() -> None:
    assert_reads(make_noise().astype(np.float32), make_noise())


def test_an_arrays_fourth_channel_is_alpha() -> None:
    rgba = make_noise(channels=4)
    image = Image.fromarray(rgba)
    for array in (rgba, rgba.transpose(2, 0, 1), rgba / 255, torch.from_numpy(rgba)):
        torch.testing.assert_close(read(array), read(image), rtol=0, atol=1.0)


def test_an_ambiguous_layout_can_be_given() -> None:
    array = make_noise(3, 3)
    assert_reads(array, array, input_data_format="channels_last")
    assert_reads(array, array.transpose(1, 2, 0), input_data_format="channels_first")


def test_pixels_that_are_rescaled_already_stay_as_they_are() -> None:
    unit = make_noise().astype(np.float32) / 255
    processor = GranulonImageProcessorPil(size={"height": 8, "width": 8})
    expected = processor(make_noise(), return_tensors="pt")["pixel_values"]
    pixels = processor(unit, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)


def test_a_batch_in_one_array_is_a_list_of_images() -> None:
    batch = np.stack([make_noise(seed=0), make_noise(seed=1)])
    for images in (batch, torch.from_numpy(batch)):
        pixels = GranulonImageProcessorPil()(images, return_tensors="pt", **RAW)["pixel_values"]
        torch.testing.assert_close(pixels.permute(0, 2, 3, 1) * 255, torch.from_numpy(batch).float())


def test_the_image_that_came_is_not_changed() -> None:
    array, image = make_noise(channels=4), Image.fromarray(make_noise(channels=4))
    before = array.copy(), image.tobytes()
    for source in (array, image):
        GranulonImageProcessorPil()(source, return_tensors="pt")
    assert np.array_equal(array, before[0]) and image.tobytes() == before[1] and image.mode == "RGBA"


# ---------------------------------------------------------------------- what cannot be an image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_truncated_files_raise_wherever_they_were_cut(kind: str, tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_noise(64, 64)), kind)
    path = tmp_path / "cut.image"
    for share in np.linspace(0.0, 0.9, 19):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"cut\.image.*"):
            read(str(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_pil_images_raise(kind: str) -> None:
    content = encode(Image.fromarray(make_noise(64, 64)), kind)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read(Image.open(BytesIO(content[: len(content) // 2])))


def test_damaged_files_never_pass_silently_as_another_error(tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_noise(16, 16)), "PNG")
    path = tmp_path / "damaged.png"
    random = np.random.default_rng(0)
    raised = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[int(random.integers(8, len(content)))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            read(str(path))
        except ValueError as error:
            raised += 1
            assert "damaged.png" in str(error)
    assert raised > 30


@pytest.mark.parametrize("error", [RuntimeError("avif"), KeyError(1), MemoryError(), struct.error(), AssertionError()])
@pytest.mark.parametrize("stage", ["open", "load", "convert"])
def test_whatever_a_decoder_raises_is_a_value_error(
    stage: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(make_noise()).save(tmp_path / "image.png")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    place = {"open": PngImagePlugin.PngImageFile, "load": ImageFile.ImageFile, "convert": Image.Image}[stage]
    monkeypatch.setattr(place, "_open" if stage == "open" else stage, fail)
    with pytest.raises(ValueError, match=r"image\.png'.*: ."):
        read(str(tmp_path / "image.png"))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_damaged_avif_files_are_value_errors() -> None:
    content = encode(Image.new("RGB", (40, 56), "red"), "AVIF")
    random = np.random.default_rng(0)
    raised = 0
    for _ in range(100):
        damaged = bytearray(content)
        place = int(random.integers(len(content) - 4))
        damaged[place : place + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"][random.integers(3)]
        try:
            read(bytes(damaged))
        except ValueError:
            raised += 1
    assert raised > 30


def test_a_file_that_is_no_image_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"notes\.txt.*Pillow"):
        read(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize("source", ["/nowhere/image.png", "image number one.jpg", "data:image/png;base64,@@@@"])
def test_sources_that_do_not_exist_raise(source: str) -> None:
    with pytest.raises(ValueError, match="No image at"):
        read(source)


@pytest.mark.parametrize("content", [b"", b"plain text, nothing else"])
def test_base64_of_something_else_raises(content: bytes) -> None:
    with pytest.raises(ValueError, match="as an image"):
        read(base64.b64encode(content).decode())


def test_errors_show_only_the_beginning_of_a_long_source() -> None:
    with pytest.raises(ValueError) as caught:
        read("data:image/png;base64," + "@" * 100_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["array", "tensor", "pil"])
def test_nan_and_infinite_pixels_raise(value: float, kind: str) -> None:
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    pixels[3, 4] = value
    image = {"array": pixels, "tensor": torch.from_numpy(pixels), "pil": Image.fromarray(pixels)}[kind]
    with pytest.raises(ValueError, match="NaN or infinite"):
        read(image)


@pytest.mark.parametrize("value", [-0.1, 255.5, 1e6])
def test_floats_out_of_range_raise_with_their_range(value: float) -> None:
    pixels = np.full((8, 8, 3), 0.5, dtype=np.float32)
    pixels[0, 0, 0] = value
    with pytest.raises(ValueError, match="floating-point image spans"):
        read(pixels)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_out_of_range_raise_with_their_range(value: int) -> None:
    pixels = np.full((8, 8, 3), 7, dtype=np.int64)
    pixels[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"integer image spans \[.*{value}"):
        read(pixels)
    with pytest.raises(ValueError, match="integer image spans"):
        read(Image.fromarray(pixels[..., 0].astype(np.int32)))


@pytest.mark.parametrize("shape", [(8, 8, 2), (8, 8, 5), (2, 8, 8), (7, 8, 9), (8,), (1, 2, 8, 8, 3)])
def test_arrays_that_are_no_image_raise(shape: tuple[int, ...]) -> None:
    for image in (np.zeros(shape, dtype=np.uint8), torch.zeros(shape)):
        with pytest.raises(ValueError, match="(?i)channel|shape"):
            read(image)


@pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0, 3), (3, 0, 8), (0, 0)])
def test_arrays_without_pixels_raise(shape: tuple[int, ...]) -> None:
    for image in (np.zeros(shape, dtype=np.uint8), torch.zeros(shape)):
        with pytest.raises(ValueError, match="at least one pixel"):
            read(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "F"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pil_images_without_pixels_raise(mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="pixel"):
        GranulonImageProcessorPil()(Image.new(mode, size))


@pytest.mark.parametrize("dtype", ["complex64", "object", "U1"])
def test_arrays_that_are_not_numbers_raise(dtype: str) -> None:
    with pytest.raises(TypeError, match="dtype"):
        read(np.ones((8, 8, 3)).astype(dtype))


@pytest.mark.parametrize("image", [7, 3.5, {"url": "image.png"}, object(), None])
def test_things_that_are_no_image_raise_with_their_type(image: Any) -> None:
    with pytest.raises(TypeError, match=type(image).__name__):
        GranulonImageProcessorPil().fetch_images([image])


# ---------------------------------------------------------------------- saving


@pytest.mark.parametrize("rescale_first", [True, False])
def test_saved_settings_come_back_and_give_the_same_pixels(rescale_first: bool, tmp_path: Path) -> None:
    settings = {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 24},
        "do_center_crop": True,
        "resample": Image.Resampling.BICUBIC,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "rescale_first": rescale_first,
    }
    processor = GranulonImageProcessorPil(**settings)
    processor.save_pretrained(tmp_path)
    reloaded = GranulonImageProcessorPil.from_pretrained(tmp_path)
    assert reloaded.to_dict() == processor.to_dict()
    image = Image.fromarray(make_noise(70, 50))
    expected = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(reloaded(image, return_tensors="pt")["pixel_values"], expected)
    default = GranulonImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    assert default.shape != expected.shape


def test_the_saved_file_names_both_backends(tmp_path: Path) -> None:
    processor = GranulonImageProcessorPil()
    processor.save_pretrained(tmp_path)
    saved = GranulonImageProcessorPil.get_image_processor_dict(tmp_path)[0]
    module = "image_processing_granulon"
    assert saved["auto_map"]["AutoImageProcessor"] == {
        "torchvision": f"{module}.GranulonImageProcessor",
        "pil": f"{module}.GranulonImageProcessorPil",
    }
    assert (tmp_path / f"{module}.py").exists()
    assert saved["image_processor_type"] == "GranulonImageProcessor"


# ---------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("source", [(200, 150), (20, 30), (64, 64)])
def test_torchvision_pixels_equal_dinov3s_own(source: tuple[int, int]) -> None:
    pytest.importorskip("torchvision")
    image = make_noise(*source)
    processor = GranulonImageProcessor(size={"height": 64, "width": 48})
    pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0], to_dinov3_pixels(image, (64, 48)), rtol=0, atol=1e-4)


def test_torchvision_decodes_as_pil_does() -> None:
    pytest.importorskip("torchvision")
    for channels in (1, 3, 4):
        image = Image.fromarray(make_noise(channels=channels).squeeze())
        expected = read(image)
        torch.testing.assert_close(read(image, GranulonImageProcessor()), expected, rtol=0, atol=1e-3)
