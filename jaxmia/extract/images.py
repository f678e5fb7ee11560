"""Decode image files, or say why they cannot be used."""

from __future__ import annotations

import io
from typing import Any

_WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes that conversion to 8 bits would clip


class UnusableError(ValueError):
    """An item cannot be used; the message is the reason, without any of its content."""


def decode(content: bytes) -> Any:
    """Return the image in RGB; transparency and EXIF orientation are ignored, as in data loaders for training.

    Args:
        content: bytes of a file of any format that Pillow reads.

    Raises:
        UnusableError: for a file that is no image, is truncated or damaged, or has more than 8 bits per channel.
    """
    import PIL.Image

    if not content:
        raise UnusableError("empty file")
    try:
        image = PIL.Image.open(io.BytesIO(content))
    except PIL.UnidentifiedImageError:
        raise UnusableError("not an image") from None
    except PIL.Image.DecompressionBombError:
        raise UnusableError("image of more pixels than Pillow allows") from None
    except Exception as error:  # of whatever kind: each format has its own
        raise UnusableError(f"damaged image ({type(error).__name__})") from None
    if image.mode in _WIDE or _is_wide(image):
        raise UnusableError(f"pixels of more than 8 bits (mode {image.mode})")
    try:
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")
    except Exception as error:  # as above
        raise UnusableError(f"truncated or damaged image ({type(error).__name__})") from None


def _is_wide(image: Any) -> bool:
    """Return whether a file has 16 bits per channel, of which Pillow would silently keep the upper 8."""
    words = [str(argument) for tile in image.tile for argument in _arguments(tile[3])]
    largest = [argument for tile in image.tile if tile[0] == "ppm" for argument in _arguments(tile[3])]
    return any(";16" in word for word in words) or any(
        isinstance(value, int) and value > 255 for value in largest
    )


def _arguments(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)
