"""A sensor's tick with one new export among many old ones: by events, and by listing; on Azurite.

    python -m benchmarks.export_events [--blobs 2_000] [--messages 1_000] [--no-listing] [--json OUT]

Needs node, see tests/emulators. Times are medians in seconds, each tick with an export of its own. A queue that has
filled up is emptied tick by tick, every tick as long as one that finds as much in a queue of no more.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from al_core.records import EXPORTS, SELECTIONS, table_of, utc_now
from al_resources.azure_blobs import AzureBlobStore
from al_resources.azure_data_settings import AzureDataSettings
from al_resources.azure_storage import DEVELOPMENT_ACCOUNT
from al_resources.event_queue import EventQueue
from al_resources.image_store import ImageStore
from al_resources.labeling.events import MESSAGES_PER_TICK, EventCursor, listen
from al_resources.labeling.inbox import InboxCursor, look
from al_resources.labeling.merge import INBOX
from al_resources.ledgers import DeltaLedgers
from al_resources.settings import LabelingSettings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
FEW, TICKS, WRITERS = 100, 7, 4
GOAL = 3.0
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
        azurite = Azurite.start()
    except NotInstalled as reason:
        print(f"left out: {reason}")
        return {}
    with azurite:
        few, many = (Inbox(azurite, old).ticks(listing=not options.no_listing) for old in (FEW, options.blobs))
        short = Inbox(azurite, 0).full_queue(MESSAGES_PER_TICK)
        full = Inbox(azurite, 0).full_queue(options.messages)
    result = {
        "few_blobs": FEW, "many_blobs": options.blobs, "few": few, "many": many,
        "ratio": many["events"] / few["events"], "goal": GOAL,
        "messages": options.messages, "full_queue": full, "queue_of_one_tick": short,
    }  # fmt: skip
    for name, times in ((FEW, few), (options.blobs, many)):
        print(f"{name:>9,} old exports   " + "   ".join(f"{way} {seconds:.3f} s" for way, seconds in times.items()))
    print(f"events: ratio {result['ratio']:.2f}, goal at most {GOAL:g}")
    for name, queue in ((MESSAGES_PER_TICK, short), (options.messages, full)):
        print(f"{name:>9,} messages      emptied by {queue['ticks']} ticks of {queue['tick_s']:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


class Inbox:
    """A container with old exports that are all on record, and its queue."""

    def __init__(self, azurite: Any, old: int) -> None:
        self.azure = AzureDataSettings(
            blob_account_url=azurite.blob_url, container=azurite.container(), events_queue_url=azurite.queue()
        )
        self.blobs, self.queue = AzureBlobStore(self.azure), EventQueue(self.azure, hidden_seconds=60)
        self.ledgers = DeltaLedgers(Path(tempfile.mkdtemp(prefix="al-bench-")))
        chosen = {
            "round": 0, "image_id": IMAGE, "image_uri": "x", "rank": 0, "reason": "seed", "strategy": "random",
            "seed": 0, "selected_at": utc_now(),
        }  # fmt: skip
        self.ledgers.insert_new("selections", table_of(SELECTIONS, [chosen]), on=["image_id"])
        paths = [f"{INBOX}/old-{number:07d}.json" for number in range(old)]
        answers = _send_all("PUT", f"{azurite.blob_url}/{self.azure.container}", paths, b"{}")
        rows = [
            {"path": path, "etag": etag.strip('"'), "status": "quarantined", "recorded_at": utc_now()}
            for path, etag in zip(paths, answers, strict=True)
        ]
        if rows:
            assert rows[-1]["etag"] == self.blobs.info(paths[-1]).etag
            self.ledgers.insert_new("exports", table_of(EXPORTS, rows), on=["path", "etag"])
        self.heard = EventCursor(reconciled_at=utc_now())

    def ticks(self, *, listing: bool) -> dict[str, float]:
        """Seconds of a tick with one new export, by events and by listing."""
        from emulators.events import announce

        times: dict[str, list[float]] = {"events": []} | ({"listing": []} if listing else {})
        cursor = self._look(InboxCursor()).cursor if listing else InboxCursor()
        for number in range(TICKS):
            path = f"{INBOX}/new-{number}.jsonl"
            self.blobs.write(path, json.dumps({"image_url": f"{IMAGE}.png", "label": f"cat {number}"}).encode())
            announce(self.azure.events_queue_url, self.azure.container, path)
            heard, seconds = _timed(self._listen)
            assert [plan.export.path for plan in heard.found.ready] == [path]
            times["events"].append(seconds)
            if listing:
                looked, seconds = _timed(partial(self._look, cursor))
                assert [plan.export.path for plan in looked.ready] == [path]
                cursor = looked.cursor
                times["listing"].append(seconds)
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    def full_queue(self, messages: int) -> dict[str, float]:
        """Ticks until a queue is empty, and the median seconds of one: each reads and deletes as much as it may."""
        from emulators.events import blob_event, encoded

        text = encoded(blob_event(self.azure.container, f"{INBOX}/gone.json"))
        message = f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>".encode()
        _send_all("POST", self.azure.events_queue_url, ["messages"] * messages, message)
        seconds = []
        while self.queue.counts()["waiting"]:
            seconds.append(_timed(self._listen)[1])
        return {"ticks": len(seconds), "tick_s": statistics.median(seconds), "all_s": sum(seconds)}

    def _listen(self) -> Any:
        heard = listen(
            self.queue, self.blobs, self.ledgers, ImageStore(self.blobs), LabelingSettings(), self.heard,
            container=self.azure.container, limit=20, now=utc_now(),
        )  # fmt: skip
        self.heard = heard.cursor
        return heard

    def _look(self, cursor: InboxCursor) -> Any:
        return look(
            self.blobs, self.ledgers, ImageStore(self.blobs), LabelingSettings(), cursor, limit=10**9, now=utc_now()
        )


def _send_all(method: str, url: str, paths: list[str], body: bytes) -> list[str]:
    """One request per path, several at a time; the ETags of the answers.

    Without the SDK, which would work on each request longer than Azurite does.
    """
    with ThreadPoolExecutor(WRITERS) as pool:
        parts = pool.map(lambda n: _send(method, url, paths[n::WRITERS], body), range(WRITERS))
    etags = [""] * len(paths)
    for number, part in enumerate(parts):
        etags[number::WRITERS] = part
    return etags


def _send(method: str, url: str, paths: Iterable[str], body: bytes) -> list[str]:
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, Services, generate_account_sas

    sas = generate_account_sas(
        **DEVELOPMENT_ACCOUNT,
        services=Services(blob=True, queue=True),
        resource_types=ResourceTypes(object=True),
        permission=AccountSasPermissions.from_string("cwa"),
        expiry=utc_now() + timedelta(days=1),
    )
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)
    etags = []
    for path in paths:
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2021-12-02"}
        connection.request(method, f"{address.path}/{path}?{sas}", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == http.client.CREATED, answer.reason
        etags.append(answer.headers.get("ETag", ""))
    connection.close()
    return etags


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


if __name__ == "__main__":
    main()
