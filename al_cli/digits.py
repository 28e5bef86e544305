"""The built-in data: scikit-learn's 1 797 handwritten digits as PNG files, and their labels for the oracle."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from al_resources.platform import Platform
from simulation.datasets import digits

WRITERS = 8  # a container answers each in milliseconds


def digit_pngs() -> list[tuple[bytes, str]]:
    """Every digit as (PNG, label), in scikit-learn's order."""
    from PIL import Image

    pairs = []
    for pixels, label in digits():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        pairs.append((buffer.getvalue(), label))
    return pairs


def store_digits(platform: Platform) -> list[tuple[str, bytes]]:
    """Put the digits into the image store and their labels where the oracle looks; returns (id, PNG) of each."""
    pairs = digit_pngs()
    with ThreadPoolExecutor(WRITERS) as pool:
        images = list(pool.map(platform.images.put, [png for png, _ in pairs]))
    truth = {image.image_id: label for image, (_, label) in zip(images, pairs, strict=True)}
    stored = [(image.image_id, png) for image, (png, _) in zip(images, pairs, strict=True)]
    file = Path(platform.settings.labeling.oracle_labels)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(truth))
    return stored
