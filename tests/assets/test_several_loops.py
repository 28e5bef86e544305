"""Several loops in one code location and one instance: each has its own names, settings, home and rounds."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox
from PIL import Image

from al_assets.components import Loop
from al_assets.definitions_of_loops import loop_definitions
from al_assets.loop_names import LoopNames
from al_cli.dagster_api import LOCATION
from al_cli.dagster_process import Dagster, listener_of_ui, write_dagster_home
from al_cli.dagster_services import TOKEN_VARIABLE
from al_cli.digits import store_digits
from al_cli.oracle import answer_waiting
from al_cli.processes import Child, Children
from al_core.errors import InvalidInput
from al_resources.platform import Platform
from al_resources.settings import SelectionSettings, Settings, SettingsError, load_settings
from al_serving.guard import new_token
from sensors.run_failures import build_run_failure_sensor

ROOT = Path(__file__).parents[2]
LOOP = "al_assets.components.Loop"
PROJECT = """\
[project]
name = "shop"
version = "0"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop"
"""

LIVE_LOOP = """
[labeling]
project = "oracle"
oracle_labels = "{folder}/.al/oracle/labels.json"
[selection]
initial_budget = 60
[holdout]
share = 0.5
[training]
architecture = "small_cnn"
image_size = 16
channels = 1
epochs = 2
[deployment]
watch_seconds = 0.2
[sensors]
export_interval_seconds = 2
round_interval_seconds = 2
"""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def two_loops(folder: Path) -> tuple[dg.Definitions, dict[str, Platform]]:
    """Cats and dogs, as a code location puts them together."""
    platforms = {}
    for name in ("cats", "dogs"):
        settings = Settings(home=folder / name, selection=SelectionSettings(initial_budget=2))
        platforms[name] = Platform(settings)
    loops = [loop_definitions(platform.settings, platform, (name,)) for name, platform in platforms.items()]
    return dg.Definitions.merge(*loops), platforms


def test_nothing_of_two_loops_has_the_same_name(tmp_path: Path) -> None:
    definitions, _ = two_loops(tmp_path)
    dg.Definitions.validate_loadable(definitions)
    repository, graph = definitions.get_repository_def(), definitions.resolve_asset_graph()
    names = [
        *(key.to_user_string() for key in graph.get_all_asset_keys()),
        *(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        *(sensor.name for sensor in repository.sensor_defs),
        *(schedule.name for schedule in repository.schedule_defs),
        *(definitions.resources or {}),
        *(pool for key in graph.get_all_asset_keys() for pool in graph.get(key).pools or []),
        *(str(graph.get(dg.AssetKey([loop, "deployment"])).partitions_def.name) for loop in ("cats", "dogs")),
    ]
    assert len({*names}) == len([*dict.fromkeys(names)])
    assert all(re.match("(cats|dogs)(/|__)", name) for name in names), names


def pictures(count: int) -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (count, 16, 16), np.uint8)
    buffers = [io.BytesIO() for _ in range(count)]
    for pixels, buffer in zip(noise, buffers, strict=True):
        Image.fromarray(pixels).save(buffer, "PNG")
    return [buffer.getvalue() for buffer in buffers]


def test_each_loop_opens_and_selects_its_own_rounds(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    definitions, platforms = two_loops(tmp_path)
    for picture in pictures(20):
        platforms["cats"].images.put(picture)
    repository = definitions.get_repository_def()

    def tick(loop: str) -> dg.SensorResult:
        with dg.build_sensor_context(
            instance, repository_def=repository, resources={f"{loop}__platform": platforms[loop]}
        ) as context:
            result = repository.get_sensor_def(f"{loop}__next_round_sensor")(context)
        assert isinstance(result, dg.SensorResult)
        return result

    [request] = tick("cats").run_requests or []
    assert "al ingest" in str(tick("dogs").skip_reason.skip_message)  # type: ignore[union-attr]
    assert instance.get_dynamic_partitions("cats__round") == ["0000"]
    assert not instance.get_dynamic_partitions("dogs__round")
    done = definitions.resolve_job_def("cats__selection").execute_in_process(
        partition_key=request.partition_key, instance=instance
    )
    assert done.success
    assert platforms["cats"].ledgers.read("selections").height == 2
    assert platforms["dogs"].ledgers.read("selections").is_empty()
    assert instance.get_latest_materialization_event(dg.AssetKey(["cats", "selected_candidates"])) is not None


def test_a_run_that_failed_is_recorded_by_its_own_loop(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    definitions, platforms = two_loops(tmp_path)
    instance.add_dynamic_partitions("cats__round", ["no round"])
    failed = definitions.resolve_job_def("cats__training_deployment").execute_in_process(
        partition_key="no round", instance=instance, raise_on_error=False
    )
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failures",
        dagster_instance=instance,
        dagster_run=failed.dagster_run,
        dagster_event=failed.get_run_failure_event(),
    ).for_run_failure()
    for prefix, platform in platforms.items():
        build_run_failure_sensor(LoopNames((prefix,)))(context, **{f"{prefix}__platform": platform})
    [row] = platforms["cats"].ledgers.read("failures").to_dicts()
    assert (row["job"], row["step"]) == ("training_deployment", "labeled_dataset")
    assert platforms["dogs"].ledgers.read("failures").is_empty()


def write_loop(sandbox: Path, name: str, home: str = ".al", key_prefix: str | None = None) -> None:
    folder = sandbox / name
    folder.mkdir(parents=True)
    (folder / "al.toml").write_text(f'home = "{home}"\n[model]\nname = "{name}"\nowners = ["team:{name}"]\n')
    attributes = {"settings": "al.toml", "key_prefix": key_prefix or name}
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": LOOP, "attributes": attributes}))


def test_a_code_location_declares_its_loops_in_yaml() -> None:
    with create_defs_folder_sandbox() as sandbox:
        for name in ("cats", "dogs"):
            write_loop(sandbox.defs_folder_path, name)
        with sandbox.build_all_defs() as definitions:
            specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
            assert len(specs) == 10
            assert specs["dogs/deployment"].owners == ["team:dogs"]
            assert specs["dogs/deployment"].tags["al/model"] == "dogs"
            homes = {
                name: Path(definitions.resources[f"{name}__platform"].settings_file).parent.name
                for name in ("cats", "dogs")
            }
            assert homes == {"cats": "cats", "dogs": "dogs"}


@pytest.mark.parametrize(
    ("loops", "variables", "error", "says"),
    [
        ([("cats", "../one", None), ("dogs", "../one", None)], {}, SettingsError, "is the home of the loop"),
        ([("cats", ".al", "big cats")], {}, InvalidInput, "'big cats' cannot be part of a name"),
        ([("cats", ".al", None)], {"AL_HOME": "/tmp"}, SettingsError, "AL_HOME is set"),
    ],
)
def test_what_would_mix_loops_is_refused(
    loops: list[tuple[str, str, str | None]],
    variables: dict[str, str],
    error: type[Exception],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with create_defs_folder_sandbox() as sandbox:
        for loop in loops:
            write_loop(sandbox.defs_folder_path, *loop)
        with pytest.raises(ComponentTreeException) as raised, sandbox.build_all_defs() as definitions:
            definitions.resolve_all_asset_specs()
    cause = raised.value.__cause__
    assert isinstance(cause, error)
    assert says in str(cause)


@pytest.mark.live
@pytest.mark.slow
def test_dg_finds_scaffolds_and_checks_a_loop(tmp_path: Path) -> None:
    """By the entry point of the package, as an installed one declares it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    package = tmp_path / "installed" / "al_components-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: al-components\nVersion: 0\n")
    [(group, entries)] = declared.items()
    lines = [f"[{group}]", *(f"{name} = {module}" for name, module in entries.items())]
    (package / "entry_points.txt").write_text("\n".join(lines))
    project = tmp_path / "project"
    for folder in ("shop", "shop/defs"):
        (project / folder).mkdir(parents=True)
        (project / folder / "__init__.py").write_text("")
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "shop" / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n"
        "defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    path = os.pathsep.join([str(package.parent), str(project), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "DG_CLI_CONFIG": str(tmp_path / "dg.toml")}

    def dg_says(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "dg"), *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dg_says("scaffold", "defs", LOOP, "cats")
    assert yaml.safe_load((project / "shop/defs/cats/defs.yaml").read_text()) == {
        "type": LOOP,
        "attributes": {"settings": "al.toml", "key_prefix": "cats"},
    }
    assert tomllib.loads((project / "shop/defs/cats/al.toml").read_text())["model"]["name"] == "cats"
    dg_says("check", "yaml")
    dg_says("check", "defs")


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_loops_of_one_live_instance_learn_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One daemon, one code location, two loops from `defs.yaml`: each selects, trains and serves its own."""
    monkeypatch.delenv("AL_CONFIG", raising=False)
    home, project = tmp_path / "instance", tmp_path / "project"
    (project / "shop" / "defs").mkdir(parents=True)
    (project / "shop" / "__init__.py").write_text("")
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "shop" / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n"
        "defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    platforms = {}
    for name in ("cats", "dogs"):
        write_loop(project / "shop" / "defs", name)
        file = project / "shop" / "defs" / name / "al.toml"
        file.write_text(file.read_text() + LIVE_LOOP.format(folder=file.parent.as_posix()))
        platforms[name] = Platform(load_settings(file))
        store_digits(platforms[name])
    write_dagster_home(home)
    (home / "workspace.yaml").write_text(
        f"load_from: [{{python_module: {{module_name: shop.definitions, location_name: {LOCATION}}}}}]\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project), os.environ.get("PYTHONPATH", str(ROOT))]))
    with Children() as children, listener_of_ui(0) as listener:
        dagster = start_services(children, home, listener)
        for name in platforms:
            dagster.start_sensor(f"{name}__next_round_sensor")
            dagster.start_sensor(f"{name}__labeling_export_sensor")
        deadline = time.monotonic() + 900
        while any(platform.endpoint.state().serving_version is None for platform in platforms.values()):
            assert time.monotonic() < deadline, (home / "log" / "dagster.log").read_text()[-3000:]
            children.check()
            for platform in platforms.values():
                answer_waiting(platform)
            time.sleep(1)
        runs = {
            name: dagster.runs(al__round="0", dagster__sensor_name=f"{name}__next_round_sensor") for name in platforms
        }
        dagster.close()
    for name, platform in platforms.items():
        assert {run["jobName"] for run in runs[name]} == {f"{name}__selection"}
        assert platform.registry.manifest(1).name == name
        assert platform.ledgers.read("failures").is_empty()
        assert platform.ledgers.read("deployments")["model_name"].to_list() == [name]


def start_services(children: Children, home: Path, listener: socket.socket) -> Dagster:
    """As `al ui` starts them, on a workspace that is somebody else's; no settings file is in force."""
    token = new_token()
    log = home / "log" / "dagster.log"
    services = ["al_cli.dagster_services", "--workspace", str(home / "workspace.yaml")]
    services += ["--listener", str(listener.fileno()), "--log", str(log)]
    environment = {"DAGSTER_HOME": str(home), TOKEN_VARIABLE: token}
    child = children.start(Child("Dagster", services, log, environment, (listener.fileno(),)))
    dagster = Dagster(f"http://127.0.0.1:{listener.getsockname()[1]}", child.process.pid, token)
    dagster.wait_until_up(children, log, timeout=400)
    return dagster


def test_the_form_says_what_each_field_means() -> None:
    fields = Loop.model().model_json_schema()["properties"]
    assert fields["settings"]["description"]
    assert fields["key_prefix"]["description"]
