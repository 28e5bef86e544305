"""The containers of `deploy/azure/modules/host.bicep`: their start script, and the Dagster home it writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from al_cli.dagster_api import LOCATION
from al_cli.dagster_process import DAGSTER_YAML

pytest.importorskip("dagster_postgres", reason="Dagster on PostgreSQL: pip install dagster-postgres")

AZURE = Path(__file__).parents[2] / "deploy/azure"
START = AZURE / "start.sh"


def start(part: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(home),
        "AL_CONFIG": str(home / "al.toml"),
        "AL_PROFILE": "azure",
        "AL_AZURE__KUSTO_URI": "https://adx.westeurope.kusto.windows.net",
        "AL_AZURE__BLOB_ACCOUNT_URL": "https://st.blob.core.windows.net",
    }
    return subprocess.run(
        ["bash", str(START), part], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_home_is_the_platforms_own_with_its_storage_in_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # a container that is started anew on the same disk
        done = start("home", tmp_path)
        assert done.returncode == 0, done.stderr
    text = (tmp_path / "dagster.yaml").read_text()
    assert text.startswith(DAGSTER_YAML)
    assert text.count("\nstorage:") == 1
    assert "compute_logs" in text
    monkeypatch.setenv("DATABASE_HOST", "psql.postgres.database.azure.com")
    monkeypatch.setenv("DATABASE_PASSWORD", "not a real one")
    config, _ = dagster_instance_config(str(tmp_path))  # Dagster's own check of what it may say
    assert set(config["storage"]) == {"postgres"}
    workspace = yaml.safe_load((tmp_path / "workspace.yaml").read_text())
    (location,) = workspace["load_from"]
    assert location["grpc_server"]["location_name"] == LOCATION


def test_a_part_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = start("webb", tmp_path)
    assert done.returncode == 2
    assert "webb is not a part of the host; expected loop, web, labeling" in done.stderr


def test_containers_ask_for_parts_that_exist_on_the_ports_that_the_script_opens() -> None:
    host, script = (AZURE / "modules/host.bicep").read_text(), START.read_text()
    for part in re.findall(r"args: \['(\w+)'\]", host):
        assert re.search(rf"^ +{part}\)", script, re.MULTILINE), part
    assert {"targetPort: 3000", "targetPort: 4000", "targetPort: 8809"} == set(re.findall(r"targetPort: \d+", host))
    assert "--port 3000" in script
    assert "--port 4000" in script
    assert "name: 'AL_LABELING_PAGE__PORT', value: '8809'" in host
    asked = set(
        re.findall(r"env: (\w+)", (AZURE / "storage.yaml").read_text() + (AZURE / "workspace.yaml").read_text())
    )
    assert all(f"name: '{name}'" in host for name in asked)
