"""Scoring: a folder or a part of the store in batch, into the same log as requests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from al_core.errors import GiveUp

if TYPE_CHECKING:
    from al_resources.platform import Platform
    from al_serving.batch import BatchSummary


def score(platform: Platform, *, folder: str, prefix: str, key: str, log: Callable[[str], None]) -> BatchSummary | None:
    """Score a folder of this machine or a prefix of the store: on the batch endpoint where there is one, else here.

    Neither is named: nothing is scored, and None is returned.

    `key` names the batch: asked again, it goes on with what was started on the endpoint.

    Raises:
        GiveUp: both are named, no model is deployed, or there are no images.
    """
    if not (folder or prefix):
        return None
    if folder and prefix:
        raise GiveUp("name a folder or a prefix to score, not both")
    version = platform.endpoint.state().serving_version
    if version is None:
        raise GiveUp("no model is deployed yet, so there is nothing to score with")
    from al_serving import remote_batch
    from al_serving.batch import NoImages, files_of_folder, files_of_store, score_files
    from al_serving.collector import Collector
    from al_serving.scoring import Scorer

    try:
        if platform.batch is not None and folder:
            return remote_batch.score_folder_remotely(
                platform.batch, platform.blobs, Path(folder), version, key=key, log=log
            )
        if platform.batch is not None:
            return remote_batch.score_store_remotely(platform.batch, platform.blobs, prefix, version, key=key, log=log)
        files = files_of_folder(Path(folder)) if folder else files_of_store(platform.blobs, prefix)
    except (NoImages, NotADirectoryError) as error:
        raise GiveUp(str(error)) from error
    with closing(Collector.of(platform)) as collector:
        scorer = Scorer.of(platform, platform.registry.fetch(version), collector)
        summary = score_files(
            scorer, files, collector, lambda progress: log(f"{progress.done} of {progress.total} files are scored")
        )
        collector.flush()
    return summary
