"""Schedule and sensor open the next round, or say why they wait and what ends it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from al_assets.rounds import checking_rounds, open_rounds
from al_core.errors import GiveUp
from al_core.judging.stopping import RoundEvidence, advise
from al_core.records import LABELS, SELECTIONS, prediction_table, table_of, utc_now
from al_loop.selecting import Wishes, choose
from al_resources.endpoint import EndpointState
from al_resources.platform import Platform
from sensors.selection_schedule import look_for_next_round, next_round

TICK = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class Serving:
    """An endpoint on which a version already serves."""

    def state(self) -> EndpointState:
        return EndpointState(model_name="classifier", deployments={"blue": 1}, traffic={"blue": 100})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def tick(platform: Platform, instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    return next_round(instance, platform, TICK, print)


def reason(platform: Platform, instance: dg.DagsterInstance) -> str:
    skipped = tick(platform, instance)
    assert isinstance(skipped, dg.SkipReason), f"expected a reason to wait, got {skipped}"
    return skipped.skip_message or ""


def test_without_images_it_waits_and_says_how_to_add_some(platform: Platform, instance: dg.DagsterInstance) -> None:
    assert "al ingest" in reason(platform, instance)
    assert not instance.get_dynamic_partitions("round")


def test_with_images_and_no_model_it_opens_the_seed_round(
    platform: Platform, instance: dg.DagsterInstance, png: bytes
) -> None:
    platform.images.put(png)
    request = tick(platform, instance)
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.run_key) == ("0000", "round-0000")
    assert instance.get_dynamic_partitions("round") == ["0000"]


def test_it_waits_for_the_labels_of_the_seed_round(
    platform: Platform, instance: dg.DagsterInstance, png: bytes
) -> None:
    instance.add_dynamic_partitions("round", ["0000"])
    select(platform, 0, [platform.images.put(png).image_id])
    said = reason(platform, instance)
    assert "1 images wait for their labels" in said
    assert "al label" in said


def pictures(platform: Platform, count: int) -> list[str]:
    noise = np.random.default_rng(0).integers(0, 256, (count, 16, 16), np.uint8)
    buffers = [io.BytesIO() for _ in range(count)]
    for pixels, buffer in zip(noise, buffers, strict=True):
        Image.fromarray(pixels).save(buffer, "PNG")
    return [platform.images.put(buffer.getvalue()).image_id for buffer in buffers]


def train(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tags: dict[str, str] | None = None) -> None:
    instance.add_run(dg.DagsterRun("training_deployment", status=status, tags=tags))


@pytest.mark.parametrize(
    ("status", "tags"),
    [
        (dg.DagsterRunStatus.NOT_STARTED, {}),
        (dg.DagsterRunStatus.STARTED, {}),
        (dg.DagsterRunStatus.FAILURE, {"dagster/will_retry": "true"}),
    ],
)
def test_it_waits_while_the_first_model_is_being_trained(
    platform: Platform, instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tags: dict[str, str]
) -> None:
    labeled, _ = pictures(platform, 2)
    select(platform, 0, [labeled])
    label(platform, [labeled])
    train(instance, status, tags)
    assert "trains the first model; the next round follows when it has ended" in reason(platform, instance)


def test_where_the_labels_made_no_model_another_random_round_is_drawn(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """A seed round of one class, or labels that were there before any round: nobody has anything to label."""
    labeled, fresh = pictures(platform, 2)
    instance.add_dynamic_partitions("round", ["0000"])
    select(platform, 0, [labeled])
    label(platform, [labeled])
    train(instance, dg.DagsterRunStatus.FAILURE)
    request = tick(platform, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "0001"
    chosen, _ = choose(platform, 1, Wishes(), print)
    assert chosen["image_id"].to_list() == [fresh]


def test_where_every_image_is_labeled_and_no_model_came_of_it_it_says_so(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    labeled = pictures(platform, 2)
    label(platform, labeled)
    assert "no model yet, and every image is labeled" in reason(platform, instance)
    with pytest.raises(GiveUp, match="Every image in the image store is selected or labeled already"):
        choose(platform, 0, Wishes(), print)


def test_too_few_new_predictions_are_a_reason_to_wait(platform: Platform, instance: dg.DagsterInstance) -> None:
    serve(platform, predictions=99)
    assert "99 images that model v1 scored" in reason(platform, instance)
    assert "selection.min_new_predictions = 100" in reason(platform, instance)


def test_enough_new_predictions_open_the_next_round(platform: Platform, instance: dg.DagsterInstance) -> None:
    ids = serve(platform, predictions=101)
    instance.add_dynamic_partitions("round", ["0000"])
    select(platform, 0, ids[:1])
    label(platform, ids[:1])
    request = tick(platform, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "0001"


def test_a_batch_that_nobody_labeled_is_a_reason_to_wait_so_that_rounds_do_not_pile_up(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    ids = serve(platform, predictions=800)
    budget = platform.settings.selection.budget
    instance.add_dynamic_partitions("round", ["0000"])
    select(platform, 0, ids[:budget])
    assert f"{budget} candidates wait for a label, more than selection.max_unlabeled = 12" in reason(platform, instance)
    label(platform, ids[: budget - 12])
    assert isinstance(tick(platform, instance), dg.RunRequest), "the few that are left hold nobody up"


def test_while_new_labels_are_trained_on_the_next_round_waits_for_the_model_that_knows_them(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    serve(platform, predictions=200)
    train(instance, dg.DagsterRunStatus.STARTED)
    assert "trains on the newest labels; the next round follows when it has ended" in reason(platform, instance)


def test_what_was_ingested_is_the_pool_although_nobody_scored_it(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    serve(platform, predictions=60)
    pictures(platform, 39)
    assert "60 images that model v1 scored and 39 more that it has yet to score" in reason(platform, instance)
    pictures(platform, 40)
    assert isinstance(tick(platform, instance), dg.RunRequest)


def test_a_round_that_a_command_staged_is_run_once_so_that_dagster_knows_it(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    select(platform, 0, [platform.images.put(png_of(0)).image_id])
    request = tick(platform, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "0000"
    assert "wait for their labels" in reason(platform, instance)


def test_a_new_instance_on_an_old_home_goes_on_counting(platform: Platform, instance: dg.DagsterInstance) -> None:
    ids = serve(platform, predictions=200)
    select(platform, 6, ids[:1])
    label(platform, ids[:1])
    request = tick(platform, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "0007"


class TestPartitionsThatPeopleMade:
    """Past the check of the pages: by another web server, or by a script."""

    def test_a_second_name_of_a_round_becomes_its_own(self, instance: dg.DagsterInstance) -> None:
        instance.add_dynamic_partitions("round", ["0003", "14"])
        said: list[str] = []
        assert open_rounds(instance, said.append) == [3, 14]
        assert sorted(instance.get_dynamic_partitions("round")) == ["0003", "0014"]
        assert said == ["partition '14' is called '0014' now, as rounds are"]

    def test_what_is_no_round_breaks_no_tick_and_is_told(
        self, platform: Platform, instance: dg.DagsterInstance
    ) -> None:
        instance.add_dynamic_partitions("round", ["extra cats", "-1", "1e3", "٣"])
        serve(platform, predictions=200)
        said: list[str] = []
        request = next_round(instance, platform, TICK, said.append)
        assert isinstance(request, dg.RunRequest)
        assert request.partition_key == "0000"
        assert sum("is no round" in line for line in said) == 4

    @pytest.mark.parametrize("key", ["14", "extra cats", "00014", ""])
    def test_pages_refuse_them_in_a_sentence(self, key: str) -> None:
        with dg.instance_for_test() as pages:
            checking_rounds(pages)
            with pytest.raises(GiveUp, match=r"0014"):
                pages.add_dynamic_partitions("round", [key])
            pages.add_dynamic_partitions("round", ["0014"])
            pages.add_dynamic_partitions("somebody else's", ["extra cats"])
            assert pages.get_dynamic_partitions("round") == ["0014"]


class TestTheSensor:
    def test_it_opens_a_round_as_soon_as_one_is_possible(
        self, platform: Platform, instance: dg.DagsterInstance
    ) -> None:
        looked = look(platform, instance, None)
        assert looked.skip_reason is not None
        assert "al ingest" in (looked.skip_reason.skip_message or "")
        serve(platform, predictions=101)
        looked = look(platform, instance, looked.cursor)
        assert [request.partition_key for request in looked.run_requests or []] == ["0000"]

    def test_what_it_waits_for_is_told_once_to_the_page_of_the_log(
        self, platform: Platform, instance: dg.DagsterInstance
    ) -> None:
        first = look(platform, instance, None)
        (told,) = first.asset_events
        assert told.asset_key == dg.AssetKey("prediction_log")
        assert "there are no images yet" in str(told.metadata["the loop waits for"].value)
        assert look(platform, instance, first.cursor).asset_events == []

    def test_while_nothing_moves_it_says_the_same_without_asking_the_stores(
        self, platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sensors.selection_schedule.FULL_LOOK_SECONDS", 10**9)
        first = look(platform, instance, None)

        def asked(*_: object) -> None:
            raise AssertionError("the stores were asked")

        monkeypatch.setattr("sensors.selection_schedule.reason_to_wait", asked)
        again = look(platform, instance, first.cursor)
        assert again.skip_reason == first.skip_reason


def look(platform: Platform, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    return look_for_next_round(dg.build_sensor_context(instance, cursor=cursor), platform)


def png_of(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), shade).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_round_whose_selection_failed_is_asked_for_again_under_another_key(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    serve(platform, predictions=200)
    first = tick(platform, instance)
    again = tick(platform, instance)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert again.partition_key == first.partition_key == "0000"
    assert again.run_key != first.run_key
    assert instance.get_dynamic_partitions("round") == ["0000"]


def test_a_round_that_is_being_selected_is_not_asked_for_twice(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    serve(platform, predictions=200)
    tick(platform, instance)
    instance.add_run(
        dg.DagsterRun(job_name="selection", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "0000"})
    )
    assert "round 0 is being selected by run" in reason(platform, instance)


@pytest.mark.parametrize("asked", [True, False])
def test_advice_to_stop_stops_only_where_that_was_asked_for(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    serve(platform, predictions=200)
    selection = platform.settings.selection.model_copy(update={"stop_when_advised": asked})
    monkeypatch.setattr(platform, "settings", platform.settings.model_copy(update={"selection": selection}))
    flat = [RoundEvidence(labels, 100_000, 99_000) for labels in range(200, 1000, 50)]
    monkeypatch.setattr("al_loop.advice.stopping_advice", lambda _: advise(flat, next_labels=50))
    if asked:
        assert "another round is hardly worth its labels (selection.stop_when_advised)" in reason(platform, instance)
    else:
        assert isinstance(tick(platform, instance), dg.RunRequest)


def serve(platform: Platform, predictions: int) -> list[str]:
    """Version 1 serves and has scored so many images."""
    platform.endpoint = Serving()
    rng = np.random.default_rng(0)
    ids = [rng.bytes(16).hex() for _ in range(predictions)]
    platform.predictions.append(
        prediction_table(
            image_ids=ids,
            image_uris=[f"images/{image_id}.png" for image_id in ids],
            image_hashes=[None] * predictions,
            model_name="classifier",
            model_version=1,
            classes=["a", "b"],
            probs=rng.dirichlet([1, 1], predictions),
            source="online",
        )
    )
    return ids


def select(platform: Platform, round_: int, image_ids: list[str]) -> None:
    rows = [
        {
            "round": round_, "image_id": image_id, "image_uri": image_id, "rank": rank, "reason": "strategy",
            "strategy": "margin", "seed": 0, "selected_at": utc_now(),
        }
        for rank, image_id in enumerate(image_ids)
    ]  # fmt: skip
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), on=["round", "image_id"])


def label(platform: Platform, image_ids: list[str]) -> None:
    rows = [
        {
            "image_id": image_id,
            "label": "a",
            "annotator": "ann",
            "labeled_at": utc_now(),
            "export_id": "e",
            "round": 0,
        }
        for image_id in image_ids
    ]
    platform.ledgers.insert_new("labels", table_of(LABELS, rows), on=["image_id", "annotator", "label"])
