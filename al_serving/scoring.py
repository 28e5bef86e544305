"""From image files to answers and log rows; the one path for requests, folders, and Azure ML's `run()`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from al_core.images import MAX_PIXELS, BadImage, TooManyPixels, content_id, decode_image, too_many_pixels
from al_core.learning.preprocessing import to_pixels
from al_core.near_duplicates import near_duplicate_hash
from al_core.records import ModelManifest, Source, half_precision
from al_core.uncertainty import uncertainty_scores
from al_serving.collector import Collector, CollectorFull, Prediction, Rejection
from al_serving.payloads import BadRequest, SentImage

if TYPE_CHECKING:
    from pathlib import Path

    from al_core.learning.inference import Predictor
    from al_core.learning.known_embeddings import KnownEmbeddings
    from al_resources.platform import Platform

Answer = dict[str, Any]  # JSON: filename, image_id, label, labels, probs, model_name, model_version; or filename, error
LONGEST_NAME = 200  # characters: what a client calls an image ends up in a ledger
TOO_LARGE, UNREADABLE = 413, 422  # HTTP statuses of images that cannot be scored


@dataclass(frozen=True)
class ReadImage:
    """An image ready for the model."""

    name: str
    data: bytes
    image_id: str
    image_hash: str
    pixels: torch.Tensor  # (1, channels, size, size) uint8: waiting images take little memory
    received: float | None = None  # time.perf_counter() of the request
    picture_pixels: int = 0  # of the picture as it was sent: what decoding it cost


@dataclass(frozen=True)
class RefusedImage:
    """An image that cannot be scored, with the HTTP status that says why."""

    name: str
    reason: str
    status: int


@dataclass(frozen=True)
class LargeImage:
    """An image that was not decoded yet, because it has more pixels than were asked for."""

    image: SentImage
    pixels: int


def all_refused(refused: Sequence[RefusedImage]) -> BadRequest:
    """What a request gets that holds no image that can be scored."""
    return BadRequest(refused[0].status, "; ".join(f"{image.name}: {image.reason}" for image in refused[:5]))


def printable(name: str) -> str:
    """A client's name for an image as text that every store takes: valid Unicode, and not without end."""
    return name.encode(errors="replace").decode()[:LONGEST_NAME]


def _own_name(image: ReadImage) -> str | None:
    """What the client knows the image by; a row's number in a request is no name."""
    return None if image.name == image.image_id or image.name.isdigit() else image.name


def prediction_id(batch: str, manifest: ModelManifest, image_id: str) -> str:
    """The id of what a version answers for an image in a batch: the same when the batch is done again."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{batch}/{manifest.name}/{manifest.version}/{image_id}"))


class Misbehaved(Exception):
    """The model answered something that is no probability distribution over its classes."""


class Scorer:
    """One model version and the collector that logs its answers. Safe to use from several threads."""

    def __init__(
        self,
        predictor: Predictor,
        collector: Collector | None,
        *,
        max_image_bytes: int = 20_000_000,
        max_image_pixels: int = MAX_PIXELS,
        log_embeddings: bool = False,
        known: KnownEmbeddings | None = None,
    ) -> None:
        self.predictor = predictor
        self.manifest = predictor.manifest
        self._collector = collector
        self._max_bytes = max_image_bytes
        self._max_pixels = max_image_pixels
        self._log_embeddings = log_embeddings
        self._known = known  # where batches find and leave embeddings; requests wait for no store

    @classmethod
    def of(
        cls,
        platform: Platform,
        checkpoint: Path,
        collector: Collector | None,
        known: KnownEmbeddings | None = None,
    ) -> Scorer:
        """The scorer of one checkpoint folder, as the platform's settings want it.

        In a batch, what its encoder made of an image before is taken from `known`, and what it makes is left there.
        """
        from al_core.learning.inference import Predictor

        settings = platform.settings.serving
        return cls(
            Predictor.load(checkpoint),
            collector,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            log_embeddings=settings.log_embeddings,
            known=known,
        )

    def score(self, images: Sequence[SentImage], source: Source) -> list[Answer]:
        """One answer per image, in their order; an image that cannot be scored is answered with its reason.

        Raises:
            CollectorFull: the answers could not be logged, so there are none.
            Misbehaved: the model's output is no distribution.
        """
        answers = self.answer([self.read(image, source) for image in images], source)
        self.kept().result()
        return answers

    def kept(self) -> Future[None]:
        """Done when the answers so far may be given, see `Collector.kept`."""
        if self._collector is not None:
            return self._collector.kept()
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def read(self, image: SentImage, source: Source, received: float | None = None) -> ReadImage | RefusedImage:
        """Decode one image; one that cannot be scored is put on record.

        `received` is the `time.perf_counter()` of the request's arrival, for the latency in the log.
        """
        read = self.read_up_to(self._max_pixels, image, source, received)
        assert not isinstance(read, LargeImage), "what is larger than every image may be is refused"
        return read

    def read_up_to(
        self, pixels: int, image: SentImage, source: Source, received: float | None = None
    ) -> ReadImage | RefusedImage | LargeImage:
        """As `read` does; an image of more than so many pixels comes back as it is, unless that is too large anyway."""
        image_id = content_id(image.data)
        name = printable(image.name)

        def refuse(reason: str, status: int) -> RefusedImage:
            if self._collector is not None:
                # the content id belongs to the name: many clients call every image "0"
                named = f"{name} ({image_id})" if name else image_id
                self._collector.reject(Rejection(named, reason, source))
            return RefusedImage(name or image_id, reason, status)

        if image.problem:
            return refuse(image.problem, UNREADABLE)
        if len(image.data) > self._max_bytes:
            reason = f"{len(image.data):,} bytes, at most {self._max_bytes:,} are accepted; scale it down"
            return refuse(reason, TOO_LARGE)
        channels = self.manifest.preprocessing.channels
        try:
            most = min(pixels, self._max_pixels)
            picture = decode_image(image.data, name=image.name, max_pixels=most)
        except TooManyPixels as error:
            if error.pixels <= self._max_pixels:
                return LargeImage(image, error.pixels)
            return refuse(too_many_pixels(error.width, error.height, self._max_pixels), UNREADABLE)
        except BadImage as error:
            return refuse(error.reason, UNREADABLE)
        image_hash = near_duplicate_hash(picture)  # of the colours, whatever the model sees: others hash them, too
        if channels == 1:
            picture = picture.convert("L")
        return ReadImage(
            name or image_id,
            image.data,
            image_id,
            image_hash,
            to_pixels([picture], self.manifest.preprocessing),
            received,
            picture.width * picture.height,
        )

    def answer(
        self, images: Sequence[ReadImage | RefusedImage], source: Source, *, batch: str | None = None
    ) -> list[Answer]:
        """Predict and log; in a `batch` that has a name under ids that it finds again. Raises as `score` does."""
        if self._collector is not None and self._collector.full:
            raise CollectorFull("the prediction log cannot take more at the moment; try again in a few seconds")
        readable = [image for image in images if isinstance(image, ReadImage)]
        probs, embeddings = self._predict(readable, source)
        if self._collector is not None and readable:
            self._collector.offer(self._rows(readable, probs, embeddings, source, batch))
        distributions = iter(probs)
        return [
            self._answer(image, next(distributions))
            if isinstance(image, ReadImage)
            else {"filename": image.name, "error": image.reason}
            for image in images
        ]

    def prediction_id(self, batch: str, image_id: str) -> str:
        """The id of what this version answers for an image in a batch: the same when the batch is done again."""
        return prediction_id(batch, self.manifest, image_id)

    def _predict(self, images: Sequence[ReadImage], source: Source) -> tuple[np.ndarray, np.ndarray | None]:
        if not images:
            return np.empty((0, len(self.manifest.classes)), np.float32), None
        if source == "batch" and self._known is not None:
            embeddings = self._known_or_made(images, self._known)
            probs = self.predictor.classify(embeddings)
        else:
            probs, embeddings = self.predictor.predict_pixels(torch.cat([image.pixels for image in images]))
        try:
            uncertainty_scores(probs)
        except ValueError as error:
            raise Misbehaved(f"version {self.manifest.version} answered nonsense: {error}") from error
        return probs, embeddings if self._log_embeddings else None

    def _known_or_made(self, images: Sequence[ReadImage], known: KnownEmbeddings) -> np.ndarray:
        """Embeddings (N, d), of half precision; only what is new to the encoder is computed."""
        ids, encoder = [image.image_id for image in images], self.predictor.encoder_hash
        found = known.read(encoder, ids)
        rows = np.empty((len(images), self.predictor.dimension), np.float32)
        rows[found.known] = found.embeddings if len(found.embeddings) else 0
        new = np.flatnonzero(~found.known).tolist()
        if new:
            made = self.predictor.embed_pixels(torch.cat([images[place].pixels for place in new]))
            if not np.isfinite(made).all():
                raise Misbehaved(f"version {self.manifest.version} answered nonsense: its embeddings are not finite")
            rows[new] = half_precision(made)
            known.add(encoder, [ids[place] for place in new], rows[new], [images[place].image_hash for place in new])
        return rows

    def _rows(
        self,
        images: Sequence[ReadImage],
        probs: np.ndarray,
        embeddings: np.ndarray | None,
        source: Source,
        batch: str | None,
    ) -> list[Prediction]:
        now = time.perf_counter()
        return [
            Prediction(
                image=image.data,
                image_id=image.image_id,
                image_hash=image.image_hash,
                model_name=self.manifest.name,
                model_version=self.manifest.version,
                classes=self.manifest.classes,
                probs=probs[row],
                source=source,
                embedding=None if embeddings is None else embeddings[row],
                latency_ms=None if image.received is None else 1000 * (now - image.received),
                prediction_id=None if batch is None else self.prediction_id(batch, image.image_id),
                name=_own_name(image) if source == "online" else None,  # whoever scores a batch knows whole paths
            )
            for row, image in enumerate(images)
        ]

    def _answer(self, image: ReadImage, probs: np.ndarray) -> Answer:
        return {
            "filename": image.name,
            "image_id": image.image_id,
            "label": self.manifest.classes[int(probs.argmax())],
            "labels": list(self.manifest.classes),
            "probs": probs.tolist(),
            "model_name": self.manifest.name,
            "model_version": self.manifest.version,
        }
