"""A sensor's tick with one new export among many old ones: by events, and by listing; on Azurite.

    python -m benchmarks.export_events [--blobs 2_000] [--messages 1_000] [--no-listing] [--json OUT]

Needs node, see tests/emulators. Times are medians in seconds, each tick with an export of its own. To find one blob or
message Azurite looks through all of them, so what one look at one blob costs is told beside.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from al_core.records import EXPORTS, SELECTIONS, table_of, utc_now
from al_resources.azure.storage import DEVELOPMENT_ACCOUNT
from al_resources.blobs.azure import AzureBlobStore
from al_resources.event_queue.azure import AzureEventQueue
from al_resources.image_store import ImageStore
from al_resources.labeling.events import MESSAGES_PER_TICK, EventCursor, listen
from al_resources.labeling.inbox import INBOX, Inbox
from al_resources.labeling.look import InboxCursor, look
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.settings import LabelingSettings
from al_resources.settings.azure_data import AzureDataSettings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
FEW, TICKS, WRITERS = 100, 7, 4
GOAL = 3.0
FEW_TICKS = 3
SHORT_QUEUE = FEW_TICKS * MESSAGES_PER_TICK
IMAGE = "0" * 32


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blobs", type=int, default=2_000, help="old exports in the larger container")
    parser.add_argument("--messages", type=int, default=1_000, help="in a queue that has filled up")
    parser.add_argument("--no-listing", action="store_true", help="events only: Azurite lists 1 000 blobs a second")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    from emulators.azurite import Azurite
    from emulators.node_packages import NotInstalled

    try:
        few, many = (ticks_among(old, listing=not options.no_listing) for old in (FEW, options.blobs))
    except NotInstalled as reason:
        print(f"left out: {reason}")
        return {}
    with Azurite.start() as azurite:
        short, full = (
            FilledContainer(azurite, azurite.container()).full_queue(messages)
            for messages in (SHORT_QUEUE, options.messages)
        )
    result = {
        "few_blobs": FEW, "many_blobs": options.blobs, "few": few, "many": many,
        "ratio": many["events"] / few["events"], "goal": GOAL,
        "messages": options.messages, "full_queue": full, "short_queue": short,
    }  # fmt: skip
    for name, times in ((FEW, few), (options.blobs, many)):
        print(f"{name:>9,} old exports   " + "   ".join(f"{way} {seconds:.3f} s" for way, seconds in times.items()))
    print(f"events: ratio {result['ratio']:.2f}, goal at most {GOAL:g}")
    for name, queue in ((SHORT_QUEUE, short), (options.messages, full)):
        print(f"{name:>9,} messages      a tick takes {queue['messages']:.0f} in {queue['tick_s']:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


def ticks_among(old: int, *, listing: bool) -> dict[str, float]:
    """Seconds of a tick in a container of so many old exports."""
    from emulators.azurite import Azurite

    with tempfile.TemporaryDirectory(prefix="al-azurite-") as folder:
        container, etag = write_container(Path(folder), old)
        with Azurite.start(folder=Path(folder)) as azurite:
            return FilledContainer(azurite, container, old, etag).ticks(listing=listing)


def write_container(folder: Path, old: int) -> tuple[str, str]:
    """Fill Azurite's own database with copies of one export; the container's name, and the ETag of them all.

    One by one it would take each of them longer than the last: a hundred thousand take an hour.
    """
    from emulators.azurite import Azurite

    with Azurite.start(folder=folder) as azurite:
        container = azurite.container()
        blobs = AzureBlobStore(AzureDataSettings(blob_account_url=azurite.blob_url, container=container))
        blobs.write(_old(0), b"{}")
        etag = blobs.info(_old(0)).etag
    database = folder / "__azurite_db_blob__.json"
    content = json.loads(database.read_text())
    (table,) = (one for one in content["collections"] if one["name"] == "$BLOBS_COLLECTION$")
    (blob,) = table["data"]
    table |= {"data": [blob | {"name": _old(n), "$loki": n + 1} for n in range(old)], "maxId": old}
    for index in table["binaryIndices"].values():
        index["values"] = list(range(old))  # they are in the order of each
    database.write_text(json.dumps(content))
    return container, etag


def _old(number: int) -> str:
    return f"{INBOX}/old-{number:07d}.json"


class FilledContainer:
    """A container with old exports that are all on record, and its queue."""

    def __init__(self, azurite: Any, container: str, old: int = 0, etag: str = "") -> None:
        self.azure = AzureDataSettings(
            blob_account_url=azurite.blob_url, container=container, events_queue_url=azurite.queue()
        )
        self.blobs, self.queue = AzureBlobStore(self.azure), AzureEventQueue(self.azure, hidden_seconds=60)
        self.ledgers = DeltaLedgers(Path(tempfile.mkdtemp(prefix="al-bench-")))
        chosen = {
            "round": 0, "image_id": IMAGE, "image_uri": "x", "rank": 0, "reason": "seed", "strategy": "random",
            "seed": 0, "selected_at": utc_now(),
        }  # fmt: skip
        self.ledgers.insert_new("selections", table_of(SELECTIONS, [chosen]), on=["image_id"])
        rows = [
            {"path": _old(number), "etag": etag, "status": "quarantined", "recorded_at": utc_now()}
            for number in range(old)
        ]
        if rows:
            assert self.blobs.info(_old(old - 1)).etag == etag
            assert self.blobs.read(_old(old - 1)) == b"{}"
            self.ledgers.insert_new("exports", table_of(EXPORTS, rows), on=["path", "etag"])
        self.heard = EventCursor(reconciled_at=utc_now())

    def ticks(self, *, listing: bool) -> dict[str, float]:
        """Seconds of a tick with one new export, by events and by listing."""
        from emulators.events import announce

        times: dict[str, list[float]] = {"events": [], "one_look": []} | ({"listing": []} if listing else {})
        cursor = self._look(InboxCursor()).cursor if listing else InboxCursor()
        for number in range(TICKS):
            path = f"{INBOX}/new-{number}.jsonl"
            self.blobs.write(path, json.dumps({"image_url": f"{IMAGE}.png", "label": f"cat {number}"}).encode())
            announce(self.azure.events_queue_url, self.azure.container, path)
            heard, seconds = _timed(self._listen)
            assert [plan.export.path for plan in heard.found.ready] == [path]
            times["events"].append(seconds)
            times["one_look"].append(_timed(partial(self.blobs.info, path))[1])
            if listing:
                looked, seconds = _timed(partial(self._look, cursor))
                assert [plan.export.path for plan in looked.ready] == [path]
                cursor = looked.cursor
                times["listing"].append(seconds)
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    def full_queue(self, messages: int) -> dict[str, float]:
        """Messages that a tick reads of a queue and deletes, and its seconds; medians of some."""
        from emulators.events import blob_event, encoded

        text = encoded(blob_event(self.azure.container, f"{INBOX}/gone.json"))
        message = f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>".encode()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda part: self._send(message, part), [messages // WRITERS] * WRITERS))
        ticks = [_timed(self._listen) for _ in range(FEW_TICKS)]
        deleted = sum(heard.messages for heard, _ in ticks[:-1])
        # deleting stops where a tick's time is over: what is left of it is the next one's
        assert messages - deleted <= self.queue.counts()["waiting"] <= messages
        ticks = ticks[1:]  # the first has nothing to delete yet
        return {
            "messages": statistics.median(heard.messages for heard, _ in ticks),
            "tick_s": statistics.median(seconds for _, seconds in ticks),
        }

    def _send(self, message: bytes, times: int) -> None:
        """Without the SDK, which would work on each request longer than Azurite does."""
        from azure.storage.queue import AccountSasPermissions, ResourceTypes, generate_account_sas

        sas = generate_account_sas(
            **DEVELOPMENT_ACCOUNT,
            resource_types=ResourceTypes(object=True),
            permission=AccountSasPermissions(add=True),
            expiry=utc_now() + timedelta(days=1),
        )
        address = urlsplit(self.azure.events_queue_url)
        connection = http.client.HTTPConnection(address.netloc)
        for _ in range(times):
            connection.request("POST", f"{address.path}/messages?{sas}", message)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == http.client.CREATED, answer.reason
        connection.close()

    def _listen(self) -> Any:
        heard = listen(self.queue, self._inbox, self.heard, container=self.azure.container, limit=20, now=utc_now())
        self.heard = heard.cursor
        return heard

    def _look(self, cursor: InboxCursor) -> Any:
        return look(self._inbox, cursor, limit=10**9, now=utc_now())

    @property
    def _inbox(self) -> Inbox:
        return Inbox(self.blobs, self.ledgers, ImageStore(self.blobs), LabelingSettings())


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


if __name__ == "__main__":
    main()
