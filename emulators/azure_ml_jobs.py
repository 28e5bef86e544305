"""Jobs of the emulated workspace: the submitted command runs for real, in a process of its own.

Inputs and outputs are what they are in Azure: registered assets and datastore paths become folders, an output of
mode `Upload` is only there once the command has ended well, a mounted one while it runs. The environment is not
built: commands run with this interpreter, on the uploaded code alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from emulators.azure_ml import ROOT, ArmError, AzureML

OVER = ("Completed", "Failed", "Canceled")


class Jobs:
    """What was submitted, as processes."""

    def __init__(self, workspace: AzureML) -> None:
        self._workspace = workspace
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, str] = {}  # of every command, as an image may set it

    def submit(self, path: str, name: str, resource: dict[str, Any], created: bool) -> Response:
        if not created:
            raise ArmError(409, "UserError", f"job {name} exists and cannot be changed")
        properties = resource["properties"]
        for value in properties.get("inputs", {}).values():
            self._place(value)  # an asset that is not there is refused now
        studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{name}"}
        properties.update(status="Starting", services={"Studio": studio})
        self._workspace.resources[path.lower()] = resource
        threading.Thread(target=self._run_to_its_end, args=(name, properties), daemon=True).start()
        return JSONResponse(resource, 201)

    def cancel(self, name: str, resource: dict[str, Any]) -> Response:
        if resource["properties"]["status"] in OVER:
            raise ArmError(400, "UserError", f"job {name} is over")
        resource["properties"]["status"] = "CancelRequested"
        self._end(name, signal.SIGTERM)
        return self._workspace._begin(None, 202)

    def kill(self, name: str) -> None:
        """As if the machine had run out of memory."""
        self._end(name, signal.SIGKILL)

    def kill_all(self) -> None:
        for name in list(self._processes):
            self.kill(name)
        self._processes.clear()

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.get(name)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, how)

    def _run_to_its_end(self, name: str, properties: dict[str, Any]) -> None:
        """A job whose inputs are gone when its machine is ready fails, and says so in its log."""
        try:
            (self._run if properties["jobType"] == "Command" else self._run_automl)(name, properties)
        except (ArmError, OSError) as error:
            self._workspace.printed(name, [f"{type(error).__name__}: {error}"])
            properties["status"] = "Failed"
        self._workspace.keep()

    def _run(self, name: str, properties: dict[str, Any]) -> None:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._workspace._scratch))
        code = self._resource(properties["codeId"])
        shutil.copytree(self._workspace._path(code["properties"]["codeUri"]), folder / "code")
        command = properties["command"]
        for key, value in properties.get("inputs", {}).items():
            command = command.replace(f"${{{{inputs.{key}}}}}", self._place(value))
        uploads: dict[Path, Path] = {}
        mounted: list[Path] = []
        for key, value in properties.get("outputs", {}).items():
            place = self._workspace._path(value["uri"])
            if value["mode"] == "Upload":
                uploads[folder / key] = place
                place = folder / key
            else:
                mounted.append(place)
            place.mkdir(parents=True, exist_ok=True)
            command = command.replace(f"${{{{outputs.{key}}}}}", str(place))
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        environment |= self.environment
        process = subprocess.Popen(
            re.sub(r"^python\b", sys.executable, command),
            shell=True,
            cwd=folder / "code",
            env=environment | properties.get("environmentVariables", {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes[name] = process
        if properties["status"] == "CancelRequested":  # while the machine was got ready
            self._end(name, signal.SIGTERM)
        else:
            properties["status"] = "Running"
        mount = self._workspace.mount
        with mount.mounted(mounted) if mount else contextlib.nullcontext():
            output, _ = process.communicate()
        self._workspace.printed(name, output.decode(errors="replace").splitlines())
        for local, place in uploads.items():
            shutil.copytree(local, place, dirs_exist_ok=True)
            if mount:
                mount.send(place)
        if properties["status"] == "CancelRequested":
            properties["status"] = "Canceled"
        else:
            properties["status"] = "Completed" if process.returncode == 0 else "Failed"

    def _run_automl(self, name: str, properties: dict[str, Any]) -> None:
        """AutoML's part is only its shape: it reads the table and leaves a network nobody trained, as AutoML does."""
        import numpy as np
        import torch
        from torchvision import models

        task = properties["taskDetails"]
        table = Path(self._place(task["trainingData"])) / "images.jsonl"
        labels = sorted({json.loads(line)[task["targetColumnName"]] for line in table.read_text().splitlines()})
        best, settings = f"{name}_HD_0", task["modelSettings"]
        before = settings.get("checkpointRunId")
        if before and not (self._artifacts(before) / "model.pt").is_file():
            properties["status"] = "Failed"
            return
        torch.manual_seed(settings.get("randomSeed", 0))
        network = models.get_model(
            settings["modelName"].replace("mobilenetv2", "mobilenet_v2"), num_classes=len(labels)
        )
        numbers = {"score": np.float64(0.5), "metrics": {"accuracy": np.float64(0.5), "recall": np.float32(0.5)}}
        folder = self._artifacts(best)
        folder.mkdir(parents=True)
        specs = {"multilabel": False, "model_settings": {}, "labels": labels}
        state = {"model_name": settings["modelName"], "number_of_classes": len(labels), "specs": specs}
        scheduler = {"lr_scheduler_state": {"last_epoch": 1, "lr_lambdas": [None]}, "epoch": 1}
        beside = {"optimizer_state": {}, **scheduler, **numbers}
        torch.save({**state, "model_state": network.state_dict(), **beside}, folder / "model.pt")
        properties.setdefault("tags", {})["automl_best_child_run_id"] = best
        properties["status"] = "Completed"

    def _artifacts(self, run: str) -> Path:
        return self._workspace.container / "ExperimentRun" / f"dcid.{run}" / "train_artifacts"

    def _place(self, value: dict[str, Any]) -> str:
        """What stands in the command for an input."""
        if "value" in value:
            return str(value["value"])
        uri = value["uri"]
        if "/providers/" in uri:
            properties = self._resource(uri)["properties"]
            uri = properties.get("dataUri") or properties["modelUri"]
        place = self._workspace._path(uri)
        if not place.exists():
            raise ArmError(400, "UserError", f"there is nothing at {uri}")
        return str(place)

    def _resource(self, arm_id: str) -> dict[str, Any]:
        return self._workspace._existing(arm_id.removeprefix("azureml:")[len(ROOT) + 1 :])
