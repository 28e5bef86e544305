"""`al launch`, and GitHub's workflows that call it: a clock of somebody else's starts the loop's own jobs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from digits_project import digits_toml, oracle

from al_cli import launch
from al_cli.dagster_process import free_port, listener_of_ui, start_dagster, write_dagster_home
from al_cli.digits import store_digits
from al_cli.oracle import answer_waiting
from al_cli.processes import Children
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_serving.guard import new_token

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "deploy/github").glob("*.yml"))
OUR_OWN = sorted((ROOT / ".github/workflows").glob("*.yml"))
Al = Callable[..., CompletedProcess[str]]


def steps_of(workflow: Path) -> list[dict[str, Any]]:
    (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
    steps: list[dict[str, Any]] = job["steps"]
    return steps


@pytest.mark.parametrize("path", [*WORKFLOWS, *OUR_OWN], ids=lambda path: path.stem)
def test_a_workflow_is_one_that_githubs_schema_takes(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("check_jsonschema")
    vendored = resources.files("check_jsonschema.builtin_schemas.vendor").joinpath("github-workflows.json")
    validator = jsonschema.Draft7Validator(json.loads(vendored.read_text()))
    workflow = {{True: "on"}.get(key, key): value for key, value in yaml.safe_load(path.read_text()).items()}
    assert [error.message for error in validator.iter_errors(workflow)] == []
    assert list(validator.iter_errors(workflow | {"jobs": {"a": {"runs-on": "x", "step": []}}}))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_logs_in_without_a_secret(path: Path) -> None:
    text = path.read_text()
    assert "secrets." not in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read", "id-token": "write"}
    (login,) = [step for step in steps_of(path) if step.get("uses", "").startswith("azure/login@")]
    assert login["with"].keys() == {"client-id", "tenant-id", "allow-no-subscriptions"}


def test_workflows_call_what_there_is_and_selection_comes_by_the_clock() -> None:
    called = {}
    for path in WORKFLOWS:
        runs = "\n".join(step["run"] for step in steps_of(path) if "run" in step)
        (arguments,) = re.findall(r"python -m al_cli\.launch (.+)", runs)
        with launch.launch.make_context("launch", [*arguments.split(), "--url", "http://there"]) as context:
            assert context.params["minutes"] < 60, "as long as a token holds"
            called[path.stem] = context.params["what"]
        assert launch.TOKEN in runs
        assert launch.URL in yaml.safe_load(path.read_text())["env"]
    assert called == {"selection": "selection", "training-deployment": "training"}
    assert "schedule" in yaml.safe_load((ROOT / "deploy/github/selection.yml").read_text())[True]


def test_it_needs_no_more_than_a_workflow_installs() -> None:
    """Everything else is refused, as where it is not there."""
    installs = {name for path in WORKFLOWS for name in re.findall(r"constraints\.txt (.+)", path.read_text())}
    assert installs == {"click httpx"}
    program = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(name)
ALLOWED = {"al_cli", "al_core", "click", "httpx", "httpcore", "h11", "anyio", "certifi", "idna", "sniffio",
           "typing_extensions", "exceptiongroup"}
sys.meta_path.insert(0, Refused())
import al_cli.launch
al_cli.launch.launch(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "selection|training" in done.stdout


def test_what_is_not_there_is_named(al: Al) -> None:
    done = al("launch", "selection", "--url", f"http://127.0.0.1:{free_port(0)}")
    assert done.returncode == 1
    assert "cannot be asked" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_is_selected_trained_and_deployed_and_nothing_new_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, al: Al
) -> None:
    config = tmp_path / "al.toml"
    config.write_text(digits_toml(labeling=oracle(tmp_path), selection={"initial_budget": 60}, training={"epochs": 2}))
    monkeypatch.setenv("AL_CONFIG", str(config))
    platform = Platform(load_settings())
    store_digits(platform)
    write_dagster_home(tmp_path, platform.settings)
    with Children() as children, listener_of_ui(0) as listener:
        dagster = start_dagster(children, tmp_path, config, listener)
        token = str(dagster._client.headers["authorization"]).removeprefix("Bearer ")

        def launched(what: str, *options: str, token: str = token) -> CompletedProcess[str]:
            with monkeypatch.context() as environment:
                environment.setenv(launch.TOKEN, token)
                return al("launch", what, "--url", dagster.url, *options)

        refused = launched("selection", token=new_token())
        assert refused.returncode == 1
        assert "lets nobody in by this token (HTTP 401)" in refused.stderr
        early = launched("training")
        assert (early.returncode, early.stdout.strip()) == (0, "no new exports"), early.stderr
        selection = launched("selection")
        assert selection.returncode == 0, selection.stderr
        assert "success" in selection.stdout
        (export,) = answer_waiting(platform)
        training = launched("training", "--json")
        assert training.returncode == 0, training.stderr
        assert "training_deployment" in training.stderr
        told = json.loads(training.stdout)
        assert [run["status"] for run in told["runs"]] == ["SUCCESS"]
        assert (told["reason"], told["failed"]) == ("", [])
        assert platform.endpoint.state().serving_version == 1
        assert platform.ledgers.read("exports")["path"].to_list() == [export]
        again = launched("training")
        assert (again.returncode, again.stdout.strip()) == (0, "no new exports")
        dagster.close()
    assert os.environ.get(launch.TOKEN) is None
