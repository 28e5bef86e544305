"""Scoring: a folder or a part of the store in batch, into the same log as requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from al_core.errors import GiveUp

if TYPE_CHECKING:
    from al_resources.platform import Platform
    from al_serving.batch import BatchProgress, BatchSummary


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
    from al_resources.image_names import NameLog
    from al_serving import remote_batch
    from al_serving.batch import files_of_folder, files_of_store, score_files
    from al_serving.collector import Collector
    from al_serving.scoring import Scorer

    below = "" if folder is None else f"{folder.absolute().as_posix()}/"

    def known_as(names: NameLog, name: str, image_id: str) -> None:
        names.add(below + name, image_id)

    if platform.batch is not None:
        with NameLog(platform.ledgers, "score") as names:
            endpoint, named = (platform.batch, platform.blobs), partial(known_as, names)
            if folder is not None:
                return remote_batch.score_folder_remotely(*endpoint, folder, version, key=key, log=log, named=named)
            return remote_batch.score_store_remotely(*endpoint, prefix, version, key=key, log=log, named=named)
    files = files_of_folder(folder) if folder is not None else files_of_store(platform.blobs, prefix)

    def say(progress: BatchProgress) -> None:
        log(f"{progress.done} of {progress.total} files are scored")

    with closing(Collector.of(platform)) as collector, NameLog(platform.ledgers, "score") as names:
        scorer = Scorer.of(platform, platform.registry.fetch(version), collector)
        collector.flush()  # what a killed attempt at this batch left in the spool is in the log before it is asked
        summary = score_files(
            scorer,
            files,
            collector,
            report or say,
            partial(known_as, names),
            batch=key,
            is_logged=partial(_logged_predictions, platform),
        )
        collector.flush()
    return summary


def _logged_predictions(platform: Platform, image_ids: list[str], prediction_ids: list[str]) -> set[str]:
    logged = platform.predictions.rows_of(image_ids, ["prediction_id"])["prediction_id"].to_pylist()
    return set(prediction_ids) & set(logged)
