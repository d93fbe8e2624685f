"""Granulon's image processors: any image to normalised RGB pixels, with PIL or with torchvision."""

import base64
import binascii
import os
from io import BytesIO
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import httpx
from PIL import Image, ImageOps

from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs


class GranulonImageProcessorKwargs(ImagesKwargs, total=False):
    """
    Args:
        rescale_first: rescale to [0, 1] and resize in floating point, as DINOv3 does. Otherwise resize 8-bit pixels,
            as CLIP, SigLIP and DINOv2 do.
    """

    rescale_first: bool | None


def open_image(source: str) -> Image.Image:
    """
    Open a path, an http(s) address, a data URI or base64 text, without changing the image's mode.

    Raises:
        ValueError: nothing there, or it is not an image.
    """
    shown = source if len(source) <= 80 else source[:77] + "..."
    try:
        if source.startswith(("http://", "https://")):
            return Image.open(BytesIO(httpx.get(source, follow_redirects=True).raise_for_status().content))
        if source.startswith("data:image/"):
            return Image.open(BytesIO(base64.b64decode(source.partition(",")[2], validate=True)))
        if len(source) < 4096 and os.path.exists(source):
            return Image.open(source)
        return Image.open(BytesIO(base64.b64decode(source, validate=True)))
    except binascii.Error as error:
        raise ValueError(
            f"No image at {shown!r}: expected an existing path, a URL, a data URI or base64 text."
        ) from error
    except (OSError, httpx.HTTPError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Could not open {shown!r} as an image: {error}. Expected a file that Pillow reads."
        ) from error


def pil_to_array(image: Image.Image) -> np.ndarray:
    """
    `(height, width, 3)` RGB in [0, 255] of any PIL image: upright (EXIF), the first frame of an animation,
    transparency over white, palettes and CMYK resolved, 16 bits scaled down (float32, nothing rounded off).

    Raises:
        ValueError: the image data is truncated or broken, or holds no pixel.
    """
    name = getattr(image, "filename", "") or f"{image.mode} image"
    if 0 in image.size:
        raise ValueError(f"The {name!r} is {image.height} x {image.width} pixels, expected at least one pixel.")
    try:
        image = ImageOps.exif_transpose(image)  # decodes the first frame
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"Could not decode {name!r}: {error}. The file is truncated or damaged.") from error
    if image.mode == "F" or image.mode.startswith("I"):
        return array_to_rgb(np.asarray(image), None)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow knows no La to RGBA
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


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
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.integer):
        largest = int(array.max())
        if int(array.min()) < 0 or largest > 65535:
            raise ValueError(
                f"An integer image spans [{array.min()}, {largest}], expected [0, 255], or [0, 65535] for 16 bits."
            )
        if array.dtype != np.uint8:
            is_16_bit = largest > 255 or array.dtype.newbyteorder("=") == np.uint16  # PIL's I;16B is big-endian
            array = array.astype(np.float32) / 257 if is_16_bit else array.astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError("An image holds NaN or infinite pixels. Check how it was computed.")
        lowest, highest = float(array.min()), float(array.max())
        if lowest < 0 or highest > 255:
            raise ValueError(
                f"A floating-point image spans [{lowest:.4g}, {highest:.4g}], expected [0, 1] or [0, 255]. Pass "
                "pixels that are not normalised yet, or pass `pixel_values` to the model directly."
            )
        array = array.astype(np.float32) * (255 if highest <= 1 else 1)
    else:
        raise TypeError(f"An image array has the dtype {array.dtype}, expected integers, floats or booleans.")
    if array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.float32) / 255
        array = array[..., :3] * alpha + 255 * (1 - alpha)
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[-1] == 1 else array


class _AnyImage(BaseImageProcessor):
    """What both backends share: opening and decoding, and an auto map that names both classes."""

    valid_kwargs = GranulonImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    default_to_square = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    rescale_first = True
    model_input_names = ["pixel_values"]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open what is named by a string, in any nesting; images and arrays pass through."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, str | os.PathLike):
            return open_image(os.fspath(image_url_or_urls))
        if isinstance(image_url_or_urls, np.ndarray | torch.Tensor):
            array = image_url_or_urls
            if array.ndim not in (2, 3, 4):
                raise ValueError(
                    f"An image array has the shape {tuple(array.shape)}, expected (height, width), (height, width, "
                    "channels) or (channels, height, width), or a batch of the latter."
                )
            return array[None] if array.ndim == 2 else array  # the library refuses two dimensions
        if isinstance(image_url_or_urls, Image.Image):
            return image_url_or_urls
        raise TypeError(
            f"An image came as {type(image_url_or_urls).__name__}, expected a PIL image, an array, a tensor, a path, "
            "a URL, a data URI or base64 text."
        )

    def process_image(self, image: Any, input_data_format: ChannelDimension | str | None = None, **kwargs: Any) -> Any:
        """One image as `(3, height, width)` RGB in [0, 255], or as it came with `do_rescale=False`."""
        if isinstance(image, Image.Image):
            array = pil_to_array(image)
        else:
            if isinstance(image, torch.Tensor):  # NumPy has no bfloat16
                image = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
            array = image
            is_unit = np.issubdtype(array.dtype, np.floating) and array.size > 0 and array.max() <= 1
            array = array_to_rgb(array, input_data_format)
            if is_unit and not kwargs.get("do_rescale", self.do_rescale):  # the caller says: [0, 1] already
                array = array / 255
        if not kwargs.get("rescale_first", self.rescale_first) and array.dtype != np.uint8:
            array = array.round().astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))

    def _preprocess(
        self, images: list[Any], rescale_first: bool, do_rescale: bool, rescale_factor: float, **kwargs: Any
    ) -> BatchFeature:
        if rescale_first and do_rescale:
            images = [self.rescale(image, rescale_factor) for image in images]
            do_rescale = False
        return super()._preprocess(images, do_rescale=do_rescale, rescale_factor=rescale_factor, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        if "AutoImageProcessor" in output.get("auto_map", {}):
            output["auto_map"] = {
                "AutoImageProcessor": {
                    "torchvision": "image_processing_granulon.GranulonImageProcessor",
                    "pil": "image_processing_granulon.GranulonImageProcessorPil",
                }
            }
        return output


class GranulonImageProcessorPil(_AnyImage, PilBackend):
    """Preprocessing without torchvision."""

    def resize(self, image: np.ndarray, size: SizeDict, resample: Any = None, **kwargs: Any) -> np.ndarray:
        """As in the library; floating-point pixels channel by channel, as PIL holds them in images of one channel."""
        if not np.issubdtype(image.dtype, np.floating):
            return super().resize(image, size, resample, **kwargs)
        if size.height and size.width:
            height, width = size.height, size.width
        elif size.shortest_edge and not size.longest_edge:
            height, width = get_resize_output_image_size(
                image, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
            )
        else:
            raise ValueError(f"`size` must hold `height` and `width`, or `shortest_edge`, got {dict(size)}.")
        channels = [Image.fromarray(channel).resize((width, height), resample) for channel in image]
        return np.stack([np.asarray(channel) for channel in channels])


class GranulonImageProcessor(_AnyImage, TorchvisionBackend):
    """Preprocessing with torchvision, on the images' device or on `device=`."""

    def process_image(self, image: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return torch.from_numpy(super().process_image(image, *args, **kwargs)).to(device)


GranulonImageProcessor.register_for_auto_class()
GranulonImageProcessorPil.register_for_auto_class()

__all__ = ["GranulonImageProcessor", "GranulonImageProcessorPil"]
