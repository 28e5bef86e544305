"""What the loop claims, checked against its ledgers and stores: after every fault test, and by `al doctor --check`.

A claim that does not hold is told with what contradicts it; an empty answer means that it holds. What an interrupted
process left to be done again is a contradiction as well, until it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from al_core.dataset import JUDGES
from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    from al_resources.platform import Platform

PAGE = 2_000  # images asked for at once
LEFT_SECONDS = 3600  # a file that is written for longer was left behind
SHOWN = 5  # contradictions of a kind that are named


@dataclass(frozen=True)
class Claim:
    """A claim, and what contradicts it."""

    claim: str
    contradictions: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.contradictions


def check_claims(platform: Platform) -> list[Claim]:
    """Every claim. Reads all ledgers and datasets, so it is for tests and people, not for a tick."""
    return [_checked(claim, find, platform) for claim, find in CLAIMS.items()]


def exports_merged_once(platform: Platform) -> list[str]:
    """Each export is on record once, with as many labels as the ledger has of it, and no answer is there twice."""
    labels = platform.ledgers.read("labels")
    numbered = labels.filter(pl.col("answer").is_not_null())
    key = ["image_id", "annotator", "label", "outcome", "answer"]
    doubled = numbered.group_by(key).len().filter(pl.col("len") > 1)
    found = [f"the answer {row[2]!r} of {row[1]} for image {row[0]} is there {row[-1]} times" for row in doubled.rows()]
    exports = platform.ledgers.read("exports")
    again = exports.filter(pl.col("etag").is_not_null()).group_by("path", "etag").len().filter(pl.col("len") > 1)
    found += [f"{path} is on record {count} times in the same content" for path, _, count in again.rows()]
    recorded = exports.filter(status="merged").group_by("export_id").agg(pl.col("new_labels").sum())
    forgotten = platform.ledgers.read("forgotten")
    standing = labels.filter(pl.col("export_id").is_not_null()).join(forgotten, on="image_id", how="anti")
    erased = forgotten.filter(pl.col("export_id").is_not_null()).group_by("export_id").agg(pl.col("labels").sum())
    counted = (
        standing.group_by("export_id")
        .len("there")
        .join(erased, on="export_id", how="full", coalesce=True)
        .select("export_id", there=pl.col("there").fill_null(0) + pl.col("labels").fill_null(0))
    )
    for export_id, said, there in (
        counted.join(recorded, on="export_id", how="full", coalesce=True)
        .select("export_id", "new_labels", "there")
        .iter_rows()
    ):
        if said is None:
            found.append(f"{there} labels of export {export_id} are there, and its merge is not on record yet")
        elif said != (there or 0):
            found.append(f"export {export_id} is on record with {said} labels, and {there or 0} are there")
    return found


def one_dataset_version_per_content(platform: Platform) -> list[str]:
    """No two versions have the same number; each has the rows that its manifest counts, every image once."""
    found = []
    manifests = platform.datasets.manifests()
    for before, after in pairwise(manifests):
        if before.sequence == after.sequence:
            found.append(f"datasets {before.version} and {after.version} are both number {after.sequence}")
    for manifest in manifests:
        rows = platform.datasets.of_version(manifest.version).rows
        counted = dict(rows.group_by("split").len().iter_rows())
        if any(counted.get(split, 0) != count for split, count in manifest.counts.items()):
            found.append(f"dataset {manifest.version} has {counted} rows, its manifest says {manifest.counts}")
        if rows["image_id"].n_unique() != rows.height:
            found.append(f"dataset {manifest.version} has an image twice")
    return found


def no_judge_in_training(platform: Platform) -> list[str]:
    """An image that has judged is trained on in no later version."""
    found: list[str] = []
    judges: set[str] = set()
    for manifest in platform.datasets.manifests():
        rows = platform.datasets.of_version(manifest.version).rows
        taught = set(rows.filter(pl.col("split").is_in(["train", "validation"]))["image_id"])
        judges |= set(rows.filter(pl.col("split").is_in(JUDGES))["image_id"])
        found += [f"image {one} judges, and dataset {manifest.version} trains on it" for one in sorted(judges & taught)]
    return found


def no_second_deployment(platform: Platform) -> list[str]:
    """No version was promoted over itself, and the ledger's last promotion is what serves."""
    settings = platform.settings.deployment
    promoted = platform.ledgers.read("deployments").filter(endpoint=settings.endpoint, outcome="promoted")
    versions = promoted["model_version"].to_list()
    found = [f"v{after} was deployed twice in a row" for before, after in pairwise(versions) if before == after]
    state = platform.endpoint.state()
    serving = state.serving_version
    if serving is not None and state.traffic.get(state.champion or "") == 100 and serving not in versions[-1:]:
        last = f"v{versions[-1]}" if versions else "none"
        found.append(f"v{serving} serves, and the last promotion on record is {last}; materialize deployment again")
    return found


def selected_images_have_their_prediction(platform: Platform) -> list[str]:
    """Every image that was chosen on a prediction has that prediction in the log."""
    chosen = platform.ledgers.read("selections").filter(pl.col("prediction_id").is_not_null())
    found = []
    for start in range(0, chosen.height, PAGE):
        page = chosen[start : start + PAGE]
        logged = platform.predictions.rows_of(page["image_id"].unique().to_list(), ["prediction_id"])
        known = set(logged["prediction_id"].to_pylist())
        found += [
            f"image {image_id} was chosen on prediction {prediction_id}, which the log does not have"
            for image_id, prediction_id in page.select("image_id", "prediction_id").iter_rows()
            if prediction_id not in known
        ]
    return found


def models_are_as_published(platform: Platform) -> list[str]:
    """Every manifest is whole and unchanged, and the serving version's weights are those that were judged."""
    found = []
    serving = platform.endpoint.state().serving_version
    for version in platform.registry.versions():
        try:
            platform.registry.manifest(version)
            if version == serving:
                platform.registry.fetch(version)
        except (ActiveLearningError, KeyError, OSError) as error:
            found.append(str(error))
    return found


def what_is_forgotten_is_nowhere(platform: Platform) -> list[str]:
    """No store, log, ledger, staged round or later dataset has an image that was forgotten."""
    from al_loop.forgetting import left_of

    forgotten = platform.ledgers.read("forgotten").group_by("image_id").agg(pl.col("forgotten_at").max())
    since = dict(forgotten.sort("image_id").iter_rows())
    found = [
        f"image {image_id} was forgotten, and is still in {', '.join(left)}; type `al forget {image_id}` again"
        for image_id in since
        if (left := left_of(platform, image_id))
    ]
    for manifest in platform.datasets.manifests() if since else ():
        held = set(platform.datasets.of_version(manifest.version).rows["image_id"])
        found += [
            f"dataset {manifest.version} was made after image {image_id} was forgotten, and has it"
            for image_id, when in since.items()
            if image_id in held and manifest.created_at > when
        ]
    return found


def nothing_waits_for_a_person(platform: Platform) -> list[str]:
    """No row lies where no store takes it; a crash left no commit to set aside and no half-written file."""
    from al_resources.blobs import TEMPORARY
    from al_resources.delta_durability import TORN
    from al_serving.spool import waiting

    home = platform.settings.home
    _, unreadable = waiting(home / "spool")
    found = [f"{unreadable} segments in {home / 'spool'} are taken by no store"] if unreadable else []
    torn: list[Path] = sorted((home / "tables").glob(f"*/{TORN}/*")) if (home / "tables").is_dir() else []
    found += [f"{file} was left torn by a crash and set aside; nobody was promised it: delete it" for file in torn]
    half = [file for file in sorted(home.rglob(".*.tmp")) if TEMPORARY.fullmatch(file.name) and _is_left(file)]
    found += [
        f"{file} was being written when its process was killed; nobody was promised it: delete it" for file in half
    ]
    return found


def _is_left(file: Path) -> bool:
    """Whether nobody writes it any more: no file takes that long."""
    try:
        return time.time() - file.stat().st_mtime > LEFT_SECONDS
    except FileNotFoundError:  # it has its name by now
        return False


CLAIMS: dict[str, Callable[[Platform], list[str]]] = {
    "every export is merged once": exports_merged_once,
    "every dataset version is whole and there once": one_dataset_version_per_content,
    "no image that judges is trained on": no_judge_in_training,
    "no version is deployed twice, and what serves is on record": no_second_deployment,
    "every selected image has its prediction": selected_images_have_their_prediction,
    "every model is as it was published": models_are_as_published,
    "what is forgotten is nowhere": what_is_forgotten_is_nowhere,
    "nothing waits for a person": nothing_waits_for_a_person,
}


def _checked(claim: str, find: Callable[[Platform], list[str]], platform: Platform) -> Claim:
    try:
        found = find(platform)
    except ActiveLearningError as error:  # what cannot be read does not hold
        found = [str(error)]
    if (more := len(found) - SHOWN) > 0:
        found = [*found[:SHOWN], f"and {more} more"]
    return Claim(claim, tuple(found))
