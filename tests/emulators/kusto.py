"""Data Explorer on loopback: the Kusto REST protocol in front of KQL on DuckDB (PyPI `duckdb-kql`).

Real clients talk to it. What it cannot be trusted with is checked elsewhere: whether a text is valid KQL, by
Microsoft's own analyser. Strings are never null and an unwrapped dynamic parameter is refused, as in the service.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

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
    """The next `times` requests whose path and text match are answered with `status`."""

    path: str
    status: int
    text: str = ""
    times: int = 1
    permanent: bool = False


@dataclass
class Table:
    columns: dict[str, str] = field(default_factory=dict)  # name -> KQL type
    mappings: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> {path: column}
    policies: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """What the service would answer with an error 400."""


class KustoEmulator:
    """One database; `with KustoEmulator() as kusto: kusto.url`."""

    def __init__(self, database: str = "active_learning") -> None:
        import duckdb_kql

        self.database = database
        self.tables: dict[str, Table] = {}
        self.faults: list[Fault] = []
        self.bytes_sent = 0
        self.queries: list[str] = []
        self._duckdb = duckdb_kql.connect()
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> KustoEmulator:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._duckdb.close()

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
        import duckdb_kql
        from duckdb_kql.server import RestColumn, Result
        from duckdb_kql.types import kusto_type

        self.queries.append(text)
        declared = dict(re.findall(r"(\w+):(\w+)", text.split(";", 1)[0])) if text.startswith("declare") else {}
        values = {name: _value(declared.get(name, ""), name, value) for name, value in parameters.items()}
        with self._lock:
            answer = duckdb_kql.kql(self._duckdb, text, values or None, None, False)
            columns = [
                RestColumn.derived(name, kusto_type(kind))
                for name, kind in zip(answer.columns, answer.types, strict=True)
            ]
            return Result(columns, answer.fetchall())

    # ------------------------------------------------------------------ commands
    def command(self, text: str) -> list[dict[str, str]]:
        if match := re.fullmatch(r"\.create-merge table (\w+) \((.*)\)", text):
            return self._create_merge(match[1], dict(re.findall(r"\['(\w+)'\]:(\w+)", match[2])))
        if match := re.fullmatch(r"\.create-or-alter table (\w+) ingestion json mapping '(\w+)' '(.*)'", text):
            paths = {one["Properties"]["path"][2:]: one["column"] for one in json.loads(match[3])}
            self._known(match[1]).mappings[match[2]] = paths
            return [{"Name": match[2], "Kind": "Json"}]
        if match := re.fullmatch(r"\.alter(?:-merge)? table (\w+) policy (\w+) (.*)", text):
            self._known(match[1]).policies[match[2]] = match[3]
            return [{"PolicyName": match[2], "EntityName": match[1]}]
        raise Refused(f"this emulator does not know the command {text[:80]!r}")

    def _create_merge(self, name: str, columns: dict[str, str]) -> list[dict[str, str]]:
        with self._lock:
            table = self.tables.setdefault(name, Table())
            if not table.columns:
                listed = ", ".join(f'"{column}" {DUCKDB_TYPES[kind]}' for column, kind in columns.items())
                self._duckdb.execute(f'create table "{name}" ({listed})')
                table.columns = dict(columns)
            for column, kind in columns.items():
                if table.columns.setdefault(column, kind) != kind:
                    raise Refused(f"column {column} of {name} is {table.columns[column]}, not {kind}")
        return [{"TableName": name}]

    def _known(self, name: str) -> Table:
        if name not in self.tables:
            raise Refused(f"Entity not found: table {name}")
        return self.tables[name]

    # ------------------------------------------------------------------ ingestion
    def ingest(self, table: str, mapping: str, data: bytes) -> None:
        known = self._known(table)
        if "streamingingestion" not in known.policies:
            raise Refused(f"Streaming ingestion is not enabled for table {table}")
        if mapping not in known.mappings:
            raise Refused(f"mapping {mapping!r} was not found in table {table}")
        paths = known.mappings[mapping]
        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        arrays = {
            column: pa.array([_stored(row.get(path), known.columns[column]) for row in rows], ARROW_TYPES[kind])
            for path, column in paths.items()
            for kind in [known.columns[column]]
        }
        with self._lock:
            self._duckdb.register("incoming", pa.table(arrays))
            listed = ", ".join(f'"{name}"' for name in arrays)
            casts = ", ".join(f'cast("{name}" as {DUCKDB_TYPES[known.columns[name]]})' for name in arrays)
            self._duckdb.execute(f'insert into "{table}" ({listed}) select {casts} from incoming')
            self._duckdb.unregister("incoming")


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

        def do_GET(self) -> None:
            self._answer(200, {"AzureAD": {"LoginEndpoint": "https://login.microsoftonline.com"}})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            parts = urlsplit(self.path)
            text = body.decode() if "/ingest/" not in parts.path else parts.path
            if fault := kusto.fault_for(parts.path, text):
                self._refuse(fault.status, f"injected fault {fault.status}", permanent=fault.permanent)
                return
            try:
                self._route(parts.path, parse_qs(parts.query), body)
            except Exception as error:  # noqa: BLE001 - whatever the engine says is the service's answer
                self._refuse(400, f"{type(error).__name__}: {error}", permanent=True)

        def _route(self, path: str, options: dict[str, list[str]], body: bytes) -> None:
            from duckdb_kql.server import v2_response

            if path.startswith("/v1/rest/ingest/"):
                kusto.ingest(path.rsplit("/", 1)[-1], options["mappingName"][0], body)
                self._answer(200, _table([{"ConsumptionTimestamp": "x"}]))
                return
            request = json.loads(body)
            if request["db"] != kusto.database:
                raise Refused(f"Entity not found: database {request['db']}")
            if path.startswith("/v1/rest/mgmt"):
                self._answer(200, _table(kusto.command(request["csl"].strip())))
                return
            properties = request.get("properties") or {}
            properties = json.loads(properties) if isinstance(properties, str) else properties
            self._answer(200, v2_response(kusto.query(request["csl"], properties.get("Parameters") or {}), "test"))

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _refuse(self, status: int, message: str, *, permanent: bool) -> None:
            error = {"code": "Emulated", "message": message, "@message": message, "@permanent": permanent}
            self._answer(status, {"error": error})

        def _answer(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            kusto.bytes_sent += len(data)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

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
