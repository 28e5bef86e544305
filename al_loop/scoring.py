"""Scoring: a folder or a part of the store in batch, into the same log as requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from al_core.errors import GiveUp

if TYPE_CHECKING:
    from al_resources.platform import Platform
    from al_serving.batch import BatchProgress, BatchSummary, NamedFile

PAGE = 256  # images of the store compared with the log at once, or scored by their embeddings
LINE_EVERY = 1_024  # files
_REJECTED = re.compile(r"\(([0-9a-f]{32})\)$")


def permitted_folder(folder: str, permitted: Sequence[str]) -> Path:
    """A folder that somebody named who need not own this machine, if it lies in one of the permitted ones.

    Raises:
        GiveUp: it does not, links followed; names the folders there are and the setting.
    """
    path = Path(folder).expanduser().resolve()
    if any(path.is_relative_to(Path(each).expanduser().resolve()) for each in permitted):
        return path
    raise GiveUp(
        f"{folder!r} is in none of the folders that may be read, {list(permitted)}; add it to serving.folders, "
        "score a prefix of the store, or type `al score FOLDER` on the machine"
    )


def score(
    platform: Platform,
    *,
    folder: Path | None = None,
    prefix: str = "",
    key: str,
    log: Callable[[str], None],
    report: Callable[[BatchProgress], None] | None = None,
) -> BatchSummary | None:
    """Score a folder of this machine or a prefix of the store: on the batch endpoint where there is one, else here.

    Neither is named: nothing is scored, and None is returned. `key` names the batch: asked again, it goes on with
    what was started on the endpoint. `report` hears of every chunk that is scored here; without it, `log` does.

    Raises:
        GiveUp: both are named, or no model is deployed.
        NoImages: there is nothing to score.
    """
    if folder is None and not prefix:
        return None
    if folder is not None and prefix:
        raise GiveUp("name a folder or a prefix to score, not both")
    version = platform.endpoint.state().serving_version
    if version is None:
        raise GiveUp(
            "no model is deployed yet, so there is nothing to score with; `al ingest` adds images without scoring them"
        )
    from al_core.picture_files import printable
    from al_resources.image_names import NameLog
    from al_serving import remote_batch
    from al_serving.batch import files_of_folder, files_of_store

    below = "" if folder is None else f"{printable(folder.absolute().as_posix())}/"

    def known_as(names: NameLog, name: str, image_id: str) -> None:
        names.add(below + name, image_id)

    if platform.batch is not None:
        with NameLog(platform.ledgers, "score") as names:
            endpoint, named = (platform.batch, platform.blobs), partial(known_as, names)
            if folder is not None:
                return remote_batch.score_folder_remotely(*endpoint, folder, version, key=key, log=log, named=named)
            return remote_batch.score_store_remotely(*endpoint, prefix, version, key=key, log=log, named=named)
    files = files_of_folder(folder, log) if folder is not None else files_of_store(platform.blobs, prefix)
    with NameLog(platform.ledgers, "score") as names:
        return _score_here(platform, version, files, key, report or _told_to(log), partial(known_as, names))


def unscored(platform: Platform, version: int) -> Iterator[tuple[str, str]]:
    """(image id, uri) of the pool: images of the store that a version has not scored, and nobody was asked about.

    They come in the order of their ids from a place on that the version decides: the first few are a random sample,
    and another one for the next version. Files that were rejected once are passed over.
    """
    import numpy as np
    import polars as pl

    from al_core.answers import answered
    from al_core.records import image_keys
    from al_core.strategies.base import KEY_SPACE

    log = platform.predictions.scan(["image_key"], model_name=platform.settings.model.name, model_version=version)
    parts = [pl.DataFrame(batch)["image_key"].unique().to_numpy() for batch in log]  # Arrow's own way imports pandas
    known = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    passed_over = {*platform.ledgers.read("selections")["image_id"], *answered(platform.ledgers.read("labels"))}
    passed_over.update(rejected(platform))
    start = int(np.random.default_rng(version).integers(0, KEY_SPACE))
    places = iter(platform.images.places(start))
    while page := list(islice(places, PAGE)):
        keys = image_keys([image_id for image_id, _ in page])
        place = np.searchsorted(known, keys)
        is_known = known[np.minimum(place, len(known) - 1)] == keys if len(known) else np.zeros(len(keys), bool)
        for (image_id, path), seen in zip(page, is_known, strict=True):
            if not seen and image_id not in passed_over:
                yield image_id, platform.images.uri_of(path)


def score_pool(platform: Platform, *, log: Callable[[str], None]) -> BatchSummary | None:
    """Score what of the store the serving version has not seen, at most `selection.pool_scoring_limit` images.

    None: there is no such image, or no model yet. An attempt that was killed is gone on with by the next one: the log
    says what is scored.
    """
    version, limit = platform.endpoint.state().serving_version, platform.settings.selection.pool_scoring_limit
    if version is None or not limit:
        return None
    waiting = list(islice(unscored(platform, version), limit))
    if not waiting:
        return None
    from al_resources.image_store import image_path
    from al_serving.batch import BatchSummary, NamedFile

    log(f"{len(waiting)} images of the store are scored by v{version}, which has not seen them")
    key = f"pool/{platform.settings.model.name}"
    by_embedding = _scored_by_embedding(platform, version, waiting, key, log)
    files = [
        NamedFile(image_path(uri), partial(platform.images.read, uri))
        for image_id, uri in waiting
        if image_id not in by_embedding
    ]
    if not files:
        return BatchSummary(len(waiting), len(by_embedding), {}, {}, version)
    summary = _score_here(platform, version, files, key, _told_to(log))
    return replace(summary, files=len(waiting), scored=summary.scored + len(by_embedding))


def _scored_by_embedding(
    platform: Platform, version: int, images: Sequence[tuple[str, str]], key: str, log: Callable[[str], None]
) -> set[str]:
    """Score those images (id, uri) whose embedding by this version's encoder is known: the pictures are not read.

    They go into the log under the ids that scoring the pictures in the batch of this key would give them.
    """
    from al_core.records import PREDICTIONS, prediction_table
    from al_loop.answering import predictor_of
    from al_serving.scoring import prediction_id

    if not platform.settings.training.frozen:
        return set()
    predictor, uris = predictor_of(platform, version), dict(images)
    found = platform.embeddings.read(predictor.encoder_hash, list(uris))
    seen = [image_id for image_id, known in zip(uris, found.known, strict=True) if known]
    # what nobody looked at has no hash to tell its near-duplicates by: its picture has to be read
    hashed = [row for row, image_hash in enumerate(found.image_hashes) if image_hash is not None]
    # older code named no encoder in the manifest: rows of such a version hold their own embeddings
    repeats = platform.settings.serving.log_embeddings and predictor.manifest.encoder_hash is None
    for start in range(0, len(hashed), PAGE):
        rows = hashed[start : start + PAGE]
        ids, embeddings = [seen[row] for row in rows], found.embeddings[rows]
        predictions = prediction_table(
            image_ids=ids,
            image_uris=[uris[image_id] for image_id in ids],
            image_hashes=[found.image_hashes[row] for row in rows],
            model_name=predictor.name,
            model_version=version,
            classes=predictor.classes,
            probs=predictor.classify(embeddings),
            source="batch",
            embeddings=embeddings if repeats else None,
        )
        named = pa.array([prediction_id(key, predictor.manifest, image_id) for image_id in ids], pa.string())
        platform.predictions.append(predictions.set_column(0, PREDICTIONS.field("prediction_id"), named))
    if hashed:
        log(f"{len(hashed)} of them by the embeddings that {predictor.manifest.architecture} made of them before")
    return {seen[row] for row in hashed}


def rejected(platform: Platform) -> Iterator[str]:
    """Ids of images that could not be scored; batches name them by path, requests by the id behind the name."""
    for name in platform.ledgers.read("rejected_images")["name"]:
        if found := _REJECTED.search(name):
            yield found[1]


def _told_to(log: Callable[[str], None]) -> Callable[[BatchProgress], None]:
    """Every so many files, for a log: one line a chunk would drown it."""

    def say(progress: BatchProgress) -> None:
        if progress.done % LINE_EVERY == 0 or progress.done == progress.total:
            log(f"{progress.done} of {progress.total} files are scored")

    return say


def _score_here(
    platform: Platform,
    version: int,
    files: list[NamedFile],
    key: str,
    report: Callable[[BatchProgress], None],
    named: Callable[[str, str], None] = lambda name, image_id: None,
) -> BatchSummary:
    """In this process; what an earlier attempt under the same key logged is not scored again."""
    from al_serving.batch import score_files
    from al_serving.collector import Collector
    from al_serving.scoring import Scorer

    with closing(Collector.of(platform)) as collector:
        known = platform.embeddings if platform.settings.training.frozen else None
        scorer = Scorer.of(platform, platform.registry.fetch(version), collector, known)
        collector.flush()  # what a killed attempt at this batch left in the spool is in the log before it is asked
        is_logged = partial(_logged_predictions, platform)
        summary = score_files(scorer, files, collector, report, named, batch=key, is_logged=is_logged)
        collector.flush()
    return summary


def _logged_predictions(platform: Platform, image_ids: list[str], prediction_ids: list[str]) -> set[str]:
    logged = platform.predictions.rows_of(image_ids, ["prediction_id"])["prediction_id"].to_pylist()
    return set(prediction_ids) & set(logged)
