"""Batch endpoints of the emulated workspace: invocations become jobs, and jobs run the scoring script for real.

A job runs as Azure's does: one `init()` per process and a `run()` per mini-batch; a mini-batch that raises is tried
again, then given up; what `run()` returns is appended to the output, row by row. Several processes take seconds to
start, so a job gets them only where `processes` is set, and else runs in a thread.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from emulators.batch_driver import run_mini_batch

if TYPE_CHECKING:
    from emulators.azure_ml import AzureML

DRIVER = Path(__file__).with_name("batch_driver.py")


class Batch:
    """The batch jobs of a workspace."""

    def __init__(self, workspace: AzureML) -> None:
        self._workspace = workspace
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.jobs: dict[str, str] = {}  # name -> status
        self.held = False  # jobs wait in the queue
        self.processes = False
        self.quoted = False  # rows come as a CSV writer writes them

    def kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def invoke(self, endpoint: str, deployment: str | None, content: Any) -> Response:
        found = self._workspace.get(f"batchEndpoints/{endpoint}")
        if found is None:
            return JSONResponse({"error": {"code": "NotFound", "message": f"no endpoint {endpoint}"}}, 404)
        deployment = deployment or (found["properties"].get("defaults") or {}).get("deploymentName")
        resource = self._workspace.get(f"batchEndpoints/{endpoint}/deployments/{deployment}")
        if resource is None:
            return JSONResponse({"error": {"code": "NotFound", "message": f"no deployment {deployment}"}}, 404)
        if problem := _problem_of(content["properties"]):
            return JSONResponse({"error": {"code": "ValidationError", "message": problem}}, 400)
        name = f"batchjob-{uuid.uuid4()}"
        self.jobs[name] = "Queued"
        if not self.held:
            arguments = (name, resource["properties"], content["properties"])
            threading.Thread(target=self._run, args=arguments, daemon=True).start()
        return JSONResponse({"name": name, "type": "jobs", "properties": {"status": "Queued"}}, 201)

    def answer(self, method: str, parts: list[str]) -> Response:
        name = parts[1]
        if method == "POST" and parts[2:] == ["cancel"]:
            self.jobs[name] = "Canceled"
            if (process := self._processes.get(name)) is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            return Response(status_code=200)
        return JSONResponse({"name": name, "properties": {"jobType": "Pipeline", "status": self.jobs[name]}})

    def _run(self, name: str, deployment: dict[str, Any], asked: dict[str, Any]) -> None:
        workspace = self._workspace
        (source,) = asked["inputData"].values()
        target = workspace._path(asked["outputData"]["score"]["uri"])
        code = deployment["codeConfiguration"]
        snapshot = workspace._path(workspace.resource_of(code["codeId"])["properties"]["codeUri"])
        model = workspace.resource_of(deployment["model"]["assetId"])
        files = [str(file) for file in sorted(workspace._path(source["uri"]).rglob("*")) if file.is_file()]
        task = {
            "script": str(snapshot / code["scoringScript"]),
            "files": files,
            "mini_batch": deployment["miniBatchSize"],
            "processes": deployment["maxConcurrencyPerInstance"] * deployment["resources"]["instanceCount"],
            "tries": deployment["retrySettings"]["maxRetries"],
        }
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(workspace._scratch),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(snapshot),
            "AZUREML_MODEL_DIR": str(workspace._path(model["properties"]["modelUri"])),
            **deployment.get("environmentVariables", {}),
        }
        self.jobs[name] = "Running"
        rows = self._in_processes(name, task, environment) if self.processes else _here(task, environment)
        if self.jobs[name] == "Canceled":
            return
        if rows is None or target.exists():
            self.jobs[name] = "Failed"
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._rows(rows))
        if workspace.mount:
            workspace.mount.send(target.parent)
        self.jobs[name] = "Completed"
        self._workspace.keep()

    def _in_processes(self, name: str, task: dict[str, Any], environment: dict[str, str]) -> list[str] | None:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER)], cwd=environment["PYTHONPATH"], env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._processes[name] = process
        output, errors = process.communicate(json.dumps(task).encode())
        self._workspace.printed(name, errors.decode(errors="replace").splitlines())
        return json.loads(output) if process.returncode == 0 else None

    def _rows(self, rows: list[str]) -> str:
        if not self.quoted:
            return "".join(row + "\n" for row in rows)
        text = io.StringIO()
        csv.writer(text).writerows([row] for row in rows)
        return text.getvalue()


def _here(task: dict[str, Any], environment: dict[str, str]) -> list[str] | None:
    """The same in this process, one mini-batch after the other."""
    spec = importlib.util.spec_from_file_location(f"entry_{uuid.uuid4().hex}", task["script"])
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    variables = {name: value for name, value in environment.items() if name.startswith(("AL_", "AZUREML_"))}
    try:
        spec.loader.exec_module(script)
        os.environ.update(variables)
        script.init()
    except Exception:  # noqa: BLE001 - whatever a script raises is the job's failure
        traceback.print_exc()
        return None
    finally:
        for variable in variables:
            os.environ.pop(variable, None)
    files, size = task["files"], task["mini_batch"]
    batches = [files[at : at + size] for at in range(0, len(files), size)]
    return [row for batch in batches for row in run_mini_batch(script, batch, task["tries"])]


def _problem_of(asked: dict[str, Any]) -> str:
    """What a deployment of a model refuses, beyond the interface: it takes one input, and calls its output `score`."""
    inputs, outputs = asked.get("inputData", {}), asked.get("outputData", {})
    if len(inputs) != 1 or set(outputs) != {"score"}:
        return f"expected one input and the output 'score': {asked}"
    return ""
