"""Pictures as they stand in a page: inside it, small, and on white as on paper."""

from __future__ import annotations

import base64
import io

from PIL import Image

__all__ = ["data_uri", "webp"]

LARGE = 500_000  # bytes


def data_uri(content: bytes, kind: str) -> str:
    """A picture as it stands in a page; PNG becomes lossless WebP, the same pixels in a third of the bytes, or where
    that is still large, as for a sheet of noisy images, WebP that is close to them."""
    if kind == "png":
        image = Image.open(io.BytesIO(content))
        if max(image.size) < 16383:  # the largest that WebP knows
            content, kind = webp(image, lossless=True, quality=80), "webp"
            if len(content) > LARGE:
                content = webp(image, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def webp(image: Image.Image, **options) -> bytes:
    """On white, as on paper."""
    image = image.convert("RGBA")
    buffer = io.BytesIO()
    Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").save(buffer, "webp", **options)
    return buffer.getvalue()
