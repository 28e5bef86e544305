"""The labeling page as a container: its Dockerfile's steps, done here, and two replicas on Azure's emulated stores."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from container_images import INSTALL_SECONDS, built, lines, running, set_by, wait_until
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running_page import CLASSES, Client, picture_of, stage

from al_cli.dagster_process import free_port
from al_labeling.guard import Guard
from al_resources.labeling.answers import AnswerLog
from al_resources.labeling.merge import merge_export
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings
from al_resources.settings.labeling_page import LabelingPageSettings

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "deploy/docker/labeling"
DOCKERFILE = FOLDER / "Dockerfile"
HEAVY = ("torch", "torchvision", "dagster", "matplotlib", "scipy", "sklearn")
LARGEST = 800 << 20  # bytes; with torch and Dagster it is several times as much
PICTURES = 60


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_it_installs_nothing_that_the_platform_does_not_name_and_pin() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["azure"]]
    wanted = names(lines(FOLDER / "requirements.txt"))
    assert wanted <= names(named)
    assert wanted <= names(lines(CHECKOUT / "constraints.txt"))
    assert not wanted & set(HEAVY)


def test_what_the_image_sets_are_settings_and_its_health_is_asked_where_it_listens() -> None:
    told = set_by("labeling")
    page = {name.removeprefix("AL_LABELING_PAGE__").lower() for name in told if name.startswith("AL_LABELING_PAGE__")}
    assert page <= set(LabelingPageSettings.model_fields)
    assert f":{told['AL_LABELING_PAGE__PORT']}/health/live" in DOCKERFILE.read_text()
    assert f"EXPOSE {told['AL_LABELING_PAGE__PORT']}" in lines(DOCKERFILE)
    assert "USER labeling" in lines(DOCKERFILE)  # root has no business in it


# ---------------------------------------------------------------------- its steps, and replicas of it
@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `/labeling` holds in the image: the steps of its build, done in a folder of one's own."""
    return built("labeling", tmp_path_factory.mktemp("container"))


@contextlib.contextmanager
def replica(installed: Path, home: Path, port: int, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The image's command; its home is below `home`."""
    settings = {"AL_HOME": str(home / "home"), "AL_LABELING_PAGE__PORT": str(port)} | settings

    def is_up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(httpx.get(f"http://127.0.0.1:{port}/health/live").json() == {"status": "live"})
        return False

    with running("labeling", installed, home, ["al", "label"], settings) as process:
        wait_until(process, home, is_up)
        yield process


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(INSTALL_SECONDS + 300)
def test_two_replicas_serve_one_round_on_azures_stores_and_one_may_die(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("azure.storage.blob")
    pytest.importorskip("duckdb_kql")
    from al_resources.azure.data_explorer import KustoDatabase, setup_commands
    from al_resources.settings.azure_data import AzureDataSettings
    from emulators.azurite import shared_azurite
    from emulators.kusto import KustoEmulator

    for package in HEAVY:
        assert not list((installed / "lib").glob(f"python*/site-packages/{package}")), f"{package} is in the image"
    size = sum(file.stat().st_size for file in installed.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"what the image adds to Python: {size / (1 << 20):.0f} MiB")
    assert size < LARGEST

    azurite = shared_azurite()
    with KustoEmulator() as database:
        data = AzureDataSettings(
            credential="default", kusto_uri=database.url, kusto_ingest_uri=database.url, kusto_ingestion="streaming",
            blob_account_url=azurite.blob_url, container=azurite.container(),
        )  # fmt: skip
        for command in setup_commands():
            KustoDatabase(data).command(command)
        secret = "the same for both replicas"
        page = LabelingPageSettings(secret=secret, public_url="http://127.0.0.1")  # type: ignore[arg-type]
        labeling = LabelingSettings(project="page", classes=CLASSES)
        platform = Platform(Settings(profile="azure", home=tmp_path / "here", azure=data, labeling=labeling))
        ids = stage(platform, 0, [picture_of(number, 16) for number in range(PICTURES)])
        told = {f"AL_AZURE__{name.upper()}": str(value) for name, value in data.model_dump(exclude_unset=True).items()}
        told |= {"AL_PROFILE": "azure", "AL_LABELING__CLASSES": '["cat", "dog", "fox"]', "AL_LABELING__PROJECT": "page"}
        told |= {"AL_LABELING_PAGE__SECRET": secret, "AL_LABELING_PAGE__PUBLIC_URL": page.public_url}
        ports = free_port(0), free_port(0)
        guard = Guard(page, secret.encode())
        with (
            replica(installed, tmp_path / "first", ports[0], told) as first,
            replica(installed, tmp_path / "second", ports[1], told),
        ):
            seen = label_together(guard, ports, first)
            assert sorted(seen) == sorted(set(seen)), "a picture was given to two people"
            address = f"http://127.0.0.1:{ports[1]}"
            released = Client(address, guard.link(address, "lead")).post("release").json()["released"]
        assert len(seen) >= PICTURES - 20  # what the dead replica's people held is leased for ten minutes
        log = AnswerLog(platform.blobs, 0)
        assert len(log.refresh()) == len(seen) == released["labels"]
        assert merge_export(platform.inbox, released["path"]).new_labels == len(seen)
        assert set(platform.ledgers.read("labels")["image_id"]) <= set(ids)


def label_together(guard: Guard, ports: tuple[int, int], dying: subprocess.Popen[bytes]) -> list[str]:
    """Two people at each replica until nothing is left for them; the first one dies in the middle. What was kept."""
    seen: list[str] = []
    lock = threading.Lock()

    def work(name: str, port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        client = Client(address, guard.link(address, name))
        with contextlib.suppress(httpx.TransportError):
            while shown := client.next(3):
                for one in shown:
                    kept = client.answer(one, "fox")["kept"]
                    with lock:
                        seen.extend([one] if kept else [])
                        if len(seen) > PICTURES // 2:
                            dying.kill()

    people = [("ada", ports[0]), ("bob", ports[1]), ("cid", ports[0]), ("dee", ports[1])]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, *one) for one in people]:
            done.result()
    return seen
