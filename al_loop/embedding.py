"""Embedding images before anybody asks for it: a folder, or what of the store has no embedding yet.

What an encoder has made is in the table of embeddings, by the content hash of the encoder. Who needs an embedding looks
there first, so no encoder sees a picture twice: the seed round, training, self-training and scoring by later versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from al_core.errors import GiveUp

if TYPE_CHECKING:
    import torch

    from al_core.learning.embedding import EmbeddedChunk, Embedder
    from al_resources.platform import Platform
    from al_serving.batch import NamedFile

CHUNK = 256  # images read, embedded and kept together: what bounds the memory, and what a kill may cost
PAGE = 4_096  # images of the store asked about at once
READERS = 4
NAMED = 5  # images whose embedding got lost


@dataclass(frozen=True)
class EmbedSummary:
    """What became of the images."""

    images: int
    embedded: int
    known: int  # this encoder had made their embeddings before
    refused: dict[str, str]  # name -> why it could not be embedded
    architecture: str
    encoder: str  # content hash


def embedder_of(platform: Platform) -> Embedder:
    """The encoder of the version that serves; before there is one, that which a first training begins with.

    Raises:
        GiveUp: the first training begins with an encoder that has learned nothing.
        NoEncoder: it cannot be had.
    """
    from al_core.learning.embedding import Embedder

    training = platform.settings.training
    version = platform.endpoint.state().serving_version
    if version is not None:
        return Embedder.of_checkpoint(platform.registry.fetch(version), training)
    if training.initial_weights == "none":
        raise GiveUp(
            f"no model is deployed, and training.architecture = {training.architecture!r} begins from nothing: its "
            "embeddings would mean nothing; name an encoder that others trained (`al encoders`), or train a first model"
        )
    return Embedder.of_settings(training)


def embed_files(
    platform: Platform,
    embedder: Embedder,
    files: Sequence[NamedFile],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> EmbedSummary:
    """Embed what this encoder has not seen of some files; stopped at any moment, the next call goes on.

    The files need not be in the image store: an image is known by its content, so it has its embedding when it comes.
    """
    from al_resources.forgotten import forgotten_ids

    passed_over, refused = set(forgotten_ids(platform.ledgers)), dict[str, str]()
    embedded = known = done = 0
    with ThreadPoolExecutor(READERS, "al-reader") as readers:
        for start in range(0, len(files), CHUNK):
            part = files[start : start + CHUNK]
            looked_at = list(readers.map(_identified, part))
            refused |= {file.name: "cannot be read" for file, one in zip(part, looked_at, strict=True) if one is None}
            found = {one.image_id: one for one in looked_at if one is not None and one.image_id not in passed_over}
            there = platform.embeddings.known(embedder.encoder_hash, list(found))
            known += int(there.sum())
            new = [one for one, is_there in zip(found.values(), there, strict=True) if not is_there]
            read = list(readers.map(partial(_decoded, platform, embedder), new))
            refused |= {each.name: each.reason for each in read if isinstance(each, _Refused)}
            embedded += _keep(platform, embedder, [each for each in read if isinstance(each, _Decoded)])
            done += len(part)
            report(done, len(files))
    return EmbedSummary(len(files), embedded, known, refused, embedder.architecture, embedder.encoder_hash)


def embed_store(
    platform: Platform,
    embedder: Embedder,
    report: Callable[[int, int], None] = lambda done, total: None,
    limit: int | None = None,
) -> EmbedSummary:
    """Embed what this encoder has not seen of the image store, at most `limit` images; the next call goes on."""
    total = platform.images.count()
    known, embedded, refused = 0, 0, dict[str, str]()
    for page, missing in _without_embedding(platform, embedder.encoder_hash, platform.images.items()):
        known += len(page) - len(missing)
        left = len(missing) if limit is None else min(limit - embedded, len(missing))
        for chunk in _chunks_of(platform, embedder, missing[:left]):
            embedded += len(chunk.image_ids)
            refused |= chunk.skipped
            report(known + embedded + len(refused), total)
        if limit is not None and embedded >= limit:
            break
        report(known + embedded + len(refused), total)
    return EmbedSummary(total, embedded, known, refused, embedder.architecture, embedder.encoder_hash)


def fill(platform: Platform, *, log: Callable[[str], None]) -> int:
    """Give images of the store the embedding they lack of a frozen encoder, and say how many got one.

    At most `selection.pool_scoring_limit` a run, the next one goes on. What the log holds is taken from there. Where
    training changes the encoder with every version, only what is asked for is embedded, and nothing is done here.
    Asked about are the images that came in since the last run, see `EmbeddedBefore`.
    """
    limit = platform.settings.selection.pool_scoring_limit
    version = platform.endpoint.state().serving_version
    if version is None or not limit:
        return 0
    if not platform.settings.training.frozen and platform.encoder_of(platform.settings.model.name, version) is None:
        return 0
    from al_loop.embedded_before import EmbeddedBefore
    from al_loop.scoring import rejected

    embedder, unreadable = embedder_of(platform), set(rejected(platform))
    before = EmbeddedBefore(platform.blobs, platform.embeddings, embedder.encoder_hash)
    new = (
        (image_id, platform.images.uri_of(path))
        for image_id, path in before.new_among(platform.images.places())
        if image_id not in unreadable
    )
    filled = 0
    for page, missing in _without_embedding(platform, embedder.encoder_hash, new):
        lacking = {image_id for image_id, _ in missing}
        before.add([image_id for image_id, _ in page if image_id not in lacking])
        before.missing(sorted(lacking))
        wanted = missing[: limit - filled]
        done = _from_log(platform, embedder, version, [image_id for image_id, _ in wanted])
        rest = [item for item in wanted if item[0] not in done]
        if rest:
            log(f"{len(rest):,} images of the store have no embedding of {embedder.architecture} yet: embedding them")
        for chunk in _chunks_of(platform, embedder, rest):
            done |= set(chunk.image_ids)
        before.add(sorted(done))
        filled += len(done)
        if filled >= limit:
            break
    if before.lost:
        log(
            f"the table of embeddings has lost what {embedder.architecture} made of {len(before.lost):,} images "
            f"({', '.join(before.lost[:NAMED])}{', ...' if len(before.lost) > NAMED else ''}): they are embedded again"
        )
    before.write_down()
    return filled


# ---------------------------------------------------------------------- parts
@dataclass(frozen=True)
class _Identified:
    name: str
    image_id: str
    data: bytes


@dataclass(frozen=True)
class _Decoded:
    image_id: str
    image_hash: str
    pixels: torch.Tensor  # (1, channels, size, size) uint8


@dataclass(frozen=True)
class _Refused:
    name: str
    reason: str


def _identified(file: NamedFile) -> _Identified | None:
    """None: it is gone or unreadable since it was listed."""
    from al_core.images import content_id

    try:
        data = file.read()
    except OSError:
        return None
    return _Identified(file.name, content_id(data), data)


def _decoded(platform: Platform, embedder: Embedder, file: _Identified) -> _Decoded | _Refused:
    from al_core.images import BadImage, decode_image
    from al_core.learning.preprocessing import to_pixels
    from al_core.near_duplicates import near_duplicate_hash

    try:
        picture = decode_image(file.data, name=file.name, max_pixels=platform.settings.serving.max_image_pixels)
    except BadImage as error:
        return _Refused(file.name, error.reason)
    return _Decoded(file.image_id, near_duplicate_hash(picture), to_pixels([picture], embedder.preprocessing))


def _keep(platform: Platform, embedder: Embedder, images: Sequence[_Decoded]) -> int:
    import torch

    if not images:
        return 0
    rows = embedder.embed_pixels(torch.cat([image.pixels for image in images]))
    ids, hashes = [image.image_id for image in images], [image.image_hash for image in images]
    return platform.embeddings.add(embedder.encoder_hash, ids, rows, hashes)


def _without_embedding(
    platform: Platform, encoder: str, items: Iterable[tuple[str, str]]
) -> Iterator[tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """Page by page the (image id, uri) of all, and of those that this encoder has not seen."""
    items = iter(items)
    while page := list(islice(items, PAGE)):
        there = platform.embeddings.known(encoder, [image_id for image_id, _ in page])
        yield page, [item for item, is_there in zip(page, there, strict=True) if not is_there]


def _chunks_of(platform: Platform, embedder: Embedder, items: Sequence[tuple[str, str]]) -> Iterator[EmbeddedChunk]:
    from al_core.learning.contract import LabeledImage

    images = [LabeledImage(image_id, uri, "") for image_id, uri in items]
    return embedder.chunks(images, platform.images.read, platform.embeddings)


def _from_log(platform: Platform, embedder: Embedder, version: int, image_ids: Sequence[str]) -> set[str]:
    """Keep what the version logged of these images; which they were."""
    if not image_ids or not platform.settings.serving.log_embeddings:
        return set()
    columns = ["image_id", "image_hash", "model_name", "model_version", "embedding"]
    found: dict[str, tuple[list[float], str | None]] = {}
    for start in range(0, len(image_ids), CHUNK):
        rows = platform.predictions.rows_of(image_ids[start : start + CHUNK], columns).to_pylist()
        found |= {
            row["image_id"]: (row["embedding"], row["image_hash"])
            for row in rows
            if (row["model_name"], row["model_version"]) == (platform.settings.model.name, version)
            and len(row["embedding"] or ()) == embedder.dimension
        }
    if found:
        values = np.array([embedding for embedding, _ in found.values()], np.float32)
        hashes = [image_hash for _, image_hash in found.values()]
        platform.embeddings.add(embedder.encoder_hash, list(found), values, hashes)
    return set(found)
