"""Forgetting: a picture and all that was said of it erased from store, log, labels and later datasets.

That it was forgotten goes on record first, by content id alone: from then on nothing brings it in again, and an erasure
that was interrupted is done by the same command. What is written already and stays: see `docs/operations.md`.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from al_resources.platform import Platform

# ledgers that say something of an image, in the order in which they are erased: the log's rows go after the
# selections that rest on them
SHEETS = "_sheet.png"  # how pictures of many images end
SAID_OF_IMAGES = ("labels", "selections", "image_names")


def forget(platform: Platform, image_id: str) -> dict[str, int]:
    """Erase an image everywhere; how many of what there were. Doing it again erases what came in meanwhile.

    Raises:
        NotFound: nothing is known of it, and nothing was.
    """
    from al_loop.trace import NotFound
    from al_resources.forgotten import check_ids, forgotten_ids

    check_ids([image_id])
    platform_knows = platform.images.exists(image_id) or image_id in forgotten_ids(platform.ledgers)
    if not platform_knows and not any(_rows(platform, image_id).values()):
        raise NotFound(f"image {image_id} was never stored, scored, selected or labeled: there is nothing to forget")
    _put_on_record(platform, image_id)
    return _erase(platform, image_id)


def left_of(platform: Platform, image_id: str) -> list[str]:
    """Where a forgotten image still is."""
    from al_resources.labeling.staging import round_folder

    found = ["the image store"] if platform.images.exists(image_id) else []
    found += [name.replace("_", " ") for name, rows in _rows(platform, image_id).items() if rows]
    rounds = platform.ledgers.read("selections")["round"].unique().to_list()
    staged = (blob.path for round_ in rounds for blob in platform.blobs.list(round_folder(round_)))
    return [*found, *(path for path in staged if image_id in path)]


def _rows(platform: Platform, image_id: str) -> dict[str, int]:
    rows = {name: platform.ledgers.read(name, image_id=image_id).height for name in SAID_OF_IMAGES}
    logged = platform.predictions.rows_of([image_id], ["prediction_id"]).num_rows
    return {**rows, "predictions": logged, "embeddings": platform.embeddings.rows_of([image_id])}


def _put_on_record(platform: Platform, image_id: str) -> None:
    """With how many labels of which export go, so that the claim of each export's labels can still be checked."""
    from al_core.records import FORGOTTEN, table_of, utc_now

    labels = platform.ledgers.read("labels", image_id=image_id)
    exports = labels.filter(pl.col("export_id").is_not_null()).group_by("export_id", maintain_order=True).len()
    now = utc_now()
    rows = [{"image_id": image_id, "forgotten_at": now}] + [
        {"image_id": image_id, "export_id": export_id, "labels": count, "forgotten_at": now}
        for export_id, count in exports.iter_rows()
    ]
    platform.ledgers.insert_new("forgotten", table_of(FORGOTTEN, rows), on=["image_id", "export_id", "labels"])


def _erase(platform: Platform, image_id: str) -> dict[str, int]:
    from al_loop.embedded_before import FOLDER
    from al_loop.embedding_map import MAP
    from al_loop.monitoring import forget_image
    from al_loop.strategy_inputs import cache_folder
    from al_resources.labeling.answers import erase_answers
    from al_resources.labeling.staging import unstage

    blobs, ids = platform.blobs, [image_id]
    rounds = platform.ledgers.read("selections", image_id=image_id)["round"].to_list()
    done = {"images": int(platform.images.erase(image_id)), "staged copies": unstage(blobs, ids)}
    own = {f"reports/{round_:04d}/contact_sheet.png" for round_ in rounds}
    for sheet in [blob.path for blob in blobs.list("reports") if blob.path.endswith(SHEETS)]:
        if sheet in own or not sheet.endswith("contact_sheet.png"):  # any other may show it, and is drawn again
            blobs.delete(sheet)
    for drawn in [blob.path for blob in blobs.list("reports") if blob.path.endswith(MAP)]:
        blobs.delete(drawn)
    done["answers on the labeling page"] = erase_answers(blobs, ids)
    shutil.rmtree(cache_folder(platform), ignore_errors=True)  # distances; the next selection computes them again
    for name in SAID_OF_IMAGES:
        done[name.replace("_", " ")] = platform.ledgers.erase(name, ids)
    done["predictions"] = platform.predictions.erase(ids)
    done["embeddings"] = platform.embeddings.erase(ids)
    for noted in [blob.path for blob in blobs.list(FOLDER)]:  # found out anew by the next prediction_log
        blobs.delete(noted)
    done["places in monitoring"] = forget_image(platform, image_id)
    return done
