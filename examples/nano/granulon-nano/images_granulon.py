"""
Images from anywhere, as pixels in [0, 255]: opened, downloaded and decoded with bounds on size, time and memory.

Whatever is wrong with an image is a `ValueError` (a `TypeError` for what is none): decoders raise what they like, so
each exception of theirs is caught, not those of a list.
"""

import base64
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from huggingface_hub.utils import httpx
from PIL import ExifTags, Image, ImageOps

from transformers.image_utils import ChannelDimension, infer_channel_dimension_format


MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit, above which it warns
MAX_DOWNLOAD_BYTES = 100 * 2**20
MAX_DOWNLOAD_SECONDS = 60.0
BAND_PIXELS = 2**22  # larger images are converted and shrunk so many pixels at a time
MAX_STRIP_PIXELS = 2**26  # of what lies between shrinking in one direction and in the other


# ---------------------------------------------------------------------- opening


def open_image(source: Any) -> Any:
    """
    What `source` names or holds as a PIL image that is not decoded yet; PIL images, arrays and tensors pass through.

    Args:
        source: a path, a URL (http, https, or file on this machine), a data URI or base64 text; an image file's bytes
            or the open file; a dictionary of `bytes` or `path`, as `datasets` stores images that are not decoded.

    Raises:
        ValueError: nothing there, or it is not an image.
        TypeError: something else came.
    """
    if isinstance(source, Image.Image | torch.Tensor | np.ndarray):
        return source
    if isinstance(source, Mapping) and source.keys() <= {"bytes", "path"}:
        source = next((source[key] for key in ("bytes", "path") if source.get(key) is not None), source)
    if isinstance(source, str):
        return _open_named(source)
    if isinstance(source, os.PathLike):
        return _open_file(os.fspath(source), str(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _open(lambda: io.BytesIO(source), f"{len(source)} bytes")
    if callable(getattr(source, "read", None)):
        return _open(lambda: _read(source), f"{type(source).__name__} {getattr(source, 'name', '')}".strip())
    raise TypeError(
        f"An image came as {type(source).__name__}, expected a PIL image, an array, a tensor, a path, a URL, a data "
        "URI, base64 text, bytes, an open file, or a dictionary with `bytes` or `path`."
    )


def _open_named(source: str) -> Image.Image:
    shown = source if len(source) <= 80 else source[:77] + "..."
    if source.startswith(("http://", "https://")):
        return _open(lambda: io.BytesIO(download(source)), shown)
    if source.startswith("file://"):
        return _open_file(_to_path(source, shown), shown)
    if len(source) < 4096 and os.path.exists(source):
        return _open_file(source, shown)
    encoded = source.partition(",")[2] if source.startswith("data:image/") else source
    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ValueError(
            f"No image at {shown!r}: expected an existing path, a URL, a data URI or base64 text."
        ) from error
    return _open(lambda: io.BytesIO(content), shown)


def _to_path(address: str, shown: str) -> str:
    try:
        host, path = urlsplit(address)[1:3]
    except ValueError as error:
        raise ValueError(f"Could not open {shown!r} as an image: {error}.") from error
    if host not in ("", "localhost"):
        raise ValueError(
            f"Could not open {shown!r} as an image: files of other machines ({host!r}) are not fetched. Pass a path, "
            "an http(s) address, or file:///path."
        )
    return url2pathname(path)


def _open_file(path: Any, shown: str) -> Image.Image:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would never end
        raise ValueError(f"Could not open {shown!r} as an image: it is not a file.")
    return _open(lambda: path, shown)


def _read(file: Any) -> io.BytesIO:
    if callable(getattr(file, "seekable", None)) and file.seekable():
        file.seek(0)
    return io.BytesIO(file.read())


def _open(read: Callable[[], Any], shown: str) -> Image.Image:
    try:
        return Image.open(read())
    except Exception as error:
        raise ValueError(
            f"Could not open {shown!r} as an image: {_say(error)}. Expected a file that Pillow reads."
        ) from error


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__


# ---------------------------------------------------------------------- downloading


def download(address: str, max_bytes: int = MAX_DOWNLOAD_BYTES, max_seconds: float = MAX_DOWNLOAD_SECONDS) -> bytes:
    """
    The content at an http(s) address; redirects are followed.

    Raises:
        ValueError: the address or its server is faulty, or the content exceeds `max_bytes` or takes longer than
            `max_seconds`, all in all: a server that sends a byte now and then is given up, too.
    """
    received: list[bytes] = []
    faults: list[Exception] = []
    end = time.monotonic() + max_seconds

    def fetch() -> None:
        try:
            received.extend(_receive(client, address, max_bytes, end))
        except Exception as error:
            faults.append(error)

    # in a thread of its own, as no timeout of a client bounds the whole of resolving, redirects, headers and content
    worker = threading.Thread(target=fetch, daemon=True, name="granulon-download")
    headers = {"Accept-Encoding": "identity"}  # what is received is what is counted
    with httpx.Client(follow_redirects=True, timeout=max_seconds, headers=headers) as client:
        worker.start()
        worker.join(max_seconds)
        is_late = worker.is_alive()  # it ends with the connection
    if is_late:
        raise ValueError(f"{address[:200]!r} took longer than {max_seconds:g} seconds. Download it by other means.")
    if faults:
        raise ValueError(f"{address[:200]!r} could not be downloaded: {_say(faults[0])}") from faults[0]
    return b"".join(received)


def _receive(client: Any, address: str, max_bytes: int, end: float) -> Iterator[bytes]:
    with client.stream("GET", address) as response:
        response.raise_for_status()
        size, announced = 0, response.headers.get("content-length", "")
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > max_bytes or (announced.isdecimal() and int(announced) > max_bytes):
                raise ValueError(f"it holds more than {max_bytes:,} bytes. Download it by other means.")
            if time.monotonic() > end:
                raise ValueError("it took too long.")
            yield chunk


# ---------------------------------------------------------------------- decoding


def check_pixels(image: Image.Image, max_pixels: int | None = MAX_IMAGE_PIXELS) -> None:
    """
    Refuse an image by the size in its header, before anything is decoded.

    Raises:
        ValueError: no pixel, or more than `max_pixels` (`None`: any number).
    """
    if 0 in image.size:
        raise ValueError(
            f"The {_name(image)!r} is {image.height} x {image.width} pixels, expected at least one pixel."
        )
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ValueError(
            f"The {_name(image)!r} is {image.height} x {image.width} = {image.width * image.height:,} pixels, more "
            f"than the {max_pixels:,} of `max_image_pixels`. Shrink it, or raise the limit where you trust the source "
            "(above twice Pillow's own limit, `PIL.Image.MAX_IMAGE_PIXELS`, too)."
        )


def pil_to_array(image: Image.Image, max_pixels: int | None = MAX_IMAGE_PIXELS) -> np.ndarray:
    """
    `(height, width, 3)` RGB in [0, 255] of any PIL image: upright (EXIF), the first frame of an animation,
    transparency over white, palettes and CMYK resolved, 16 bits scaled down (float32, nothing rounded off). Greys may
    come with one channel.

    Raises:
        ValueError: the image data is truncated or broken, or holds no pixel or too many.
    """
    check_pixels(image, max_pixels)
    try:
        image.load()  # the first frame
        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode != "F" and not image.mode.startswith("I"):
            return _to_rgb(image)
    except Exception as error:
        raise ValueError(
            f"Could not decode {_name(image)!r}: {_say(error)}. The file is truncated or damaged."
        ) from error
    return _wide_to_rgb(image)


def _name(image: Image.Image) -> str:
    return getattr(image, "filename", "") or f"{image.mode} image"


def _orientation(image: Image.Image) -> int:
    """What the EXIF data say; an image whose EXIF data are damaged, which harms no pixel, is upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an image of up to eight bits, band by band: a conversion holds several copies."""
    rows = max(1, BAND_PIXELS // image.width)
    if image.height <= rows:
        return _band_to_rgb(image)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = _band_to_rgb(image.crop((0, top, image.width, bottom)))
    return pixels


def _band_to_rgb(image: Image.Image) -> np.ndarray:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # 16 bits, of which Pillow keeps the upper 8
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or key is not None:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow knows no La to RGBA
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _wide_to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an image of one channel of more than eight bits, its transparent grey as white."""
    values = np.asarray(image)
    pixels = array_to_rgb(values, None)
    key = image.info.get("transparency")
    if isinstance(key, int) and (values == key).any():
        white = np.where((values == key)[..., None], np.float32(255), pixels[..., :1])
        return np.broadcast_to(white, pixels.shape)
    return pixels


def array_to_rgb(array: np.ndarray, channels: ChannelDimension | str | None) -> np.ndarray:
    """
    `(height, width, 3)` in [0, 255] of a `(height, width)`, channels-last or channels-first array of 1, 3 or 4
    channels. Booleans, 16-bit integers and floats in [0, 1] are scaled; alpha is laid over white.

    Raises:
        ValueError: another shape, values out of range, NaN or infinite pixels.
        TypeError: not numbers.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    elif (
        array.ndim == 3
        and (channels or infer_channel_dimension_format(array, num_channels=(1, 3, 4))) == ChannelDimension.FIRST
    ):
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"An image array has the shape {array.shape}, expected (height, width), (height, width, channels) or "
            "(channels, height, width) with 1, 3 or 4 channels and at least one pixel."
        )
    array = _scale(array)
    if array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.float32) / 255
        array = array[..., :3] * alpha + 255 * (1 - alpha)
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[-1] == 1 else array


def _scale(array: np.ndarray) -> np.ndarray:
    """Numbers in [0, 255], `uint8` where nothing is lost."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.integer):
        largest = int(array.max())
        if int(array.min()) < 0 or largest > 65535:
            raise ValueError(
                f"An integer image spans [{array.min()}, {largest}], expected [0, 255], or [0, 65535] for 16 bits."
            )
        is_16_bit = largest > 255 or array.dtype.newbyteorder("=") == np.uint16  # PIL's I;16B is big-endian
        if array.dtype == np.uint8 or not is_16_bit:
            return array.astype(np.uint8, copy=False)
        array = array.astype(np.float32)
        array /= 257  # in place: it may be large
        return array
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError("An image holds NaN or infinite pixels. Check how it was computed.")
        lowest, highest = float(array.min()), float(array.max())
        if lowest < 0 or highest > 255:
            raise ValueError(
                f"A floating-point image spans [{lowest:.4g}, {highest:.4g}], expected [0, 1] or [0, 255]. Pass "
                "pixels that are not normalised yet, or pass `pixel_values` to the model directly."
            )
        array = array.astype(np.float32)
        array *= 255 if highest <= 1 else 1
        return array
    raise TypeError(f"An image array has the dtype {array.dtype}, expected integers, floats or booleans.")


# ---------------------------------------------------------------------- shrinking


def resize_channels(
    image: np.ndarray, size: tuple[int, int], resample: Any = None, scale: float | None = None
) -> np.ndarray:
    """
    As Pillow resizes each channel, to the bit, but with one band of floats in memory instead of the whole picture.

    Args:
        image: `(channels, height, width)`, 8-bit or floats.
        size: height and width to resize to.
        scale: what to multiply by before; the result is then floating-point.
    """
    if len(image) > 1 and image.strides[0] == 0:  # greys
        return np.repeat(resize_channels(image[:1], size, resample, scale), len(image), axis=0)
    return np.stack([_resize_channel(channel, size, resample, scale) for channel in image])


def _resize_channel(channel: np.ndarray, size: tuple[int, int], resample: Any, scale: float | None) -> np.ndarray:
    def resize(part: np.ndarray, height: int, width: int) -> np.ndarray:
        return np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((width, height), resample))

    def rescale(part: np.ndarray) -> np.ndarray:  # as the library does
        return part if scale is None else (part.astype(np.float64) * scale).astype(np.float32)

    (height, width), rows = size, max(1, BAND_PIXELS // channel.shape[1])
    if channel.size <= BAND_PIXELS:
        return resize(rescale(channel), height, width)
    strip = channel.shape[0] * width  # what is left when the rows are shrunk
    if strip > MAX_STRIP_PIXELS and strip > height * channel.shape[1]:  # far taller than wide: the columns first
        return _resize_channel(channel.T, (width, height), resample, scale).T
    # Pillow shrinks the rows, then the columns; the rows of a band do not depend on those of another
    parts = (channel[top : top + rows] for top in range(0, channel.shape[0], rows))
    return resize(np.concatenate([resize(rescale(part), len(part), width) for part in parts]), height, width)
