"""Images of rows: found in their folder, checked once, remembered, and decoded for streams."""

import hashlib
import io
import json
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image as PILImage

from granulon.files import new_file
from granulon.processing.images_granulon import MAX_IMAGE_PIXELS, check_pixels, pil_to_array

from .faults import BadRowError, shorten, shown
from .turns import check_text


logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**30
_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CHECKS_VERSION = 3  # of what `check_image` finds


# ---------------------------------------------------------------------- where they are


def locate_image(image: Any, root: Path | None) -> str | bytes | PILImage.Image:
    """
    An image as it stands in a row: its absolute path, the bytes of its file, or the decoded image.

    Args:
        image: the name of a file, `{"bytes", "path"}` as `datasets` stores images undecoded, or a PIL image.
        root: the folder that names are relative to; `None` takes absolute paths.

    Raises:
        BadRowError: anything else, an address, and a name that leads out of `root`; symbolic links are followed.
    """
    if isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(content)
        if content is not None:
            raise BadRowError(f"has an image whose `bytes` are {shown(content)}, expected the bytes of a file")
        image = path
    if isinstance(image, PILImage.Image):
        return image
    if not isinstance(image, str) or not image.strip():
        raise BadRowError(f"has the image {shown(image)}, expected the name of a file")
    name = check_text(image, "the name of an image")
    if address := _ADDRESS.match(name):
        advice = "pass its path" if address[0].lower() == "file://" else "download it first"
        raise BadRowError(f"names the image {shown(name)}, an address and not the name of a file: {advice}")
    if root is None:
        if os.path.isabs(name):
            return name
        raise BadRowError(f"names the image {shown(name)}, but no folder: pass `images`")
    return _inside(name, str(root))


def _inside(name: str, root: str) -> str:
    path = os.path.abspath(os.path.join(root, name))
    folder, base = os.path.split(root)
    if name.startswith(f"{base}/") and not os.path.exists(path):  # "images/1.png" beside images/
        path = os.path.abspath(os.path.join(folder, name))
    if os.path.commonpath([root, path]) != root:
        raise BadRowError(f"names the image {shown(name)}, which leads out of the folder of images {root}")
    return path


def _status(path: str) -> os.stat_result:
    """Of a file that can be read to its end: not of a folder, a pipe or a device."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise BadRowError(f"the image {shown(path)} is not a file")
    if status.st_size > MAX_FILE_BYTES:
        raise BadRowError(
            f"the image {shown(path)} holds {status.st_size} bytes, more than the {MAX_FILE_BYTES} that are read"
        )
    return status


def _read(path: str) -> bytes:
    _status(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> BadRowError:
    return BadRowError(f"the image {shorten(path)!r} cannot be read ({getattr(error, 'strerror', None) or error})")


# ---------------------------------------------------------------------- whether they are good


def check_image(content: bytes, max_pixels: int | None = MAX_IMAGE_PIXELS) -> str | None:
    """
    Why an image cannot be trained on, or `None`. The whole file is decoded and made RGB as the image processor does
    it, JPEG at an eighth of its size.

    Args:
        max_pixels: with more, an image is refused by its header; `max_image_pixels` of the image processor.
    """
    try:
        with PILImage.open(io.BytesIO(content)) as image:
            check_pixels(image, max_pixels)
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            pil_to_array(image, None)
    except Exception as error:  # decoders raise what they like, SyntaxError and struct.error among them
        return _reason(error)
    return None


def _check_decoded(image: PILImage.Image, max_pixels: int | None) -> str | None:
    try:
        pil_to_array(image, max_pixels)
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, PILImage.UnidentifiedImageError):  # whose message names the object in memory
        return "cannot be decoded: the file is broken or no image"
    return f"cannot be decoded: {shorten(str(error)) or type(error).__name__}"


def decode_image(image: str | bytes | PILImage.Image, max_pixels: int | None) -> PILImage.Image:
    """An image of a stream's row as `datasets` decodes it, or a `BadRowError`."""
    if isinstance(image, PILImage.Image):
        reason = _check_decoded(image, max_pixels)
    else:
        content = image if isinstance(image, bytes) else _read(image)
        reason = check_image(content, max_pixels)
    if reason:
        raise BadRowError(_named(image, reason))
    if isinstance(image, PILImage.Image):
        return image
    return datasets.Image().decode_example({"bytes": content, "path": None})


def _named(image: Any, reason: str) -> str:
    return f"the image {shown(os.path.basename(image))} {reason}" if isinstance(image, str) else f"an image {reason}"


class ImageChecks:
    """
    Reasons and content hashes of images; those of local files are remembered until the file changes.

    Args:
        root: the folder of images. What is found in it is remembered from run to run.
        is_on: decode images. Otherwise files only have to be there.
    """

    def __init__(self, root: Path | None, max_pixels: int | None, is_on: bool = True):
        self.is_on, self.max_pixels = is_on, max_pixels
        self.known: dict[str, list[Any]] = {}  # path: size, time of change, hash, reason
        self.file = None
        if root is not None and is_on:
            key = hashlib.sha256(f"{root}\n{max_pixels}\n{_CHECKS_VERSION}".encode()).hexdigest()[:16]
            self.file = Path(datasets.config.HF_DATASETS_CACHE) / "granulon-image-checks" / f"{key}.json"
            self.known = _load_known(self.file)
        self.num_remembered = len(self.known)

    def check(self, image: str | bytes | PILImage.Image) -> tuple[str | None, str]:
        """Reason or `None`, and the hash."""
        if isinstance(image, str):
            return self._check_file(image)
        if isinstance(image, bytes):
            reason = check_image(image, self.max_pixels) if self.is_on else None
            return (_named(image, reason) if reason else None), hashlib.sha256(image).hexdigest()
        reason = _check_decoded(image, self.max_pixels)
        return (_named(image, reason), "") if reason else (None, hashlib.sha256(image.tobytes()).hexdigest())

    def _check_file(self, path: str) -> tuple[str | None, str]:
        try:
            status = _status(path)
            if not self.is_on:
                return None, f"{os.path.basename(path)}:{status.st_size}"
            entry = self.known.get(path)
            if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
                content = _read(path)
                digest = hashlib.sha256(content).hexdigest()
                entry = [status.st_size, status.st_mtime_ns, digest, check_image(content, self.max_pixels)]
                self.known[path] = entry
        except BadRowError as error:
            return str(error), ""
        return (_named(path, entry[3]) if entry[3] else None), entry[2]

    def remember(self) -> None:
        if self.file is None or len(self.known) == self.num_remembered:
            return
        try:
            with new_file(self.file) as file:
                json.dump(self.known, file)
        except OSError as error:  # a cache that cannot be written costs time, nothing else
            logger.warning("The image checks could not be remembered in %s: %s", self.file, error)


def _load_known(file: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {path: entry for path, entry in known.items() if len(entry) == 4}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):  # none yet, or a broken one
        return {}
