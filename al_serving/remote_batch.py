"""Scoring many files on a batch endpoint, told as if it had been done here: what was scored, and which file was not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from al_serving.batch import BatchSummary, NamedFile, files_of_folder, files_of_store
from al_serving.scoring import printable

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint

Named = Callable[[str, str], None]

UPLOADERS = 8
UNANSWERED = "not answered: its mini-batch failed every time; the job's log tells why"


def score_store_remotely(
    endpoint: AzureMLBatchEndpoint,
    blobs: BlobStore,
    prefix: str,
    model_version: int,
    *,
    key: str,
    log: Callable[[str], None],
    named: Named = lambda name, image_id: None,
) -> BatchSummary:
    """Score all image blobs below `prefix`; `key` as in `AzureMLBatchEndpoint.score`, which tells what is raised.

    `named` hears of every image whose name is certain: its path, and the image's id.
    """
    names = [file.name for file in files_of_store(blobs, prefix)]
    answers = endpoint.score(prefix, model_version, key, log)
    _tell_names(names, answers, named)
    return summary_of(names, answers, model_version)


def score_folder_remotely(
    endpoint: AzureMLBatchEndpoint,
    blobs: BlobStore,
    folder: Path,
    model_version: int,
    *,
    key: str,
    log: Callable[[str], None],
    named: Named = lambda name, image_id: None,
) -> BatchSummary:
    """Score the images of a folder here: they travel into the blob store first, and are removed there afterwards.

    `named` hears of every image whose name is certain: its path in the folder, and the image's id.
    """
    files = files_of_folder(folder, log)
    prefix = f"batch/{key}/images"

    def upload(file: NamedFile) -> str | None:
        try:
            blobs.write(f"{prefix}/{file.name}", file.read(), if_absent=True)
        except (OSError, ValueError) as error:  # gone since it was listed, or a name that no blob can have
            return str(error)
        return None

    with ThreadPoolExecutor(UPLOADERS) as pool:
        problems = dict(zip((file.name for file in files), pool.map(upload, files), strict=True))
    left = {name: problem for name, problem in problems.items() if problem is not None}
    log(f"{len(files) - len(left)} of {len(files)} files copied to {prefix}")
    sent = [name for name in problems if name not in left]
    answers = endpoint.score(prefix, model_version, key, log)
    _tell_names(sent, answers, named)
    found = summary_of(sent, answers, model_version)
    for name in sent:
        blobs.delete(f"{prefix}/{name}")
    return BatchSummary(len(files), found.scored, found.duplicates, {**left, **found.refused}, model_version)


def _tell_names(names: Sequence[str], answers: Sequence[dict[str, Any]], named: Named) -> None:
    """Names of images, also of one that was scored under another name; not where several files are called the same."""
    paths = _by_file_name(names)
    ids = {answer["filename"]: answer["image_id"] for answer in answers if "image_id" in answer}
    ids |= {answer["filename"]: ids[answer["same_as"]] for answer in answers if answer.get("same_as") in ids}
    for name, image_id in ids.items():
        if len(same := paths.get(name, [])) == 1:
            named(same[0], image_id)


def _by_file_name(names: Sequence[str]) -> dict[str, list[str]]:
    paths: dict[str, list[str]] = defaultdict(list)
    for path in names:
        paths[printable(PurePosixPath(path).name)].append(path)
    return paths


def summary_of(names: Sequence[str], answers: Sequence[dict[str, Any]], model_version: int) -> BatchSummary:
    """What a batch did with the files of these names, from the answers of its mini-batches.

    An answer names a file without its folder, as the script sees it; where several are called the same, all of
    them are named.
    """
    paths = _by_file_name(names)

    def full(name: str) -> str:
        return " or ".join(paths.get(name, [name]))

    answered = Counter(answer["filename"] for answer in answers)
    missing = {full(name): UNANSWERED for name, known in paths.items() if len(known) > answered[name]}
    return BatchSummary(
        files=len(names),
        scored=len({answer["image_id"] for answer in answers if "image_id" in answer}),
        duplicates={full(a["filename"]): full(a["same_as"]) for a in answers if "same_as" in a},
        refused={full(a["filename"]): a["error"] for a in answers if "error" in a} | missing,
        model_version=model_version,
    )
