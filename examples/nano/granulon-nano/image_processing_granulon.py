"""Granulon's image processors: any image to normalised RGB pixels, with PIL or with torchvision."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    get_image_size_for_max_height_width,
)
from transformers.processing_utils import ImagesKwargs

from .images_granulon import BAND_PIXELS, MAX_IMAGE_PIXELS, array_to_rgb, open_image, pil_to_array, resize_channels


class GranulonImageProcessorKwargs(ImagesKwargs, total=False):
    """
    Args:
        rescale_first: rescale to [0, 1] and resize in floating point, as DINOv3 does. Otherwise resize 8-bit pixels,
            as CLIP, SigLIP and DINOv2 do.
        max_image_pixels: an image with more pixels is refused by its header, before it is decoded.
        granularity: levels, one for each image. They change no pixel: `GranulonProcessor` hands them through to
            its `replace_image_token`, which writes the slots.
    """

    rescale_first: bool | None
    max_image_pixels: int | None
    granularity: Any


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
    max_image_pixels = MAX_IMAGE_PIXELS
    model_input_names = ["pixel_values"]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open what `open_image` takes, in any nesting."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        return self.fetch_image(image_url_or_urls)

    def fetch_image(self, source: Any) -> Any:
        """One image, opened (`open_image`), not decoded."""
        image = open_image(source)
        if isinstance(image, np.ndarray | torch.Tensor):
            if image.ndim not in (2, 3, 4):
                raise ValueError(
                    f"An image array has the shape {tuple(image.shape)}, expected (height, width), (height, width, "
                    "channels) or (channels, height, width), or a batch of the latter."
                )
            return image[None] if image.ndim == 2 else image  # the library refuses two dimensions
        return image

    def process_image(self, image: Any, input_data_format: ChannelDimension | str | None = None, **kwargs: Any) -> Any:
        """One image as `(3, height, width)` RGB in [0, 255], or as it came with `do_rescale=False`."""
        if isinstance(image, Image.Image):
            array = pil_to_array(image, kwargs.get("max_image_pixels", self.max_image_pixels))
        else:
            if isinstance(image, torch.Tensor):  # NumPy has no bfloat16
                image = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
            array = image
            is_unit = np.issubdtype(array.dtype, np.floating) and array.size > 0 and array.max() <= 1
            array = array_to_rgb(array, input_data_format)
            if is_unit and not kwargs.get("do_rescale", self.do_rescale):  # the caller says: [0, 1] already
                array = array / 255
        if not kwargs.get("rescale_first", self.rescale_first) and array.dtype != np.uint8:
            shape, array = array.shape, array[..., :1] if array.strides[-1] == 0 else array
            array = np.broadcast_to(array.round().astype(np.uint8), shape)
        array = np.moveaxis(array, -1, 0)
        return np.ascontiguousarray(array) if array.size <= 3 * BAND_PIXELS else array  # or a second copy of much

    def rescale_and_resize(self, image: Any, scale: float, size: SizeDict, resample: Any) -> Any:
        """`resize` of `rescale`, without the floats of a whole picture in memory."""
        raise NotImplementedError

    def _preprocess(
        self,
        images: list[Any],
        rescale_first: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        if rescale_first and do_rescale:
            if do_resize:
                images = [self.rescale_and_resize(image, rescale_factor, size, resample) for image in images]
            else:
                images = [self.rescale(image, rescale_factor) for image in images]
            do_rescale = do_resize = False
        return super()._preprocess(
            images,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            do_resize=do_resize,
            size=size,
            resample=resample,
            **kwargs,
        )

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
        """As in the library; floating-point and large images channel by channel."""
        if not np.issubdtype(image.dtype, np.floating) and image.size <= 3 * BAND_PIXELS:
            return super().resize(image, size, resample, **kwargs)
        return resize_channels(image, self._find_size(image, size), resample)

    def rescale_and_resize(self, image: np.ndarray, scale: float, size: SizeDict, resample: Any) -> np.ndarray:
        return resize_channels(image, self._find_size(image, size), resample, scale)

    def _find_size(self, image: np.ndarray, size: SizeDict) -> tuple[int, int]:
        """Height and width to resize to."""
        if size.height and size.width:
            return size.height, size.width
        if size.shortest_edge and size.longest_edge:
            return get_size_with_aspect_ratio(image.shape[-2:], size.shortest_edge, size.longest_edge)
        if size.shortest_edge:
            return get_resize_output_image_size(
                image, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
            )
        if size.max_height and size.max_width:
            return get_image_size_for_max_height_width(image.shape[-2:], size.max_height, size.max_width)
        raise ValueError(f"`size` must hold `height` and `width`, or `shortest_edge`, got {dict(size)}.")


class GranulonImageProcessor(_AnyImage, TorchvisionBackend):
    """Preprocessing with torchvision, on the images' device or on `device=`."""

    def process_image(self, image: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        array = super().process_image(image, *args, **kwargs)
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)

    def rescale_and_resize(self, image: torch.Tensor, scale: float, size: SizeDict, resample: Any) -> torch.Tensor:
        channels = [self.resize(self.rescale(channel, scale), size, resample) for channel in image.split(1)]
        return torch.cat(channels)


GranulonImageProcessor.register_for_auto_class()
GranulonImageProcessorPil.register_for_auto_class()

__all__ = ["GranulonImageProcessor", "GranulonImageProcessorPil"]
