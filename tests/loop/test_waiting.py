"""One line says what the loop waits for and what ends it, from the records alone."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from al_cli.digits import digit_pngs
from al_core.records import FAILURES, table_of, utc_now
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.selecting import Wishes, choose, stage
from al_loop.waiting import standing
from al_resources.labeling.answers import Answer, AnswerLog
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, SelectionSettings, Settings


def test_from_an_empty_store_to_labels_that_nobody_has_learned_from(tmp_path: Path) -> None:
    platform = Platform(
        Settings(
            home=tmp_path,
            labeling=LabelingSettings(classes=tuple("0123456789")),
            selection=SelectionSettings(initial_budget=20),
        )
    )
    assert standing(platform).sentence == "there are no images yet; add some with `al ingest FOLDER`"
    truth = {platform.images.put(png).image_id: label for png, label in digit_pngs()[:40]}
    assert standing(platform).whom == "selection"

    chosen, _ = choose(platform, 0, Wishes(), print)
    stage(platform, 0, chosen)
    waiting = standing(platform)
    assert waiting.whom == "people"
    assert "the seed round's 20 images wait for their labels" in waiting.sentence

    answer_on_the_page(platform, 0, chosen["image_id"].to_list()[:5])
    assert "(5 of 20 of round 0 are answered)" in standing(platform).sentence
    answer_on_the_page(platform, 0, chosen["image_id"].to_list()[5:])
    assert standing(platform).sentence == "20 of 20 of round 0 are answered; release them on the labeling page"

    oracle = OracleLabeling(platform.blobs, truth)
    oracle.answer(0)
    assert standing(platform).sentence.startswith("1 exports with labels lie in the inbox; the export sensor")
    assert standing(platform, "1234abcd").sentence.startswith("run 1234abcd trains the first model")

    merge_exports(platform, "", print)
    publish_dataset(platform, 0)
    waiting = standing(platform)
    assert waiting.whom == "training"
    assert "the labels of round 0 are merged" in waiting.sentence

    row = {
        "run_id": "r", "job": "training_deployment", "round": 0, "step": "model_checkpoint",
        "reason": "one class is not enough", "failed_at": utc_now(),
    }  # fmt: skip
    platform.ledgers.insert_new("failures", table_of(FAILURES, [row]), on=["run_id"])
    waiting = standing(platform)
    assert waiting.whom == "people"
    assert "the training of round 0 failed in model_checkpoint: one class is not enough" in waiting.sentence


def answer_on_the_page(platform: Platform, round_: int, images: list[str]) -> None:
    log = AnswerLog(platform.blobs, round_)
    for image in images:
        log.append(
            Answer(
                event_id=str(uuid4()),
                round=round_,
                image_id=image,
                annotator="ann",
                kind="label",
                label="1",
                at=utc_now(),
            )
        )
