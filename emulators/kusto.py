"""Data Explorer on loopback: the Kusto REST protocol in front of KQL on DuckDB (PyPI `duckdb-kql`).

Real clients talk to it, and with a storage emulator beside it they ingest through its queues as in the cloud. Whether
a text is valid KQL on the tables there are, is for Microsoft's own analyser to say, where npm can install it: what it
does not like is refused, and so is an answer whose columns are not those it foresees. Strings are never null and an
unwrapped dynamic parameter is refused, as in the service.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from al_resources.azure.storage import DEVELOPMENT_ACCOUNT
from emulators.kql_analyser import Analysis, shared_analyser
from emulators.node_packages import NotInstalled

if TYPE_CHECKING:
    from emulators.azurite import Azurite

DUCKDB_TYPES = {
    "string": "VARCHAR",
    "long": "BIGINT",
    "real": "DOUBLE",
    "datetime": "TIMESTAMP",
    "dynamic": "JSON",
}
ARROW_TYPES = {
    "string": pa.string(),
    "long": pa.int64(),
    "real": pa.float64(),
    "datetime": pa.string(),
    "dynamic": pa.string(),
}


@dataclass
class Fault:
    """What happens to the next `times` requests whose path and text match; the path of a queued blob is /queued/TABLE.

    With a `status`, nothing is done and that is the answer. Else the request is served, `seconds` late, and what
    `cut` says becomes of the connection: closed before it is served, or in the middle of the answer.
    """

    path: str
    status: int = 0
    text: str = ""
    times: int = 1
    permanent: bool = False
    page: str = ""  # of a gateway in front of the service, instead of the service's own words
    seconds: float = 0
    cut: Literal["", "before", "after"] = ""
    partial: Literal["", "among the rows", "at the end"] = ""  # half of a query's rows, and where the error is told


@dataclass
class Table:
    columns: dict[str, str] = field(default_factory=dict)  # name -> KQL type
    mappings: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> {path: column}
    policies: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """What the service would answer with an error 400."""


OF_THE_CLIENT = (".get ingestion resources", ".get kusto identity token")  # commands that are no text of ours


@lru_cache(maxsize=10_000)
def _analysed(text: str, schema: str) -> Analysis:
    (analysis,) = shared_analyser().analyse([text], json.loads(schema))
    return analysis


@lru_cache(maxsize=10_000)
def _translated(text: str, schema: str) -> Any:
    """A text as SQL, with a place for every parameter: translating takes far longer than answering."""
    import duckdb_kql

    return duckdb_kql.to_sql(text, schema={name: list(columns) for name, columns in json.loads(schema).items()})


def _can_analyse() -> bool:
    """Whether the analyser is there; installs and loads it now, for clients do not wait for that."""
    try:
        shared_analyser().analyse([], {})
    except NotInstalled:
        return False
    return True


class KustoEmulator:
    """One database; `with KustoEmulator() as kusto: kusto.url`. Queued ingestion needs a `storage`.

    With `tokens`, requests must carry one of them. With a `memory` like "100MB", tables lie in a file, and a query
    whose operators would hold more is refused, as the service refuses those that would hold more than 5 GiB each.
    With a `folder` all tables are kept there, and found by the next one that is started on it.
    """

    def __init__(
        self,
        database: str = "active_learning",
        storage: Azurite | None = None,
        memory: str = "",
        folder: Path | None = None,
        port: int = 0,
    ) -> None:
        import duckdb_kql

        self.database = database
        self.tables: dict[str, Table] = {}
        self.faults: list[Fault] = []
        self.tokens: set[str] | None = None
        self.bytes_sent = 0
        self.queries: list[str] = []
        self.requests: list[str] = []  # paths
        self._gate = _can_analyse()
        self._running = ExitStack()
        self.memory = memory
        self._folder = folder
        name = self._kept_tables()
        self.queued = QueuedIngestion(self, storage, name) if storage else None
        self._duckdb = duckdb_kql.connect(self._file() if memory or folder else ":memory:")
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> KustoEmulator:
        self._running.callback(self._duckdb.close)
        self._running.callback(self._server.server_close)
        self._running.callback(self._server.shutdown)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        if self.queued:
            self._running.enter_context(self.queued)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _file(self) -> str:
        folder = self._folder or Path(self._running.enter_context(tempfile.TemporaryDirectory()))
        return str(folder / "tables.duckdb")

    def _kept_tables(self) -> str:
        """Read what tables there are in the folder, if there is one; returns the name of its queues."""
        if self._folder is None:
            return uuid.uuid4().hex
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = self._folder / "tables.json"
        if not kept.exists():
            return uuid.uuid4().hex
        told = json.loads(kept.read_text())
        self.tables = {name: Table(**table) for name, table in told["tables"].items()}
        return str(told["queues"])

    def _keep_tables(self) -> None:
        if self._folder is not None:
            queues = self.queued.name if self.queued else uuid.uuid4().hex
            told = {"queues": queues, "tables": {name: asdict(table) for name, table in self.tables.items()}}
            new = self._folder / "tables.json.new"
            new.write_text(json.dumps(told))
            new.replace(self._folder / "tables.json")

    def load_log(self, rows: int, model_name: str, model_version: int) -> None:
        """A long log of as many images, made by the engine itself. From now on the limit of memory holds."""
        digest = "md5(n::varchar)"
        with self._lock:
            self._duckdb.execute(
                f"""insert into predictions (prediction_id, image_id, image_key, model_name, model_version, source,
                confidence, margin, entropy, logged_at) select {digest}, {digest},
                ('0x' || substr({digest}, 1, 15))::bigint, ?, ?, 'online', hash(n) / 18446744073709551616.0,
                hash(n + 1) / 18446744073709551616.0, hash(n + 2) / 18446744073709551616.0,
                timestamp '2026-01-01' + interval (n) second from range({rows}) r(n)""",
                [model_name, model_version],
            )
            self._duckdb.execute("checkpoint")
            if self.memory:
                self._duckdb.execute("set temp_directory = ''; set threads = 2")
                self._duckdb.execute(f"set memory_limit = '{self.memory}'")

    def fault_for(self, path: str, text: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path and fault.text in text:
                    fault.times -= 1
                    return fault
        return None

    # ------------------------------------------------------------------ queries
    def query(self, text: str, parameters: dict[str, Any]) -> Any:
        """Rows and types, as `duckdb_kql.server` describes them."""
        from duckdb_kql.server import RestColumn, Result
        from duckdb_kql.types import kusto_type

        self.queries.append(text)
        declared = dict(re.findall(r"(\w+):(\w+)", text.split(";", 1)[0])) if text.startswith("declare") else {}
        values = {name: _value(declared.get(name, ""), name, value) for name, value in parameters.items()}
        with self._lock:
            expected = self._columns(text)
            answer = self._answer(text, values)
            if expected is not None and answer.columns != expected:
                raise Refused(f"the engine answers with {answer.columns}, KQL with {expected}: {text}")
            columns = [
                RestColumn.derived(name, kusto_type(kind))
                for name, kind in zip(answer.columns, answer.types, strict=True)
            ]
            return Result(columns, answer.fetchall())

    def _answer(self, text: str, values: dict[str, Any]) -> Any:
        """As `duckdb_kql.kql`, which translates every text anew."""
        import duckdb_kql
        from duckdb_kql.params import bind

        sql = _translated(text, self._schema())
        if sql.parameters:  # it asks for the time, which was taken when it was translated
            return duckdb_kql.kql(self._duckdb, text, values or None, None, False)
        bound, unbound = bind(list(sql.declarations), values)
        if unbound:
            raise Refused(f"parameters without a value: {', '.join(unbound)}: {text}")
        bound = {slot: value for slot, value in bound.items() if slot in sql.slots}
        return self._duckdb.sql(str(sql), params=bound) if bound else self._duckdb.sql(str(sql))

    def _schema(self) -> str:
        return json.dumps({name: table.columns for name, table in self.tables.items()})

    def _columns(self, text: str) -> list[str] | None:
        """What a text answers with; refused where it is not valid on the tables there are. None: nobody can tell."""
        if not self._gate:
            return None
        with self._lock:
            analysis = _analysed(text, self._schema())
        if analysis.diagnostics:
            raise Refused(f"{'; '.join(analysis.diagnostics)}: {text}")
        return [column.split(":")[0] for column in analysis.columns]

    # ------------------------------------------------------------------ commands
    def command(self, text: str) -> list[dict[str, str]]:
        done = self._command(text)
        if text not in OF_THE_CLIENT:
            self._keep_tables()
        return done

    def _command(self, text: str) -> list[dict[str, str]]:
        if text not in OF_THE_CLIENT:
            self._columns(text)
        if match := re.fullmatch(r"\.create-merge table (\w+) \((.*)\)", text):
            return self._create_merge(match[1], dict(re.findall(r"\['(\w+)'\]:(\w+)", match[2])))
        if match := re.fullmatch(r"\.create-or-alter table (\w+) ingestion json mapping '(\w+)' '(.*)'", text):
            paths = {one["Properties"]["path"][2:]: one["column"] for one in json.loads(match[3])}
            self._known(match[1]).mappings[match[2]] = paths
            return [{"Name": match[2], "Kind": "Json"}]
        if match := re.fullmatch(r"\.alter(?:-merge)? table (\w+) policy (\w+) (.*)", text):
            self._known(match[1]).policies[match[2]] = match[3]
            return [{"PolicyName": match[2], "EntityName": match[1]}]
        if match := re.fullmatch(r"\.alter column (\w+)\.(\w+) policy (\w+) (.*)", text):
            self._known(match[1]).policies[f"{match[2]} {match[3]}"] = match[4]
            return [{"PolicyName": match[3], "EntityName": f"{match[1]}.{match[2]}"}]
        if match := re.fullmatch(r"\.delete table (\w+) records <\| (\1 \| where .+)", text):
            return self._delete(match[1], match[2])
        if text == ".get ingestion resources" and self.queued:
            return self.queued.resources()
        if text == ".get kusto identity token" and self.queued:
            return [{"AuthorizationContext": "emulated"}]
        raise Refused(f"this emulator does not know the command {text[:80]!r}")

    def _create_merge(self, name: str, columns: dict[str, str]) -> list[dict[str, str]]:
        with self._lock:
            table = self.tables.setdefault(name, Table())
            added = [f'"{one}" {DUCKDB_TYPES[kind]}' for one, kind in columns.items() if one not in table.columns]
            if not table.columns:
                self._duckdb.execute(f'create table "{name}" ({", ".join(added)})')
            else:
                for column in added:
                    self._duckdb.execute(f'alter table "{name}" add column {column}')
            for column, kind in columns.items():
                if table.columns.setdefault(column, kind) != kind:
                    raise Refused(f"column {column} of {name} is {table.columns[column]}, not {kind}")
        return [{"TableName": name}]

    def _delete(self, name: str, predicate: str) -> list[dict[str, str]]:
        """A soft delete: the rows that the predicate finds are gone; of a row that is there twice, both."""
        import duckdb_kql

        with self._lock:
            self._known(name)
            self._duckdb.execute(f"create temp table doomed as {duckdb_kql.kql(self._duckdb, predicate).sql_query()}")
            doomed = self._duckdb.execute("select count(*) from doomed").fetchall()[0][0]
            self._duckdb.execute(f'create temp table kept as select * from "{name}" except all select * from doomed')
            self._duckdb.execute(f'delete from "{name}"')
            self._duckdb.execute(f'insert into "{name}" select * from kept')
            self._duckdb.execute("drop table doomed; drop table kept")
        return [{"TableName": name, "RecordCount": str(doomed)}]

    def _known(self, name: str) -> Table:
        if name not in self.tables:
            raise Refused(f"Entity not found: table {name}")
        return self.tables[name]

    # ------------------------------------------------------------------ ingestion
    def stream(self, table: str, mapping: str, data: bytes) -> None:
        if "streamingingestion" not in self._known(table).policies:
            raise Refused(f"Streaming ingestion is not enabled for table {table}")
        self.ingest(table, mapping, data)

    def ingest(self, table: str, mapping: str, data: bytes) -> None:
        """All rows or none."""
        known = self._known(table)
        if mapping not in known.mappings:
            raise Refused(f"mapping {mapping!r} was not found in table {table}")
        paths = known.mappings[mapping]
        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        arrays = {
            column: pa.array([_stored(row.get(path), known.columns[column]) for row in rows], ARROW_TYPES[kind])
            for path, column in paths.items()
            for kind in [known.columns[column]]
        }
        self.load(table, pa.table(arrays))

    def load(self, table: str, rows: pa.Table) -> None:
        """Rows as they lie in the engine: dynamic columns are JSON, times have no zone."""
        columns = self._known(table).columns
        listed = ", ".join(f'"{name}"' for name in rows.column_names)
        casts = ", ".join(f'cast("{name}" as {DUCKDB_TYPES[columns[name]]})' for name in rows.column_names)
        with self._lock:
            self._duckdb.register("incoming", rows)
            self._duckdb.execute(f'insert into "{table}" ({listed}) select {casts} from incoming')
            self._duckdb.unregister("incoming")

    def empty(self) -> None:
        """Remove all rows; tables and policies stay."""
        with self._lock:
            for name in self.tables:
                self._duckdb.execute(f'delete from "{name}"')

    def rows(self, table: str) -> int:
        """How many rows lie in a table, those that were sent twice twice."""
        with self._lock:
            return int(self._duckdb.execute(f'select count(*) from "{table}"').fetchall()[0][0])


class QueuedIngestion:
    """The data management service: takes blobs that clients announce in a queue, reports those it cannot take."""

    LOOK_SECONDS = 0.05

    def __init__(self, kusto: KustoEmulator, storage: Azurite, name: str) -> None:
        self.kusto = kusto
        self.storage = storage
        self.name = name
        self.paused = False  # whether blobs lie in the queue, as they do for minutes in the cloud
        self.missing_container = False  # whether clients are told of a container first that is not there
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> QueuedIngestion:
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.queue import QueueServiceClient

        self.renew_containers()
        with QueueServiceClient(self.storage.queue_url, credential=DEVELOPMENT_ACCOUNT) as queues:
            for kind in ("ready", "failed", "done"):
                with suppress(ResourceExistsError):  # of the one before, on the same folder
                    queues.create_queue(f"{kind}{self.name}")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def renew_containers(self) -> None:
        """Another place for blobs, as the service chooses one from time to time."""
        from azure.storage.blob import BlobServiceClient

        self.container = f"temp{uuid.uuid4().hex}"
        with BlobServiceClient(self.storage.blob_url, credential=DEVELOPMENT_ACCOUNT) as blobs:
            blobs.create_container(self.container)

    def resources(self) -> list[dict[str, str]]:
        blobs, queues = self.storage.blob_url, self.storage.queue_url
        roots = [
            ("TempStorage", f"{blobs}/{self.container}"),
            ("SecuredReadyForAggregationQueue", f"{queues}/ready{self.name}"),
            ("FailedIngestionsQueue", f"{queues}/failed{self.name}"),
            ("SuccessfulIngestionsQueue", f"{queues}/done{self.name}"),
            ("IngestionsStatusTable", f"{queues}/status{self.name}"),
        ]
        if self.missing_container:
            roots.insert(0, ("TempStorage", f"{blobs}/gone{self.name}"))
        return [{"ResourceTypeName": kind, "StorageRoot": f"{root}?{_signature()}"} for kind, root in roots]

    def _work(self) -> None:
        from azure.storage.queue import QueueClient

        ready = QueueClient(self.storage.queue_url, f"ready{self.name}", credential=DEVELOPMENT_ACCOUNT)
        failed = QueueClient(self.storage.queue_url, f"failed{self.name}", credential=DEVELOPMENT_ACCOUNT)
        while not self._ended.wait(self.LOOK_SECONDS):
            if self.paused:
                continue
            for message in ready.receive_messages(visibility_timeout=300):
                announced = json.loads(base64.b64decode(message.content))
                if report := self._take(announced):
                    failed.send_message(base64.b64encode(json.dumps(report).encode()).decode())
                ready.delete_message(message)

    def _take(self, announced: dict[str, Any]) -> dict[str, Any] | None:
        """Ingest one blob; else what the queue of failures is told."""
        from azure.storage.blob import BlobClient

        table = announced["TableName"]
        fault = self.kusto.fault_for(f"/queued/{table}", "")
        try:
            if fault:
                raise Refused(f"injected fault {fault.status}")
            data = BlobClient.from_blob_url(announced["BlobPath"]).download_blob().readall()
            mapping = announced["AdditionalProperties"]["ingestionMappingReference"]
            self.kusto.ingest(table, mapping, gzip.decompress(data))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            if announced["ReportLevel"] == 1:  # the client asked for silence
                return None
            return {
                "OperationId": str(uuid.uuid4()),
                "Database": announced["DatabaseName"],
                "Table": table,
                "FailedOn": datetime.now(UTC).isoformat(),
                "IngestionSourceId": announced["Id"],
                "IngestionSourcePath": announced["BlobPath"].split("?")[0],  # without its signature
                "Details": f"{type(error).__name__}: {error}",
                "ErrorCode": "Emulated",
                "FailureStatus": "Transient" if fault and not fault.permanent else "Permanent",
                "ShouldRetry": bool(fault and not fault.permanent),
            }
        return None


def _signature() -> str:
    """What the service hands out with the addresses of its storage: a signature for blobs and queues."""
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    parts = generate_account_sas(
        **DEVELOPMENT_ACCOUNT,
        resource_types=ResourceTypes(service=True, container=True, object=True),
        permission=AccountSasPermissions(
            read=True, write=True, delete=True, list=True, add=True, create=True, process=True, update=True
        ),
        expiry=datetime.now(UTC) + timedelta(hours=1),
        services="bq",
    )
    return str(parts)


def _stored(value: Any, kind: str) -> Any:
    if kind == "string":
        return "" if value is None else value
    if kind == "dynamic":
        return json.dumps(value)
    return value.rstrip("Z") if kind == "datetime" and value is not None else value


def _value(kind: str, name: str, value: Any) -> Any:
    """A parameter as the service reads it: dynamic and datetime come as literals."""
    if kind in ("dynamic", "datetime"):
        match = re.fullmatch(rf"{kind}\((.*)\)", str(value), re.DOTALL)
        if match is None:
            raise Refused(f"parameter {name}: {value!r} is no {kind} literal")
        return json.loads(match[1]) if kind == "dynamic" else match[1]
    return int(value) if kind == "long" else value


def _handler(kusto: KustoEmulator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        fault = Fault("")

        def do_GET(self) -> None:
            login = "https://login.microsoftonline.com"
            cloud = {
                "LoginEndpoint": login,
                "LoginMfaRequired": False,
                "KustoClientAppId": "emulated",
                "KustoClientRedirectUri": kusto.url,
                "KustoServiceResourceId": "https://kusto.kusto.windows.net",
                "FirstPartyAuthorityUrl": f"{login}/emulated",
            }
            self._answer(200, {"AzureAD": cloud})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            parts = urlsplit(self.path)
            kusto.requests.append(parts.path)
            text = body.decode() if "/ingest/" not in parts.path else parts.path
            if kusto.tokens is not None and self.headers.get("Authorization", "")[len("Bearer ") :] not in kusto.tokens:
                self._refuse(401, "the token is unknown or has expired", permanent=True)
                return
            self.fault = kusto.fault_for(parts.path, text) or Fault("")
            if self.fault.status:
                message = f"injected fault {self.fault.status}"
                self._refuse(self.fault.status, message, permanent=self.fault.permanent, page=self.fault.page)
                return
            time.sleep(self.fault.seconds)
            if self.fault.cut == "before":
                self._hang_up()
                return
            try:
                self._route(parts.path, parse_qs(parts.query), body)
            except Exception as error:  # noqa: BLE001 - whatever the engine says is the service's answer
                self._refuse(400, f"{type(error).__name__}: {error}", permanent=True)

        def _route(self, path: str, options: dict[str, list[str]], body: bytes) -> None:
            from duckdb_kql.server import v2_response

            if path.startswith("/v1/rest/ingest/"):
                kusto.stream(path.rsplit("/", 1)[-1], options["mappingName"][0], body)
                self._answer(200, _table([{"ConsumptionTimestamp": "x"}]))
                return
            request = json.loads(body)
            if request["db"] not in (kusto.database, "NetDefaultDB"):
                raise Refused(f"Entity not found: database {request['db']}")
            if path.startswith("/v1/rest/mgmt"):
                self._answer(200, _table(kusto.command(request["csl"].strip())))
                return
            properties = request.get("properties") or {}
            properties = json.loads(properties) if isinstance(properties, str) else properties
            answer = v2_response(kusto.query(request["csl"], properties.get("Parameters") or {}), "test")
            if self.fault.partial:
                _spoil(answer, self.fault.partial)
            self._answer(200, answer)

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _refuse(self, status: int, message: str, *, permanent: bool, page: str = "") -> None:
            error = {"code": "Emulated", "message": message, "@message": message, "@permanent": permanent}
            self._send(status, page.encode() or json.dumps({"error": error}).encode())

        def _answer(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            kusto.bytes_sent += len(data)
            self._send(status, data, cut=self.command == "POST" and self.fault.cut == "after")

        def _send(self, status: int, data: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self._hang_up()

        def _hang_up(self) -> None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _table(rows: list[dict[str, str]]) -> dict[str, Any]:
    names = list(rows[0]) if rows else []
    columns = [{"ColumnName": name, "DataType": "String", "ColumnType": "string"} for name in names]
    table = {
        "TableName": "Table_0",
        "Columns": columns,
        "Rows": [[row[name] for name in names] for row in rows],
    }
    return {"Tables": [table]}


def _spoil(frames: list[dict[str, Any]], where: str) -> None:
    """What a service that runs out of memory half-way answers: some rows, and an error."""
    tables = {frame["TableKind"]: frame for frame in frames if "TableKind" in frame}
    rows = tables["PrimaryResult"]["Rows"]
    del rows[len(rows) // 2 :]
    message = "Query execution has exceeded the allowed limits"
    if where == "among the rows":
        error = {"code": "LimitsExceeded", "message": message, "@message": message, "@permanent": False}
        rows.append({"OneApiErrors": [{"error": error}]})
    else:
        told = tables["QueryCompletionInformation"]
        names = [column["ColumnName"] for column in told["Columns"]]
        for row in told["Rows"]:
            row[names.index("Level")], row[names.index("Payload")] = 2, message
    frames[-1]["HasErrors"] = True
