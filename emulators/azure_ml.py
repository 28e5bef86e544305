"""An Azure ML workspace on this machine: resource manager, logins, storage, jobs that run, endpoints that answer.

It speaks to the real SDK under Azure's real host names (see `tls_proxy`). What it proves: that we send requests
Azure's published interface describes, in an order that works, and that we understand the answers, slow, failing
and repeated ones included. What it cannot prove: Azure's own validation, permissions, quotas and timing.

Every body is checked against the published schema of its type in its api-version (`azure_ml_schemas`); whatever
that schema does not name is refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from al_resources.settings.azure_data import AzureDataSettings
from emulators.azure_ml_batch import Batch
from emulators.azure_ml_kept import deployments, find_again, keep
from emulators.azure_ml_metrics import CountedRequest, metrics_answer
from emulators.azure_ml_mount import ContainerMount
from emulators.azure_ml_schemas import TYPES, fetch, problems_of
from emulators.tls_proxy import proxy_to, write_certificates

TENANT = "00000000-0000-0000-0000-000000000001"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000002"
GROUP, WORKSPACE, ACCOUNT, CONTAINER = "rg", "ws", "alstore", "platform"


@dataclass(frozen=True)
class Cloud:
    """The host names of one of Azure's clouds."""

    manager: str = "management.azure.com"
    login: str = "login.microsoftonline.com"
    storage: str = "core.windows.net"
    ml: str = "ml.azure.com"
    kusto: str = "kusto.windows.net"

    @property
    def hosts(self) -> list[str]:
        return [
            self.manager, self.login, f"*.blob.{self.storage}", f"*.here.inference.{self.ml}", f"*.here.{self.kusto}"
        ]  # fmt: skip


PUBLIC = Cloud()
US_GOVERNMENT = Cloud(
    "management.usgovcloudapi.net", "login.microsoftonline.us", "core.usgovcloudapi.net", "ml.azure.us",
    "kusto.usgovcloudapi.net",
)  # fmt: skip
CHINA = Cloud(
    "management.chinacloudapi.cn", "login.partner.microsoftonline.cn", "core.chinacloudapi.cn", "ml.azure.cn",
    "kusto.chinacloudapi.cn",
)  # fmt: skip
ROOT = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
)
OPERATIONS = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/locations/here/operations"
RESULTS = OPERATIONS.replace("/operations", "/operationResults")
SYSTEM_DATA = {
    "createdAt": "2026-01-01T00:00:00.000000Z",
    "createdBy": "someone",
    "createdByType": "User",
    "lastModifiedAt": "2026-01-01T00:00:00.000000Z",
}
SOON = {"retry-after-ms": "10"}
BATCH_JOBS_API = "2020-09-01-dataplanepreview"  # which the address of a batch endpoint does not say
POLLS = 2  # how often a long-running operation says "in progress"


@dataclass
class Fault:
    """The next `times` requests that fit are answered with `status`; `method` and `path` are patterns.

    With `takes_effect` they are done all the same: only the answer gets lost.
    """

    method: str
    path: str
    status: int
    times: int = 1
    code: str = "Injected"
    message: str = "an injected fault"
    headers: dict[str, str] = field(default_factory=dict)
    takes_effect: bool = False


class ArmError(Exception):
    """An answer of the resource manager that is no success."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class AzureML:
    """The emulated workspace. `container` is the folder behind its blob store."""

    CONTAINER = CONTAINER

    def __init__(self, folder: Path | None = None) -> None:
        """With a `folder` everything is kept there, and found by the next one that is started on it."""
        from emulators.azure_ml_jobs import Jobs

        self._lock = threading.RLock()
        self.jobs = Jobs(self)
        self._kept = folder
        self._scratch = folder or Path(tempfile.mkdtemp(prefix="azure-ml-"))
        self._scratch.mkdir(parents=True, exist_ok=True)
        self.reset(self._scratch / "container", keep_code=folder is not None)
        if folder is not None:
            find_again(self, folder)

    def reset(self, container: Path, *, keep_code: bool = False) -> None:
        """An empty workspace whose blob store is the folder `container`; uploads of code may stay, to save time."""
        code = {key: value for key, value in getattr(self, "resources", {}).items() if "/codes/" in key}
        self.jobs.kill_all()
        if not keep_code:
            code = {}
            shutil.rmtree(self._scratch, ignore_errors=True)
        self.container = container
        self.mount: ContainerMount | None = None  # where that folder only stands for a container elsewhere
        self.requests: list[tuple[str, str, str, Any]] = []  # method, path, api-version, body
        self.faults: list[Fault] = []
        self.failing_deployments: dict[str, str] = {}  # name -> why its provisioning fails
        self.cloud = PUBLIC
        self.scopes: set[str] = set()  # what tokens were asked for
        self.held: set[str] = set()  # names of what is not done with as long as they are in here
        self.job_status: dict[str, str] = {}  # name -> a status to show whatever the job does
        self.admits_nobody = False  # whoever asks an endpoint lacks the role
        # deployment -> what its next requests come to: the status of the caller, and the container's (0: none)
        self.next_answers: dict[str, list[tuple[int, int]]] = {}
        self.late_looks = 0  # so many looks at the metrics find nothing yet
        self.resources: dict[str, dict[str, Any]] = code
        self.blob_metadata: dict[str, dict[str, str]] = {}
        self.key = uuid.uuid4().hex
        self._operations: dict[str, dict[str, Any]] = {}
        self._servers: dict[str, ModuleType | str] = {}  # the script itself, or the address of its server
        self.inference_servers = False  # deployments run behind Azure ML's own server: real, and seconds slower
        if hasattr(self, "_running"):
            self._running.close()
        self._running = contextlib.ExitStack()
        self._logs: dict[str, list[str]] = {}
        self.log_folder: Path | None = None  # where what jobs and deployments print can be read while they run
        self.counted: Counter[CountedRequest] = Counter()
        if hasattr(self, "batch"):
            self.batch.kill()
        self.batch = Batch(self)
        self._random = random.Random(0)

    def register(self, kind: str, name: str, properties: dict[str, Any]) -> None:
        """A versioned asset that the workspace made by itself."""
        path = f"{ROOT}/{kind}/{name}/versions/1"
        self.resources[path.lower()] = {"id": path, "name": "1", "properties": properties, "systemData": SYSTEM_DATA}

    def mount_container(self, settings: AzureDataSettings) -> None:
        """Make the container of an emulated storage account the workspace's datastore."""
        self.mount = ContainerMount(settings, self.container)

    def app(self) -> Starlette:
        methods = ["GET", "PUT", "POST", "DELETE", "HEAD"]
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    def go_on(self) -> None:
        """Have the deployments of a workspace that was found again answer."""
        for endpoint, name, properties in deployments(self):
            self._start_server(endpoint, name, properties)

    def keep(self) -> None:
        """Write down how it stands, where there is a folder to keep it in."""
        if self._kept is not None:
            with self._lock:
                keep(self, self._kept)

    def close(self) -> None:
        """End what still runs."""
        self._running.close()
        self.batch.kill()
        self.jobs.kill_all()
        self.keep()
        if self._kept is None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def get(self, path: str) -> dict[str, Any] | None:
        """A resource by its path below the workspace."""
        return self.resources.get(f"{ROOT}/{path}".lower())

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        return await asyncio.to_thread(self._route, request, body)

    def _route(self, request: Request, body: bytes) -> Response:
        host = request.headers["host"].split(":")[0]
        if not any(fnmatch(host, pattern) for pattern in self.cloud.hosts):
            return _error(404, "NoSuchHost", f"{host} is of another cloud")
        if host == self.cloud.login:
            return self._login(request, parse_qs(body.decode()))
        if ".blob." in host:
            return self._storage(request, body)
        if fnmatch(host, f"*.here.{self.cloud.kusto}"):
            return self._cluster(request.url.path)
        if ".inference." in host:
            return self._infer(host.split(".")[0], request, body)
        content = json.loads(body) if body else None
        path = request.url.path
        self.requests.append(
            (request.method, path, request.query_params.get("api-version", ""), json.loads(body or b"null"))
        )
        for fault in self.faults:
            if fault.times and re.search(fault.method, request.method) and re.search(fault.path, path):
                fault.times -= 1
                if fault.takes_effect:
                    self._manage(request, path, content)
                return _error(fault.status, fault.code, fault.message, fault.headers)
        try:
            with self._lock:
                answer = self._manage(request, path, content)
        except ArmError as error:
            return _error(error.status, error.code, error.message)
        if request.method != "GET" or path.startswith(OPERATIONS):
            self.keep()
        return answer

    # ------------------------------------------------------------------ logins

    def _login(self, request: Request, form: dict[str, list[str]]) -> Response:
        base = f"https://{self.cloud.login}/{TENANT}"
        self.scopes.update(form.get("scope", []))
        if request.url.path.endswith("openid-configuration"):
            return JSONResponse(
                {
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "issuer": f"{base}/v2.0",
                }
            )
        claims = {
            "aud": f"https://{self.cloud.manager}",
            "tid": TENANT,
            "oid": "o",
            "exp": int(time.time()) + 3600,
        }
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims)]
        token = b".".join([*parts, b"none"]).decode()
        return JSONResponse({"token_type": "Bearer", "expires_in": 3600, "access_token": token})

    def _cluster(self, path: str) -> Response:
        """A cluster of this cloud says whom to ask for tokens and for which resource; it has no tables."""
        if path != "/v1/rest/auth/metadata":
            return _error(400, "BadRequest", "this cluster holds nothing; `emulators.kusto` does")
        known = {
            "LoginEndpoint": f"https://{self.cloud.login}",
            "LoginMfaRequired": False,
            "KustoClientAppId": "db662dc1-0cfe-4e1c-a843-19a68e65be58",
            "KustoClientRedirectUri": "https://microsoft/kustoclient",
            "KustoServiceResourceId": f"https://kusto.{self.cloud.kusto}",
            "FirstPartyAuthorityUrl": f"https://{self.cloud.login}/f8cdef31-a31e-4b4a-93e4-5f571e91255a",
        }
        return JSONResponse({"AzureAD": known})

    # ------------------------------------------------------------------ storage

    def _storage(self, request: Request, body: bytes) -> Response:
        _, container, *rest = request.url.path.split("/", 2)
        root = self._container(container)
        headers = {"x-ms-request-id": uuid.uuid4().hex, "last-modified": formatdate(usegmt=True)}
        if request.query_params.get("comp") == "list":
            return _list_blobs(root, container, request.query_params.get("prefix", ""))
        name = request.url.path
        file = root / rest[0]
        if request.method == "PUT" and request.query_params.get("comp") == "metadata":
            self.blob_metadata[name] = _metadata(request)
            return Response(status_code=200, headers={**headers, "etag": '"1"'})
        if request.method == "PUT":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            self.blob_metadata[name] = _metadata(request)
            return Response(
                status_code=201, headers={**headers, "etag": '"1"', "x-ms-request-server-encrypted": "true"}
            )
        if not file.is_file():
            return Response(status_code=404, headers={**headers, "x-ms-error-code": "BlobNotFound"})
        data = file.read_bytes()
        found = {f"x-ms-meta-{key}": value for key, value in self.blob_metadata.get(name, {}).items()}
        more = {"etag": '"1"', "x-ms-blob-type": "BlockBlob", "content-length": str(len(data))}
        if request.method == "HEAD":
            return Response(headers={**headers, **more, **found})
        ranged = {"content-range": f"bytes 0-{len(data) - 1}/{len(data)}"} if data else {}
        return Response(data, 206 if "x-ms-range" in request.headers else 200, headers={**headers, **more, **ranged})

    def _container(self, name: str) -> Path:
        """The folder of a container: the platform's own, or one that an upload was given for itself."""
        return self.container if name == CONTAINER else self._scratch / "containers" / name

    def _path(self, uri: str) -> Path:
        """The file or folder behind a datastore URI or a blob's address."""
        if "/paths/" in uri:
            path = uri.split("/paths/", 1)[1]
            if self.mount:
                self.mount.fetch(path)
            return self.container / path
        _, container, path = urlsplit(uri).path.split("/", 2)
        return self._container(container) / path

    # ------------------------------------------------------------------ resource manager

    def _manage(self, request: Request, path: str, content: Any) -> Response:
        if path.startswith((OPERATIONS, RESULTS)):
            return self._operation(path)
        if path.lower() == ROOT.lower():
            return JSONResponse(_workspace())
        below = path[len(ROOT) + 1 :]
        if not path.lower().startswith(ROOT.lower() + "/"):
            raise ArmError(404, "ResourceNotFound", f"{path} is not emulated")
        parts = below.split("/")
        _check_body(request, parts, content)
        if parts[0] == "jobs" and parts[-1] != "jobs" and parts[1] in self.batch.jobs:
            return self.batch.answer(request.method, parts)
        if parts[0] == "datastores":
            return self._datastore(parts, request.method)
        if parts[-1] == "startPendingUpload":
            return JSONResponse(_pending_upload(parts, self.cloud.storage))
        if request.method == "POST":
            return self._act(parts, content)
        if request.method == "PUT":
            return self._put(path, parts, content)
        if request.method == "DELETE":
            return self._delete(path, parts)
        if parts[-1] == "metrics":
            return JSONResponse(self._metrics(request.query_params))
        self._go_on(path)
        if len(parts) % 2 == 0:
            return JSONResponse(self._shown(parts, self._existing(below)))
        return self._list(path, request)

    def _shown(self, parts: list[str], resource: dict[str, Any]) -> dict[str, Any]:
        """A resource as it is shown: a job may have been told to lie about its status."""
        status = self.job_status.get(parts[1]) if parts[0] == "jobs" else None
        return resource if status is None else {**resource, "properties": {**resource["properties"], "status": status}}

    def _existing(self, below: str) -> dict[str, Any]:
        found = self.get(below)
        if found is None:
            raise ArmError(404, "ResourceNotFound", f"{below} was not found")
        return found

    def _list(self, path: str, request: Request) -> Response:
        prefix = path.lower() + "/"
        rows = [
            resource
            for key, resource in self.resources.items()
            if key.startswith(prefix) and "/" not in key[len(prefix) :]
        ]
        if wanted := request.query_params.get("hash"):
            rows = [row for row in rows if row["properties"].get("properties", {}).get("hash_sha256") == wanted]
        return JSONResponse({"value": rows})

    def _put(self, path: str, parts: list[str], content: Any) -> Response:
        kind = "/".join(parts[::2])
        name = parts[-1]
        properties = content["properties"]
        key = path.lower()
        created = key not in self.resources
        resource = {
            **content,
            "id": path,
            "name": name,
            "type": f"Microsoft.MachineLearningServices/workspaces/{kind}",
            "systemData": SYSTEM_DATA,
        }
        if kind in ("models/versions", "environments/versions", "data/versions", "codes/versions") and not created:
            old = self.resources[key]["properties"]
            for fixed in ("modelUri", "dataUri", "codeUri", "condaFile", "image"):
                if properties.get(fixed) != old.get(fixed):
                    raise ArmError(409, "UserError", f"{fixed} of {'/'.join(parts)} cannot be changed")
        if kind == "models/versions":
            properties.setdefault("flavors", {})
            if not list((self._path(properties["modelUri"])).rglob("*")):
                raise ArmError(400, "UserError", f"there is nothing at {properties['modelUri']}")
        if kind == "jobs":
            return self.jobs.submit(path, name, resource, created)
        if "Endpoints" in kind:
            return self._put_endpoint(kind, parts, resource, created)
        properties["provisioningState"] = "Succeeded"
        self.resources[key] = resource
        return JSONResponse(resource, 201 if created else 200)

    def _put_endpoint(self, kind: str, parts: list[str], resource: dict[str, Any], created: bool) -> Response:
        properties = resource["properties"]
        endpoint = parts[1]
        self._refuse_while_busy(parts)
        if kind == "onlineEndpoints":
            traffic = properties.setdefault("traffic", {})
            there_are = set(self._deployments_of(endpoint))
            if set(traffic) - there_are or sum(traffic.values()) not in (0, 100):
                raise ArmError(400, "BadArgument", f"traffic {traffic} over {sorted(there_are)}")
            properties["scoringUri"] = f"https://{endpoint}.here.inference.{self.cloud.ml}/score"
        elif kind == "batchEndpoints":
            properties["scoringUri"] = f"https://{endpoint}.here.inference.{self.cloud.ml}/jobs"
        else:
            self._existing("/".join(parts[:2]))
            if kind == "onlineEndpoints/deployments":
                properties.setdefault("scaleSettings", {"scaleType": "Default"})
                self._existing(properties["model"].removeprefix("azureml:")[len(ROOT) + 1 :])
        problem = self.failing_deployments.get(parts[-1]) if kind.endswith("deployments") else None

        def finish() -> None:
            properties["provisioningState"] = "Failed" if problem else "Succeeded"
            if kind == "onlineEndpoints/deployments" and not problem:
                self._start_server(endpoint, parts[-1], properties)

        properties["provisioningState"] = "Creating" if created else "Updating"
        self.resources[resource["id"].lower()] = resource
        if problem:
            self._logs[f"{endpoint}/{parts[-1]}"] = [f"line {number}" for number in range(30)] + [problem]
        return self._begin(resource, 201 if created else 200, finish, problem)

    def _refuse_while_busy(self, parts: list[str]) -> None:
        """As documented (online endpoints, common errors, 409): one operation on an endpoint at a time."""
        place = f"{ROOT}/{parts[0]}/{parts[1]}".lower()
        for key, resource in self.resources.items():
            state = resource["properties"].get("provisioningState")
            if (key == place or key.startswith(place + "/")) and state in ("Creating", "Updating", "Deleting"):
                raise ArmError(409, "Conflict", f"{resource['name']} is {state}: an operation is in progress")

    def _delete(self, path: str, parts: list[str]) -> Response:
        below = "/".join(parts)
        resource = self.get(below)
        if resource is None:
            return Response(status_code=204)
        self._refuse_while_busy(parts)
        if parts[0] == "onlineEndpoints" and len(parts) == 4:
            endpoint = self._existing("/".join(parts[:2]))
            if endpoint["properties"]["traffic"].get(parts[3]):
                raise ArmError(409, "UserError", f"{parts[3]} has traffic")

        def finish() -> None:
            for key in [key for key in self.resources if key == path.lower() or key.startswith(path.lower() + "/")]:
                del self.resources[key]

        resource["properties"]["provisioningState"] = "Deleting"
        return self._begin(None, 202, finish, of=resource["id"])

    def _begin(
        self,
        resource: dict[str, Any] | None,
        status: int,
        finish: Callable[[], None] | None = None,
        problem: str | None = None,
        result: dict[str, Any] | None = None,
        of: str = "",
    ) -> Response:
        """Accept something that takes a while, done to the resource `of`."""
        name = str(uuid.uuid4())
        of = (resource["id"] if resource else of).lower()
        self._operations[name] = {"of": of, "polls": POLLS, "finish": finish, "problem": problem, "result": result}
        version = "api-version=2023-04-01"
        headers = {
            "azure-asyncoperation": f"https://{self.cloud.manager}{OPERATIONS}/{name}?{version}",
            "location": f"https://{self.cloud.manager}{RESULTS}/{name}?{version}",
            **SOON,
        }
        return (
            JSONResponse(resource, status, headers)
            if resource is not None
            else Response(status_code=status, headers=headers)
        )

    def _advance(self, operation: dict[str, Any]) -> bool:
        """Bring it on a bit; whether it is done."""
        if operation["of"].rsplit("/", 1)[-1] in self.held:
            return False
        if operation["polls"] > 0:
            operation["polls"] -= 1
            return False
        if operation["finish"] is not None:
            operation["finish"]()
            operation["finish"] = None
        return True

    def _go_on(self, path: str) -> None:
        """Azure goes on with what it was told whether anybody asks how it stands or not; here, at any look at it."""
        for operation in list(self._operations.values()):
            if operation["finish"] is not None and operation["of"].startswith(path.lower()):
                self._advance(operation)

    def _operation(self, path: str) -> Response:
        """How a long-running operation stands; asked for its result, 202 until there is one."""
        operation = self._operations[path.rsplit("/", maxsplit=1)[-1]]
        for_result = path.startswith(RESULTS)
        if not self._advance(operation):
            if for_result:
                return Response(status_code=202, headers={"location": f"https://{self.cloud.manager}{path}", **SOON})
            return JSONResponse({"id": path, "status": "InProgress"}, headers=SOON)
        if operation["problem"]:
            error = {"code": "ResourceNotReady", "message": operation["problem"]}
            return JSONResponse({"id": path, "status": "Failed", "error": error}, 409 if for_result else 200)
        if for_result:
            return JSONResponse(operation["result"]) if operation["result"] else Response(status_code=204)
        return JSONResponse({"id": path, "status": "Succeeded"})

    def _datastore(self, parts: list[str], method: str) -> Response:
        if len(parts) > 1 and parts[1] != "workspaceblobstore":
            raise ArmError(404, "ResourceNotFound", f"there is no datastore {parts[1]}")
        if parts[-1] == "listSecrets":
            return JSONResponse({"secretsType": "Sas", "sasToken": "sv=2024-01-01&sig=emulated"})
        properties = {
            "datastoreType": "AzureBlob",
            "accountName": ACCOUNT,
            "containerName": CONTAINER,
            "endpoint": self.cloud.storage,
            "protocol": "https",
            "credentials": {"credentialsType": "Sas"},
            "isDefault": True,
        }
        datastore = {
            "id": f"{ROOT}/datastores/workspaceblobstore",
            "name": "workspaceblobstore",
            "properties": properties,
        }
        return JSONResponse(datastore if len(parts) > 1 else {"value": [datastore]})

    def _act(self, parts: list[str], content: Any) -> Response:
        action = parts.pop()
        resource = self._existing("/".join(parts))
        if action == "listKeys":
            return JSONResponse({"primaryKey": self.key, "secondaryKey": "x"})
        if action == "token":
            return JSONResponse(
                {"accessToken": self.key, "expiryTimeUtc": 0, "refreshAfterTimeUtc": 0, "tokenType": "Bearer"}
            )
        if action == "getLogs":
            lines = self._logs.get(f"{parts[1]}/{parts[3]}", [])
            return JSONResponse({"content": "\n".join(lines[-content.get("tail", 100) :])})
        if action == "cancel":
            return self.jobs.cancel(parts[1], resource)
        raise ArmError(404, "ResourceNotFound", f"{action} is not emulated")

    # ------------------------------------------------------------------ jobs

    def _log_file(self, name: str) -> Path | None:
        """Where what a process of the workspace prints is kept; None: in memory, or beside its code."""
        return self.log_folder / f"{name}.log" if self.log_folder else None

    def printed(self, name: str, lines: list[str]) -> None:
        """Keep what a job or deployment printed."""
        self._logs[name] = lines
        if file := self._log_file(name):
            file.write_text("".join(f"{line}\n" for line in lines))

    def log_of(self, name: str) -> list[str]:
        """What a job or deployment printed."""
        return self._logs.get(name, [])

    # ------------------------------------------------------------------ endpoints

    def _metrics(self, query: QueryParams) -> dict[str, Any]:
        """Azure Monitor's answer: one series per combination of the dimensions that are asked for by `'*'`."""
        if self.late_looks:
            self.late_looks -= 1
            return {"value": [{"name": {"value": "RequestsPerMinute"}, "timeseries": []}]}
        return metrics_answer(self.counted, query)

    def _deployments_of(self, endpoint: str) -> dict[str, dict[str, Any]]:
        prefix = f"{ROOT}/onlineEndpoints/{endpoint}/deployments/".lower()
        return {value["name"]: value for key, value in self.resources.items() if key.startswith(prefix)}

    def _start_server(self, endpoint: str, deployment: str, properties: dict[str, Any]) -> None:
        """Load the scoring script from the uploaded code, as the container would, in a module of its own."""
        code = properties["codeConfiguration"]
        snapshot = self._existing(code["codeId"].removeprefix("azureml:")[len(ROOT) + 1 :])
        script = self._path(snapshot["properties"]["codeUri"]) / code["scoringScript"]
        model = self._existing(properties["model"].removeprefix("azureml:")[len(ROOT) + 1 :])
        environment = {
            **properties.get("environmentVariables", {}),
            "AZUREML_MODEL_DIR": str(self._path(model["properties"]["modelUri"])),
        }
        self._logs[f"{endpoint}/{deployment}"] = ["init() has completed"]
        if self.inference_servers:
            from emulators.inference_server import inference_server

            code_folder, model_folder = script.parent.parent, Path(environment.pop("AZUREML_MODEL_DIR"))
            log = self._log_file(f"{endpoint}-{deployment}")
            server = inference_server(code_folder, model_folder, environment, log)
            self._servers[f"{endpoint}/{deployment}"] = self._running.enter_context(server)
            return
        spec = importlib.util.spec_from_file_location(f"entry_{uuid.uuid4().hex}", script)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with _environment(environment):
            module.init()
        self._servers[f"{endpoint}/{deployment}"] = module

    def resource_of(self, asset_id: str) -> dict[str, Any]:
        """What a full id names, with or without `azureml:` in front."""
        return self._existing(asset_id.removeprefix("azureml:")[len(ROOT) + 1 :])

    def _infer(self, endpoint: str, request: Request, body: bytes) -> Response:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if sent != self.key and sent.count(".") != 2:  # neither the key nor a token
            return JSONResponse({"message": "wrong key"}, 401)
        if self.admits_nobody:
            return JSONResponse({"message": "the action onlineEndpoints/score/action is not permitted"}, 403)
        if request.url.path == "/jobs":
            content = json.loads(body)
            self.requests.append(("POST", f"/batchEndpoints/{endpoint}/jobs", "", content))
            try:
                _check("batch job", BATCH_JOBS_API, content)
            except ArmError as error:
                return _error(error.status, error.code, error.message)
            return self.batch.invoke(endpoint, request.headers.get("azureml-model-deployment"), content)
        with self._lock:
            traffic = self._existing(f"onlineEndpoints/{endpoint}")["properties"]["traffic"]
            live = {name: share for name, share in traffic.items() if share}
            deployment = request.headers.get("azureml-model-deployment")
            if deployment is None and live:
                (deployment,) = self._random.choices(list(live), list(live.values()))
            server = self._servers.get(f"{endpoint}/{deployment}")
            if deployment not in self._deployments_of(endpoint) or server is None:
                return JSONResponse({"message": f"no deployment {deployment}"}, 404)
            if self.next_answers.get(deployment):
                seen, by_model = self.next_answers[deployment].pop(0)
                self._logs[f"{endpoint}/{deployment}"].append("CUDA out of memory")
                content = b'{"message": "An unexpected error occurred in scoring script."}'
                return self._answered(deployment, seen, by_model, content, {})
        if isinstance(server, str):
            passed = {"content-type": request.headers.get("content-type", "")}
            reply = httpx.post(f"{server}/score", content=body, headers=passed, timeout=60, trust_env=False)
            headers = {"content-type": reply.headers["content-type"]}
            return self._by_container(deployment, reply.status_code, reply.content, headers)
        answer = server.run(body)
        status = answer["status"] if isinstance(answer, dict) else 200
        headers = {"content-type": "application/json", "azureml-model-deployment": deployment}
        return self._by_container(deployment, status, json.dumps(answer).encode(), headers)

    def _by_container(self, deployment: str, status: int, content: bytes, headers: dict[str, str]) -> Response:
        """As documented: what is not 200 inside is 424 outside."""
        return self._answered(deployment, 200 if status == 200 else 424, status, content, headers)

    def _answered(self, deployment: str, seen: int, by_model: int, content: bytes, headers: dict[str, str]) -> Response:
        self.counted[CountedRequest(deployment, seen, by_model, int(time.time() // 60))] += 1
        told = {"ms-azureml-model-error-statuscode": str(by_model)} if seen == 424 and by_model else {}
        return Response(content, seen, {**headers, **told})


def _check_body(request: Request, parts: list[str], content: Any) -> None:
    if content is not None:
        kind = "/".join(parts[::2]) if request.method == "PUT" else parts[-1]
        _check(kind, request.query_params.get("api-version", ""), content)


def _check(kind: str, api_version: str, content: Any) -> None:
    """Refuse what Azure's published interface would refuse."""
    if kind not in TYPES:
        raise ArmError(404, "ResourceNotFound", f"{kind} is not emulated")
    if problems := problems_of(kind, api_version, content):
        raise ArmError(400, "ValidationError", f"{kind}: " + "; ".join(problems))


def _workspace() -> dict[str, Any]:
    return {
        "id": ROOT,
        "name": WORKSPACE,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": "here",
        "properties": {
            "workspaceId": "w",
            "discoveryUrl": "https://here.api.azureml.ms/discovery",
            "storageAccount": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
            f"/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}",
        },
    }


def _pending_upload(parts: list[str], storage: str) -> dict[str, Any]:
    container = f"https://{ACCOUNT}.blob.{storage}/upload-{parts[1]}"
    return {
        "blobReferenceForConsumption": {
            "blobUri": container,
            "storageAccountArmId": "/subscriptions/x",
            "credential": {"credentialType": "SAS", "sasUri": f"{container}?sv=2024-01-01&sig=emulated"},
        },
        "pendingUploadType": "TemporaryBlobReference",
    }


def _list_blobs(root: Path, container: str, prefix: str) -> Response:
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    blobs = "".join(
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{formatdate(usegmt=True)}</Last-Modified>"
        f"<Etag>1</Etag><Content-Length>{(root / name).stat().st_size}</Content-Length>"
        "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        for name in names
        if name.startswith(prefix)
    )
    return Response(
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{container}">'
        f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>",
        media_type="application/xml",
    )


def _metadata(request: Request) -> dict[str, str]:
    return {key[10:]: value for key, value in request.headers.items() if key.startswith("x-ms-meta-")}


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def azure_ml(folder: Path, *, kept: bool = False) -> Iterator[tuple[AzureML, dict[str, str]]]:
    """A running emulator, and the environment variables that lead a process's clients to it.

    Its certificates lie in `folder`, and where it is `kept` all else, too.
    """
    fetch()  # now: the environment that leads to the emulator leads pip there as well
    authority, server_certificate = write_certificates(folder, [*PUBLIC.hosts, *US_GOVERNMENT.hosts, *CHINA.hosts])
    emulator = AzureML(folder / "workspace" if kept else None)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        config = uvicorn.Config(
            emulator.app(), log_level="warning", ssl_certfile=server_certificate, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        with proxy_to(listener.getsockname()[1]) as proxy:
            yield (
                emulator,
                {
                    "HTTPS_PROXY": proxy,
                    "NO_PROXY": "127.0.0.1,localhost",
                    "REQUESTS_CA_BUNDLE": str(authority),
                    "SSL_CERT_FILE": str(authority),
                    "AZURE_TENANT_ID": TENANT,
                    "AZURE_CLIENT_ID": "client",
                    "AZURE_CLIENT_SECRET": "secret",
                },
            )
        emulator.close()
        server.should_exit = True
        thread.join(20)
