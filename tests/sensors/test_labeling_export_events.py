"""The event sensor on real clients: blobs and queue are Azurite's, events are sent as Event Grid sends them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from azure.core.exceptions import HttpResponseError
from dagster_runs import start_runs
from hypothesis import given
from hypothesis import strategies as st

from al_core.records import SELECTIONS, table_of, utc_now
from al_resources.azure import storage as azure_storage
from al_resources.blobs.azure import AzureBlobStore
from al_resources.event_queue.azure import AzureEventQueue
from al_resources.labeling import events
from al_resources.labeling.events import EventCursor, NoEvent, exports_named_by
from al_resources.labeling.merge import merge_export
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, SensorSettings, Settings
from al_resources.settings.azure_data import AzureDataSettings
from emulators.azurite import Azurite, shared_azurite
from emulators.events import Schema, blob_event, encoded, send
from emulators.faults import Fault, FaultyDoor
from sensors.labeling_export_events import listen_for_exports
from sensors.labeling_exports import look_for_exports

IMAGES = [f"{number:032x}" for number in range(10)]
INBOX = "labeling/exports"
TODAY = EventCursor(reconciled_at=utc_now()).model_dump_json()  # a cursor that has nothing to reconcile


@pytest.fixture(scope="module")
def azurite() -> Azurite:
    return shared_azurite()


@pytest.fixture
def door(azurite: Azurite) -> Iterator[FaultyDoor]:
    """Every request to the container passes here."""
    with FaultyDoor(azurite.blob_url) as door:
        yield door


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def platform(azurite: Azurite, door: FaultyDoor, tmp_path: Path) -> Platform:
    """Ten images were selected in rounds 0 (the first five) and 1; exports lie in a container."""
    azure = AzureDataSettings(
        blob_account_url=door.url, container=azurite.container(), events_queue_url=azurite.queue()
    )
    settings = Settings(home=tmp_path / "home", azure=azure, labeling=LabelingSettings(settle_seconds=0))
    events = AzureEventQueue(azure, hidden_seconds=1)
    platform = Platform(settings, blobs=AzureBlobStore(azure), events=events)
    rows = [
        {
            "round": number // 5, "image_id": image_id, "image_uri": f"images/{image_id}.png", "rank": number % 5,
            "reason": "strategy", "strategy": "margin", "seed": 0, "selected_at": utc_now(),
        }
        for number, image_id in enumerate(IMAGES)
    ]  # fmt: skip
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), on=["round", "image_id"])
    return platform


def jsonl(labels: dict[str, str]) -> bytes:
    return "".join(json.dumps({"image_url": f"{i}.png", "label": label}) + "\n" for i, label in labels.items()).encode()


def coco(labels: dict[str, str]) -> bytes:
    names = sorted(set(labels.values()))
    content = {
        "images": [{"id": n, "file_name": f"{image}.png"} for n, image in enumerate(labels)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": names.index(label)} for n, label in enumerate(labels.values())
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    return json.dumps(content).encode()


@pytest.fixture
def export(platform: Platform) -> Callable[..., str]:
    """Write an export, and announce it unless told otherwise; returns its path."""

    def write(name: str, number: int = 0, *, label: str = "cat", silently: bool = False) -> str:
        path = f"{INBOX}/{name}"
        platform.blobs.write(path, coco({IMAGES[number]: label}))
        if not silently:
            hear(platform, path)
        return path

    return write


def hear(platform: Platform, path: str, times: int = 1, **event: str | int) -> None:
    azure = platform.settings.azure
    text = blob_event(azure.container, path, **event)  # type: ignore[arg-type]
    send(azure.events_queue_url, *[encoded(text)] * times)


def tick(platform: Platform, instance: dg.DagsterInstance, cursor: str | None = TODAY) -> dg.SensorResult:
    result = listen_for_exports(dg.build_sensor_context(instance=instance, cursor=cursor), platform)
    start_runs(instance, result)
    return result


def keys(result: dg.SensorResult) -> list[str]:
    return [str(request.run_key) for request in result.run_requests or []]


def reason(result: dg.SensorResult) -> str:
    assert isinstance(result.skip_reason, dg.SkipReason)
    return result.skip_reason.skip_message or ""


def until_visible_again() -> None:
    time.sleep(1.1)


def test_an_empty_queue_is_no_reason_for_a_run(platform: Platform, instance: dg.DagsterInstance) -> None:
    assert reason(tick(platform, instance)) == "no new exports"


@pytest.mark.parametrize("schema", ["event_grid", "cloud_events"])
@pytest.mark.parametrize("how", [str, encoded, lambda text: f"[{text}]"], ids=["plain", "base64", "list"])
def test_an_announced_export_requests_the_run_that_the_polling_sensor_would(
    platform: Platform,
    instance: dg.DagsterInstance,
    export: Callable[..., str],
    schema: Schema,
    how: Callable[[str], str],
) -> None:
    path = export("a.json", 7, silently=True)
    azure = platform.settings.azure
    send(azure.events_queue_url, how(blob_event(azure.container, path, schema=schema)))
    (heard,) = tick(platform, instance).run_requests or []
    polled = look_for_exports(dg.build_sensor_context(instance=instance), platform)
    assert isinstance(polled, dg.SensorResult)
    assert heard == (polled.run_requests or [])[0]
    assert heard.run_key == f"{path}@{platform.blobs.info(path).etag}"
    assert heard.partition_key == "0001"


def test_a_message_is_deleted_at_the_next_tick_and_not_before(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    export("a.json")
    first = tick(platform, instance)
    assert platform.events.counts()["waiting"] == 1
    tick(platform, instance, first.cursor)
    assert platform.events.counts() == {"waiting": 0, "poison": 0}


def test_a_tick_that_was_lost_is_made_up_for_under_the_same_run_key(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    export("a.json")
    lost = tick(platform, instance)
    assert reason(tick(platform, instance)) == "no new exports", "the message is hidden"
    until_visible_again()
    again = tick(platform, instance)
    assert keys(again) == keys(lost)
    assert reason(tick(platform, instance, lost.cursor)) == "no new exports", "an old receipt deletes nothing new"
    assert platform.events.counts()["waiting"] == 1
    tick(platform, instance, again.cursor)
    assert platform.events.counts()["waiting"] == 0


def test_an_event_that_comes_twice_is_one_run_and_after_the_merge_none(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    path = export("a.json")
    hear(platform, path)
    assert len(keys(tick(platform, instance))) == 1
    merge_export(platform.inbox, path)
    hear(platform, path)
    assert reason(tick(platform, instance)) == "no new exports"
    assert platform.ledgers.read("labels").height == 1


def test_an_event_for_a_blob_that_is_gone_is_said_and_forgotten(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    platform.blobs.delete(export("a.json"))
    first = tick(platform, instance)
    assert reason(first) == "labeling/exports/a.json is gone"
    assert reason(tick(platform, instance, first.cursor)) == "no new exports"
    assert platform.events.counts()["waiting"] == 0
    hear(platform, f"{INBOX}/a.json", times=2)
    assert reason(tick(platform, instance)) == "no new exports"
    assert platform.ledgers.read("exports").select("path", "status").rows() == [(f"{INBOX}/a.json", "gone")]


def test_an_export_that_was_merged_may_be_deleted(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    path = export("a.json")
    merge_export(platform.inbox, path)
    platform.blobs.delete(path)
    assert reason(tick(platform, instance)) == "no new exports"
    assert platform.ledgers.read("exports")["status"].to_list() == ["merged"]


def test_an_export_that_was_gone_and_comes_back_is_merged(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    platform.blobs.delete(export("a.json"))
    tick(platform, instance)
    export("a.json")
    assert len(keys(tick(platform, instance))) == 1


def test_what_an_event_says_of_a_blob_that_was_replaced_meanwhile_does_not_count(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    export("a.json", label="cat")
    path = export("a.json", label="dog")
    assert keys(tick(platform, instance)) == [f"{path}@{platform.blobs.info(path).etag}"]


@pytest.mark.parametrize(("opened", "closed"), [("CreateFile", "FlushWithClose"), ("SftpCreate", "SftpCommit")])
def test_a_file_that_was_only_opened_is_not_looked_at_before_it_is_closed(
    platform: Platform, instance: dg.DagsterInstance, door: FaultyDoor, opened: str, closed: str
) -> None:
    path = f"{INBOX}/a.json"
    platform.blobs.write(path, b"")
    door.seen.clear()
    hear(platform, path, api=opened, length=0)
    assert reason(tick(platform, instance)) == "no new exports"
    assert door.seen == []
    platform.blobs.write(path, coco({IMAGES[0]: "cat"}))
    hear(platform, path, api=closed)
    assert len(keys(tick(platform, instance))) == 1


def test_a_renamed_file_is_new(platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]) -> None:
    path = export("a.json", silently=True)
    hear(platform, path, kind="Microsoft.Storage.BlobRenamed", api="RenameFile")
    assert len(keys(tick(platform, instance))) == 1


def test_an_event_before_the_blob_is_complete_needs_no_second_one(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str]
) -> None:
    path = f"{INBOX}/a.json"
    platform.blobs.write(path, coco({IMAGES[0]: "cat"})[:40])
    hear(platform, path)
    first = tick(platform, instance)
    assert "a.json is not complete yet" in reason(first)
    export("a.json", silently=True)
    second = tick(platform, instance, first.cursor)
    assert len(keys(second)) == 1
    assert reason(tick(platform, instance, second.cursor)) == "no new exports"


def test_what_never_becomes_complete_goes_to_quarantine(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.blobs.write(f"{INBOX}/a.json", b'{"images": [')
    hear(platform, f"{INBOX}/a.json")
    first = tick(platform, instance)
    second = tick(platform, instance, first.cursor)
    assert "a.json was refused" in reason(second)
    assert platform.ledgers.read("exports")["status"].to_list() == ["quarantined"]
    assert reason(tick(platform, instance, second.cursor)) == "no new exports"


@pytest.mark.parametrize(
    "garbage", ["not an event", "e30=!", "[1]", "{}", '{"eventType": 1}', encoded("\U0001f600"), "7"]
)
def test_garbage_holds_nothing_up_and_ends_in_the_poison_queue(
    platform: Platform,
    instance: dg.DagsterInstance,
    export: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    garbage: str,
) -> None:
    monkeypatch.setattr(events, "POISON_AFTER", 2)
    send(platform.settings.azure.events_queue_url, garbage)
    export("a.json")
    first = tick(platform, instance)
    assert len(keys(first)) == 1
    until_visible_again()
    second = tick(platform, instance, first.cursor)
    assert not keys(second)
    assert platform.events.counts() == {"waiting": 0, "poison": 1}
    assert reason(tick(platform, instance, second.cursor)) == "no new exports"


def test_a_message_that_cannot_be_read_is_said_before_it_is_poison(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    send(platform.settings.azure.events_queue_url, "nonsense")
    assert "a message cannot be read: no JSON, plain or in base64: 'nonsense'" in reason(tick(platform, instance))


def test_other_blobs_other_containers_and_other_events_are_nothing_to_us(
    platform: Platform, instance: dg.DagsterInstance, door: FaultyDoor, export: Callable[..., str]
) -> None:
    path = export("a.json", silently=True)
    azure = platform.settings.azure
    hear(platform, "images/00/00.png")
    hear(platform, f"{INBOX}/.draft.json")
    hear(platform, path, kind="Microsoft.Storage.BlobDeleted")
    send(azure.events_queue_url, blob_event("other", path))
    door.seen.clear()
    first = tick(platform, instance)
    assert reason(first) == "no new exports"
    assert door.seen == []
    tick(platform, instance, first.cursor)
    assert platform.events.counts() == {"waiting": 0, "poison": 0}


def test_a_tick_takes_a_bounded_number_of_exports_and_messages_and_the_next_ones_the_rest(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MESSAGES_PER_TICK", 32)
    sensors = SensorSettings(exports_per_tick=2)
    platform.settings = platform.settings.model_copy(update={"sensors": sensors})
    paths = [export(f"{number}.json", number) for number in range(5)]
    hear(platform, paths[0], times=95)
    found: list[str] = []
    cursor = TODAY
    for _ in range(6):
        result = tick(platform, instance, cursor)
        assert len(keys(result)) <= 2
        found += keys(result)
        cursor = str(result.cursor)
        assert len(EventCursor.parse(cursor).receipts) <= 32
    assert {key.split("@")[0] for key in found} == set(paths)
    tick(platform, instance, cursor)
    assert platform.events.counts()["waiting"] == 0


def test_a_slow_queue_costs_a_tick_its_time_and_no_more(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export("a.json")
    with monkeypatch.context() as late:
        late.setattr(events, "LISTEN_SECONDS", 0)
        assert reason(tick(platform, instance)) == "no new exports"
    assert len(keys(tick(platform, instance))) == 1


def test_what_a_tick_has_no_time_to_delete_is_for_the_next_one(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export("a.json")
    first = tick(platform, instance)
    with monkeypatch.context() as late:
        late.setattr(events, "LISTEN_SECONDS", 0)
        second = tick(platform, instance, first.cursor)
    assert platform.events.counts()["waiting"] == 1
    tick(platform, instance, second.cursor)
    assert platform.events.counts()["waiting"] == 0


def test_the_work_of_a_tick_does_not_depend_on_what_lies_in_the_container(
    platform: Platform, instance: dg.DagsterInstance, door: FaultyDoor, export: Callable[..., str]
) -> None:
    requests = []
    for old in (0, 30):
        for number in range(old):
            platform.blobs.write(f"{INBOX}/old-{number}.json", b"{}")
        export("a.json", label=f"cat {old}")
        door.seen.clear()
        assert len(keys(tick(platform, instance))) == 1
        requests.append(len(door.seen))
        listed = [request for request in door.seen if "comp=list" in request]
        assert all("prefix=labeling%2Fclasses" in request for request in listed), "the inbox is not listed"
    assert requests == [3, 3], "its properties, its content, and what became of classes"


@pytest.mark.parametrize("cursor", [None, "", "garbage", "{}", '{"receipts": 7}'])
def test_an_export_whose_event_was_lost_is_found_when_the_day_is_over(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], cursor: str | None
) -> None:
    path = export("a.json", silently=True)
    assert reason(tick(platform, instance)) == "no new exports"
    found = tick(platform, instance, cursor)
    assert [key.split("@")[0] for key in keys(found)] == [path]
    assert reason(tick(platform, instance, found.cursor)) == "no new exports", "a day passes before the next one"


@pytest.mark.parametrize(("age", "due"), [(-3600, True), (0, False), (86_000, False), (86_400, True)])
def test_the_inbox_is_compared_with_the_ledger_once_a_day_and_after_a_clock_was_set_back(age: int, due: bool) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert EventCursor(reconciled_at=now - timedelta(seconds=age)).is_to_reconcile(now) == due


# ---------------------------------------------------------------------- clocks
@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(hours)`: from now on this machine's clock is off by so much; the container's is not."""

    def shift(hours: float) -> None:
        for module in list(sys.modules.values()):
            if "utc_now" in vars(module) and module.__name__.startswith(("al_", "sensors")):
                monkeypatch.setattr(module, "utc_now", lambda: utc_now() + timedelta(hours=hours))

    return shift


@pytest.mark.parametrize("hours", [-25, -1, 1, 25])
def test_an_export_is_one_run_and_its_labels_count_once_whatever_the_clock_says(
    platform: Platform,
    instance: dg.DagsterInstance,
    export: Callable[..., str],
    clock: Callable[[float], None],
    hours: float,
) -> None:
    """A right clock goes wrong, right again, and a day passes. Events are of the past, of the future, or never come."""
    azure = platform.settings.azure
    cursor, found, written = tick(platform, instance).cursor, list[str](), set[str]()
    for number, shift in enumerate((0, hours, 0, 25)):
        clock(shift)
        said = export(f"said-{number}.json", number, silently=True)
        for moment in (-hours, hours):
            send(azure.events_queue_url, blob_event(azure.container, said, at=utc_now() + timedelta(hours=moment)))
        written.add(export(f"silent-{number}.json", 4 + number, silently=True))
        written.add(said)
        for _ in range(2):
            result = tick(platform, instance, cursor)
            cursor = result.cursor
            for request in result.run_requests or []:
                found.append(request.tags["al/export"])
                merge_export(platform.inbox, found[-1])
    assert sorted(found) == sorted(written)
    assert platform.ledgers.read("labels").height == len(written)
    assert platform.events.counts()["waiting"] == 0


@pytest.mark.parametrize("hours", [-25, 25])
def test_an_export_that_is_written_slowly_is_not_lost_by_a_clock_that_is_off(
    platform: Platform,
    instance: dg.DagsterInstance,
    export: Callable[..., str],
    clock: Callable[[float], None],
    hours: float,
) -> None:
    """Such a clock takes it for broken too early: the half goes to quarantine, the whole is merged."""
    platform.settings = platform.settings.model_copy(update={"labeling": LabelingSettings(settle_seconds=60)})
    cursor = tick(platform, instance).cursor
    clock(hours)
    path = f"{INBOX}/slow.json"
    platform.blobs.write(path, coco({IMAGES[0]: "cat"})[:40])
    hear(platform, path)
    for _ in range(2):
        cursor = tick(platform, instance, cursor).cursor
    assert platform.ledgers.read("exports")["status"].to_list() == ["quarantined"]
    export("slow.json")
    result = tick(platform, instance, cursor)
    assert [key.split("@")[0] for key in keys(result)] == [path]


def test_a_reconciliation_that_finds_too_much_goes_on_until_it_is_through(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BACKLOG", 2)
    paths = [export(f"{number}.json", number, silently=True) for number in range(5)]
    cursor: str | None = None
    for _ in range(4):
        result = tick(platform, instance, cursor)
        for request in result.run_requests or []:
            path = request.tags["al/export"]
            merge_export(platform.inbox, path)
        cursor = result.cursor
    assert set(platform.ledgers.read("exports")["path"]) == set(paths)
    assert not EventCursor.parse(cursor).is_to_reconcile(utc_now())


@pytest.mark.parametrize("name", ['it\'s "quoted"; predictions | count.json', "a#b?c&d.json", "100%25 é.json"])
def test_a_name_full_of_quotes_and_queries_is_a_name(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], name: str
) -> None:
    path = export(name)
    (key,) = keys(tick(platform, instance))
    assert key.startswith(f"{path}@")


# ---------------------------------------------------------------------- a queue in trouble
@pytest.fixture
def queue_door(azurite: Azurite, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyDoor]:
    """Every request to the queue passes here; nobody is patient."""
    hurried = {"initial_backoff": 0, "increment_base": 0.1, "retry_total": 3, "random_jitter_range": 0}
    monkeypatch.setattr(azure_storage, "PATIENCE", hurried)
    with FaultyDoor(azurite.queue_url) as door:
        name = platform.settings.azure.events_queue_url.rsplit("/", 1)[-1]
        azure = platform.settings.azure.model_copy(update={"events_queue_url": f"{door.url}/{name}"})
        platform.events = AzureEventQueue(azure, hidden_seconds=1)  # the fixture that the test has, too
        yield door


@pytest.mark.parametrize("status", [500, 503, None], ids=["error", "throttled", "answer lost"])
def test_a_queue_in_trouble_costs_time_and_no_export(
    platform: Platform,
    instance: dg.DagsterInstance,
    export: Callable[..., str],
    queue_door: FaultyDoor,
    status: int | None,
) -> None:
    """Receiving and deleting fail once each; a message whose delivery was lost is hidden and comes again."""
    path = export("a.json")
    queue_door.faults = [Fault("GET", "/messages", status), Fault("DELETE", "/messages", status)]
    cursor, found = TODAY, list[str]()
    for _ in range(3):
        result = tick(platform, instance, cursor)
        cursor = str(result.cursor)
        found += keys(result)
        if not found:
            until_visible_again()
    assert set(found) == {f"{path}@{platform.blobs.info(path).etag}"}
    assert [fault.times for fault in queue_door.faults] == [0, 0]
    assert platform.events.counts() == {"waiting": 0, "poison": 0}


@pytest.mark.parametrize("status", [429, 503])
def test_in_an_outage_of_the_queue_a_tick_fails_and_the_next_one_goes_on(
    platform: Platform, instance: dg.DagsterInstance, export: Callable[..., str], queue_door: FaultyDoor, status: int
) -> None:
    export("a.json")
    cursor, found = TODAY, list[str]()
    for method in ("GET", "DELETE"):
        queue_door.faults = [Fault(method, "/messages", status, times=100)]
        with pytest.raises(HttpResponseError, match="ServerBusy"):
            tick(platform, instance, cursor)
        queue_door.faults = []
        result = tick(platform, instance, cursor)
        cursor = str(result.cursor)
        found += keys(result)
    assert len(found) == 1
    assert platform.events.counts() == {"waiting": 0, "poison": 0}


def test_a_name_that_no_blob_of_ours_can_have_is_said_and_forgotten(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    hear(platform, f"{INBOX}/../../secret.json")
    assert "secret.json is gone" in reason(tick(platform, instance))


def test_a_missing_queue_is_named_with_the_way_out(platform: Platform, instance: dg.DagsterInstance) -> None:
    azure = platform.settings.azure
    elsewhere = azure.model_copy(update={"events_queue_url": f"{azure.events_queue_url}x"})
    platform = platform.with_parts(events=AzureEventQueue(elsewhere, hidden_seconds=1))
    with pytest.raises(OSError, match=r"no queue .*x; `al azure init` creates it"):
        tick(platform, instance)


@given(text=st.text() | st.binary().map(lambda data: encoded(repr(data))) | st.from_regex(r"[\[{][\[{}\]\",:1]*"))
def test_whatever_lies_in_a_queue_is_read_or_refused(text: str) -> None:
    with suppress(NoEvent):
        assert exports_named_by(text, "c") == []


def test_all_schemas_name_the_same_export() -> None:
    for schema in ("event_grid", "cloud_events"):
        text = blob_event("c", f"{INBOX}/a b.json", schema=schema)  # type: ignore[arg-type]
        assert exports_named_by(text, "c") == exports_named_by(encoded(text), "c") == [f"{INBOX}/a b.json"]
        assert exports_named_by(text, "d") == []
