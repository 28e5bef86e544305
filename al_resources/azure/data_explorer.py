"""Azure Data Explorer: the tables, the commands that set them up, and one door for queries and ingestion.

Values travel as declared query parameters, text among them always as dynamic (JSON): there is no second way to
read it. The only names in a query are those of `al_core.records`.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl
import pyarrow as pa

from al_core.records import EMBEDDINGS, LEDGERS, PREDICTIONS, UTC_MICROSECONDS, empty_table
from al_resources.azure.identity import azure_credential
from al_resources.forgotten import check_ids
from al_resources.ledgers import EXPIRING
from al_resources.settings.azure_data import RETENTION_DAYS, is_loopback

if TYPE_CHECKING:
    from azure.kusto.data import KustoClient, KustoConnectionStringBuilder
    from azure.kusto.ingest import IngestionProperties, QueuedIngestClient, StreamDescriptor
    from azure.storage.queue import QueueClient

    from al_resources.settings.azure_data import AzureDataSettings

Ingestion = Literal["managed", "streaming", "queued"]
Answer = TypeVar("Answer")

LOGGER = logging.getLogger(__name__)

# where a row of a ledger comes from: what tells it apart, when and by whom it was written, its place in that insert
LEDGER_PLACE = pa.schema(
    [("_key", pa.string()), ("_at", UTC_MICROSECONDS), ("_writer", pa.string()), ("_row", pa.int64())]
)
TABLES: dict[str, pa.Schema] = {
    "predictions": PREDICTIONS,
    "embeddings": EMBEDDINGS,
    **{name: pa.schema([*schema, *LEDGER_PLACE]) for name, schema in LEDGERS.items()},
}
AGEING = ("predictions", "embeddings", *EXPIRING)  # what is cleared away after a time; an embedding is made again
FOR_EVER_DAYS = 36_500  # a hundred years
MAPPING = "columns_by_name"  # ingestion mapping of every table: JSON, each column by its name
STREAM_BYTES = 3_000_000  # streaming takes 4 MB a request
GIVE_UP_SECONDS = 60
BUSY = (429, 500, 502, 503, 504)
UNAUTHORIZED = 401
CONNECTIONS = ("_engine", "_streaming", "_queued", "_managed")
HIDDEN_SECONDS = 300  # a message that is being worked on, from others
PEEKED_FAILURES = 32  # messages a queue shows at once


@dataclass(frozen=True)
class Query:
    """KQL, what it answers with, and its parameters: name -> (KQL type, value)."""

    text: str
    answer: pa.Schema
    parameters: Mapping[str, tuple[str, Any]] = field(default_factory=dict)

    @property
    def kql(self) -> str:
        """The text as it is sent, parameters declared."""
        if not self.parameters:
            return self.text
        declared = ", ".join(f"{name}:{kind}" for name, (kind, _) in self.parameters.items())
        return f"declare query_parameters({declared});\n{self.text}"

    @property
    def shown(self) -> str:
        """The same for people, with the values in it, as any KQL editor takes it."""
        values = [f"let {name} = {_literal(kind, value)};\n" for name, (kind, value) in self.parameters.items()]
        return "".join(values) + self.text


@dataclass(frozen=True)
class FailedIngestion:
    """Rows that were queued and that the service could not take; they lie in `blob` for some days."""

    table: str
    failed_at: str
    error: str
    blob: str
    passing: bool  # whether it may work when sent again

    def __str__(self) -> str:
        return f"{self.table}, {self.failed_at}: {self.error} ({self.blob})"


class KustoDatabase:
    """One database of a cluster. Connections are opened on first use, busy services are given a minute.

    `credential` makes what gives out tokens; by default the settings name it, and on loopback there is none.
    `give_up_seconds`: how long a busy service is given, by default `GIVE_UP_SECONDS`.
    """

    def __init__(
        self,
        settings: AzureDataSettings,
        credential: Callable[[], Any] | None = None,
        *,
        give_up_seconds: float | None = None,
    ) -> None:
        self.settings = settings
        self._credential = credential
        self._give_up_seconds = give_up_seconds
        self.listener: Callable[[Query], None] | None = None  # is told what is asked

    def query(self, query: Query) -> pl.DataFrame:
        """The answer, its columns named and typed as `query.answer` says.

        Raises:
            KustoServiceError: the service refused the query, gave up half-way, or was busy or out of reach for a
                minute. Half an answer is none.
        """
        from azure.kusto.data import ClientRequestProperties
        from azure.kusto.data.exceptions import KustoServiceError

        if self.listener:
            self.listener(query)
        properties = ClientRequestProperties()
        for name, (kind, value) in query.parameters.items():
            properties.set_parameter(name, _literal(kind, value))
        answer = self._patiently(
            lambda: self._engine.execute_query(self.settings.kusto_database, query.kql, properties)
        )
        if answer.errors_count:
            raise KustoServiceError("; ".join(answer.get_exceptions()))
        return _frame(answer.primary_results[0].raw_rows, query.answer)

    def command(self, text: str) -> list[dict[str, Any]]:
        """Run a management command; its rows."""
        answer = self._patiently(lambda: self._engine.execute_mgmt(self.settings.kusto_database, text))
        return list(answer.primary_results[0].to_dict()["data"])

    def erase_images(self, table: str, image_ids: Collection[str]) -> int:
        """Delete the rows of some images from a table softly: no query shows them again, for good.

        The storage behind is cleared by the service in its own time; `docs/azure.md` has the purge that guarantees it.
        The ids are checked here, because a command takes no parameters.

        Raises:
            ValueError: what is no image id.
            KustoError: the service refused it (it asks for the role Database Admin), or was out of reach.
        """
        check_ids(image_ids)
        count = Query(
            f"{table}\n| where image_id in (_ids)\n| count",
            pa.schema([("Count", pa.int64())]),
            {"_ids": ("dynamic", sorted(image_ids))},
        )
        rows = int(self.query(count).item()) if image_ids else 0
        if rows:
            self.command(erase_command(table, image_ids))
        return rows

    def ingest(self, table: str, rows: pa.Table, how: Ingestion | None = None) -> None:
        """Add rows. Streamed rows can be queried at once, queued ones within minutes.

        Raises:
            KustoError: not all of them were taken; rows that are sent again have to be told apart when read.
        """
        for piece in _pieces(rows):
            self._patiently(partial(self._send, table, piece, how or self.settings.kusto_ingestion))

    def failed_ingestions(self) -> list[FailedIngestion]:
        """What of the queued rows the service could not take, as far as its queue shows at once.

        Raises:
            KustoError, azure.core.exceptions.AzureError: the queue cannot be read.
        """
        found = []
        for queue in self._failure_queues():
            with queue:
                for message in queue.peek_messages(max_messages=PEEKED_FAILURES):
                    report = json.loads(message.content)
                    if report["Database"] == self.settings.kusto_database:
                        found.append(_failure(report))
        return found

    def send_failed_again(self, *, permanent: bool = False) -> int:
        """Queue again what failed for a passing reason, or all of it; how many ingestions.

        What was sent twice because this was cut off is told apart when read.

        Raises:
            KustoError, azure.core.exceptions.AzureError: a queue or the service is out of reach.
        """
        sent = 0
        for queue in self._failure_queues():
            with queue:
                # All at once: what fails again meanwhile is for the next time.
                for message in list(queue.receive_messages(visibility_timeout=HIDDEN_SECONDS)):
                    report = json.loads(message.content)
                    # The queue belongs to the cluster, not to this database.
                    ours = report["Database"] == self.settings.kusto_database
                    if ours and (permanent or report["ShouldRetry"]) and self._queued_again(report):
                        queue.delete_message(message)
                        sent += 1
                    else:
                        queue.update_message(message.id, message.pop_receipt, visibility_timeout=0)
        return sent

    def _queued_again(self, report: dict[str, Any]) -> bool:
        """False where the blob is in none of the service's containers any more."""
        from azure.kusto.ingest import BlobDescriptor

        path = _without_signature(report["IngestionSourcePath"])
        containers = [one.url.partition("?") for one in self._patiently(self._containers)]
        signature = next((signature for root, _, signature in containers if path.startswith(f"{root}/")), None)
        if signature is None:
            LOGGER.error("Lost: the service has cleared %s away, whose rows it could not take", path)
            return False
        blob, target = BlobDescriptor(f"{path}?{signature}"), self._target(report["Table"])
        self._patiently(lambda: self._queued.ingest_from_blob(blob, target))
        return True

    def _send(self, table: str, piece: bytes, how: Ingestion) -> None:
        from azure.kusto.data.exceptions import KustoServiceError

        client = getattr(self, f"_{how}")
        try:
            client.ingest_from_stream(_packed(piece), self._target(table))
        except KustoServiceError as error:
            # The client falls back to the queue where the service is busy, but not where it does not stream at all.
            if how != "managed" or "streaming ingestion" not in str(error).lower():
                raise
            LOGGER.warning("%s does not stream, so rows for %s are queued: %s", self.settings.kusto_uri, table, error)
            self._send(table, piece, "queued")

    def _target(self, table: str) -> IngestionProperties:
        from azure.kusto.data.data_format import DataFormat
        from azure.kusto.ingest import IngestionProperties, ReportLevel

        return IngestionProperties(
            database=self.settings.kusto_database,
            table=table,
            data_format=DataFormat.MULTIJSON,
            ingestion_mapping_reference=MAPPING,
            report_level=ReportLevel.FailuresOnly,  # the client's default is silence
        )

    def _failure_queues(self) -> list[QueueClient]:
        from azure.storage.queue import QueueServiceClient, TextBase64DecodePolicy

        return [
            QueueServiceClient(root.account_uri).get_queue_client(
                root.object_name, message_decode_policy=TextBase64DecodePolicy()
            )
            for root in self._patiently(self._failure_roots)
        ]

    # The client's public way to its storage cannot leave other databases' messages where they are.
    def _failure_roots(self) -> Any:
        return self._queued._resource_manager.get_failed_ingestions_queues()

    def _containers(self) -> Any:
        return self._queued._resource_manager.get_containers()

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """A token that the service refuses is asked for once more; it may have been revoked, or a clock be wrong."""
        from azure.kusto.data.exceptions import KustoServiceError

        seconds = GIVE_UP_SECONDS if self._give_up_seconds is None else self._give_up_seconds
        try:
            return _while_busy(call, seconds)
        except KustoServiceError as error:
            if http_status(error) != UNAUTHORIZED:
                raise
            for name in CONNECTIONS:  # they hold the credential, and that holds the token
                self.__dict__.pop(name, None)
            return _while_busy(call, seconds)

    @cached_property
    def _engine(self) -> KustoClient:
        from azure.kusto.data import KustoClient

        return KustoClient(self._connection(self.settings.kusto_uri))

    @cached_property
    def _streaming(self) -> Any:
        from azure.kusto.ingest import KustoStreamingIngestClient

        return KustoStreamingIngestClient(self._connection(self.settings.kusto_uri))

    @cached_property
    def _queued(self) -> Any:
        from azure.kusto.ingest import QueuedIngestClient

        return _uploading_once(
            QueuedIngestClient(self._connection(self.settings.kusto_ingest_uri or self.settings.kusto_uri))
        )

    @cached_property
    def _managed(self) -> Any:
        from azure.kusto.ingest import ManagedStreamingIngestClient

        client = ManagedStreamingIngestClient(
            self._connection(self.settings.kusto_uri),
            self._connection(self.settings.kusto_ingest_uri or self.settings.kusto_uri),
        )
        _uploading_once(client.queued_client)
        return client

    def _connection(self, uri: str) -> KustoConnectionStringBuilder:
        from azure.kusto.data import KustoConnectionStringBuilder

        if is_loopback(uri) and self._credential is None:
            return KustoConnectionStringBuilder.with_no_authentication(uri)
        credential = self._credential() if self._credential else azure_credential(self.settings)
        return KustoConnectionStringBuilder.with_azure_token_credential(uri, credential)


# ---------------------------------------------------------------------- set-up
def setup_commands(retention_days: int = RETENTION_DAYS) -> list[str]:
    """The commands that make an empty database ready, or an older one up to date; all can be repeated.

    `retention_days`: how long predictions, embeddings and rejected images are kept; all else is kept for ever.
    """
    commands = []
    for table, schema in TABLES.items():
        days = retention_days if table in AGEING else FOR_EVER_DAYS
        columns = ", ".join(f"['{one.name}']:{kql_type(one.type)}" for one in schema)
        mapping = [{"column": one.name, "Properties": {"path": f"$.{one.name}"}} for one in schema]
        commands += [
            f".create-merge table {table} ({columns})",
            f".create-or-alter table {table} ingestion json mapping '{MAPPING}' '{json.dumps(mapping)}'",
            f".alter table {table} policy streamingingestion enable",
            # Else the database decides, and one made in the portal forgets after a year: labels, too.
            f".alter-merge table {table} policy retention softdelete = {days}d",
        ]
    batching = {
        "MaximumBatchingTimeSpan": "00:00:30",
        "MaximumNumberOfItems": 500,
        "MaximumRawDataSizeMB": 256,
    }
    return [
        *commands,
        f".alter table predictions policy ingestionbatching '{json.dumps(batching)}'",
        ".alter table predictions policy roworder (model_version desc, margin asc)",
        ".alter table embeddings policy roworder (encoder asc, image_id asc)",
        ".alter column embeddings.embedding policy encoding type='Vector16'",  # 16 bits a value instead of 64
    ]


def erase_command(table: str, image_ids: Collection[str]) -> str:
    """The soft delete of some images' rows. The ids are checked ones."""
    listed = ", ".join(f"'{one}'" for one in sorted(image_ids))
    return f".delete table {table} records <| {table} | where image_id in ({listed})"


def kql_type(kind: pa.DataType) -> str:
    """The type of a column in Data Explorer."""
    if pa.types.is_integer(kind):
        return "long"
    if pa.types.is_floating(kind):
        return "real"
    if pa.types.is_timestamp(kind):
        return "datetime"
    return "dynamic" if pa.types.is_list(kind) else "string"


# ---------------------------------------------------------------------- values, there and back
def _literal(kind: str, value: Any) -> Any:
    if kind == "dynamic":
        return f"dynamic({json.dumps(value)})"
    if kind == "datetime":
        assert isinstance(value, datetime)
        return f"datetime({value.isoformat()})"
    return value


def _frame(rows: list[list[Any]], schema: pa.Schema) -> pl.DataFrame:
    """Rows of an answer as a frame; an empty string is how Data Explorer says that there is none."""
    types, series = pl.DataFrame(empty_table(schema)).schema, []
    for position, (name, kind) in enumerate(zip(schema.names, schema.types, strict=True)):
        values = [row[position] for row in rows]
        if pa.types.is_list(kind):
            values = [json.loads(value) if isinstance(value, str) and value else value or None for value in values]
        if pa.types.is_string(kind):
            values = [value or None for value in values]
        if pa.types.is_timestamp(kind):
            stamps = pl.Series(name, values, pl.String).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us")
            series.append(stamps.dt.replace_time_zone("UTC"))
        else:
            series.append(pl.Series(name, values, types[name], strict=False))
    return pl.DataFrame(series)


def _pieces(rows: pa.Table) -> Iterator[bytes]:
    """JSON lines, in pieces that streaming takes."""
    frame = pl.DataFrame(rows).with_columns(pl.col(pl.Datetime("us", "UTC")).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    lines = frame.write_ndjson().encode().splitlines(keepends=True)
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > STREAM_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


def _packed(piece: bytes) -> StreamDescriptor:
    """Compressed at the fastest level: the client would take the slowest, which costs most of the time."""
    from azure.kusto.ingest import StreamDescriptor

    packed = io.BytesIO(gzip.compress(piece, compresslevel=1))
    return StreamDescriptor(packed, is_compressed=True, size=len(piece))


def _uploading_once(client: QueuedIngestClient) -> QueuedIngestClient:
    """After a failed upload the client tries another container with what is left of the stream: nothing.

    That blob would be queued, and the rows be lost. So one upload per call; whole calls are repeated.
    """
    client._MAX_RETRIES = 1
    return client


def _failure(report: dict[str, Any]) -> FailedIngestion:
    return FailedIngestion(
        table=report["Table"],
        failed_at=str(report.get("FailedOn")),
        error=f"{report.get('ErrorCode')}: {report.get('Details')}",
        blob=_without_signature(report["IngestionSourcePath"]),
        passing=report["ShouldRetry"],
    )


def _without_signature(address: str) -> str:
    """What follows the path opens the storage: it is not for people, and ages."""
    return address.partition("?")[0]


def _while_busy(call: Callable[[], Answer], give_up_seconds: float) -> Answer:
    """Throttling, overload and lost connections pass: wait longer each time."""
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception(_passes),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        stop=stop_after_delay(give_up_seconds),
        reraise=True,
    )
    return retrying(call)


def _passes(error: BaseException) -> bool:
    from azure.kusto.data.exceptions import (
        KustoApiError,
        KustoBlobError,
        KustoMultiApiError,
        KustoNetworkError,
        KustoThrottlingError,
    )
    from azure.kusto.ingest.exceptions import KustoQueueError

    if isinstance(error, (KustoThrottlingError, KustoNetworkError, KustoBlobError, KustoQueueError)):
        return True
    if isinstance(error, KustoMultiApiError):
        return not any(one.permanent for one in error.get_api_errors())
    if isinstance(error, KustoApiError) and error.get_api_error().permanent is not None:
        return not error.get_api_error().permanent
    return http_status(error) in BUSY


def http_status(error: BaseException) -> int | None:
    """What the service answered with; None where there was no answer. For Data Explorer's errors and azure-core's."""
    from azure.kusto.data.exceptions import KustoServiceError

    answered = error.get_raw_http_response() if isinstance(error, KustoServiceError) else error
    status = getattr(answered, "status_code", None)
    return status if isinstance(status, int) else None
