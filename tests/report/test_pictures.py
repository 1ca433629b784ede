"""Pictures in a page: the same pixels where that is small, and close to them where it would be large."""

import base64
import io

import numpy as np
from PIL import Image

from lensstudy.report.pictures import LARGE, data_uri


def shown(pixels: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The bytes in the page of an image `(H, W, 3)`, and its pixels there."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    content = base64.b64decode(data_uri(buffer.getvalue(), "png").partition("base64,")[2])
    return content, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float)


def test_a_small_picture_keeps_its_pixels():
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    assert (shown(pixels)[1] == pixels).all()


def test_a_large_one_is_close_to_them_in_far_fewer_bytes():
    noise = np.random.default_rng(2).normal(128, 25, (900, 900, 1)).clip(0, 255).astype(np.uint8)
    pixels = noise.repeat(3, axis=2)
    content, there = shown(pixels)
    lossless = io.BytesIO()
    Image.fromarray(pixels).save(lossless, "webp", lossless=True, quality=80)
    assert len(lossless.getvalue()) > LARGE and len(content) < 0.6 * len(lossless.getvalue())
    assert np.abs(there - pixels).mean() < 4
