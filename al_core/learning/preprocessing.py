"""From image files to a model's input: the same path for training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from al_core.images import BadImage, decode_stored_image
from al_core.near_duplicates import near_duplicate_hash
from al_core.records import Preprocessing

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage

CHUNK = 256  # images decoded together: what bounds the memory of a pass over many files
READERS = 4  # threads: Pillow decodes outside the interpreter lock, and remote stores are slow to answer


@dataclass(frozen=True)
class ReadChunk:
    """Some consecutive images, decoded; `positions` says which ones of the list they are."""

    positions: list[int]
    pixels: torch.Tensor  # (len(positions), channels, size, size) uint8
    skipped: dict[str, str]  # image id -> why it could not be read
    hashes: list[str | None] = field(default_factory=list)  # of each position, for near-duplicates, where asked for


def to_pixels(images: Sequence[Image.Image], preprocessing: Preprocessing) -> torch.Tensor:
    """Pictures resized to the model's input, shape (N, channels, size, size), uint8."""
    size, channels = preprocessing.size, preprocessing.channels
    pixels = np.empty((len(images), channels, size, size), np.uint8)
    mode = "L" if channels == 1 else "RGB"
    for row, image in zip(pixels, images, strict=True):
        picture = fit(image if image.mode == mode else image.convert(mode), preprocessing)
        row[:] = np.asarray(picture).reshape(size, size, channels).transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def fit(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The picture as `preprocessing.size` pixels square, by its rule.

    What is cut off is never resized: the rest goes from the original to its final pixels in one step.
    """
    size, (width, height) = preprocessing.size, picture.size
    filter_ = Image.Resampling[preprocessing.interpolation.upper()]
    if preprocessing.resize == "longest":
        return ImageOps.pad(picture, (size, size), filter_, color=0)
    side = min(width, height) * preprocessing.crop
    box = (0.0, 0.0, float(width), float(height))
    if preprocessing.resize == "shortest":
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    if box == (0, 0, size, size):
        return picture
    return picture.resize((size, size), filter_, box=box)


def normalise(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """uint8 pixels as the network's float input: (pixel / 255 - mean) / std."""
    std = torch.tensor(preprocessing.std, device=pixels.device).view(1, -1, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(1, -1, 1, 1)
    return (pixels.float() - 255 * mean) / (255 * std)


def read_in_chunks(
    images: Sequence[LabeledImage],
    read_image: Callable[[str], bytes],
    preprocessing: Preprocessing,
    *,
    hashed: bool = False,
) -> Iterator[ReadChunk]:
    """Read and decode images, `CHUNK` at a time, in their order; `hashed`: with their near-duplicate hashes.

    A file that is missing or broken is left out and named with the reason; any other trouble (the store is
    not reachable, say) is raised: it would come back for every image.
    """

    def read(image: LabeledImage) -> tuple[torch.Tensor, str | None] | str:
        channels = 3 if hashed else preprocessing.channels  # the hash is that of the colours, whatever the model sees
        try:
            picture = decode_stored_image(read_image(image.uri), name=image.image_id, channels=channels)
        except BadImage as error:
            return error.reason
        except FileNotFoundError:
            return f"there is no file {image.uri}"
        return to_pixels([picture], preprocessing), near_duplicate_hash(picture) if hashed else None

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            answers = list(pool.map(read, part))
            good = [(start + i, *answer) for i, answer in enumerate(answers) if not isinstance(answer, str)]
            skipped = {
                image.image_id: reason for image, reason in zip(part, answers, strict=True) if isinstance(reason, str)
            }
            empty = torch.empty((0, preprocessing.channels, preprocessing.size, preprocessing.size), dtype=torch.uint8)
            pixels = torch.cat([pixels for _, pixels, _ in good]) if good else empty
            yield ReadChunk([i for i, _, _ in good], pixels, skipped, [known for _, _, known in good])
