"""The door to an Azure Machine Learning workspace, and what all adapters behind it share."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from al_core.errors import ActiveLearningError, InvalidInput
from al_resources.azure.identity import azure_credential
from al_resources.settings.azure_data import AUTHORITY, AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Environment
    from azure.core import PipelineClient
    from azure.core.exceptions import HttpResponseError

T = TypeVar("T")
Purpose = Literal["training", "scoring", "batch"]

CODE = ("al_core", "al_resources", "al_serving")  # what runs remotely; Dagster stays at home
PYTHON = "3.11"
# what that code imports; installed here, so that the remote side gets the very same versions
SCORING_PACKAGES = (
    "azure-identity", "azure-kusto-data", "azure-kusto-ingest", "azure-storage-blob", "deltalake", "filelock",
    "fsspec", "httpx", "numpy", "pillow", "polars", "prometheus-client", "pyarrow", "pydantic", "pydantic-settings",
    "python-multipart", "safetensors", "starlette", "tenacity", "torch", "torchvision", "uvicorn",
)  # fmt: skip
TRAINING_PACKAGES = (
    "dagster-pipes", "numpy", "pillow", "polars", "pyarrow", "pydantic", "pydantic-settings", "safetensors",
    "scipy", "torch", "torchvision",
)  # fmt: skip
# and what builds a network of that family of encoders, beside it: the prefix of the architecture -> packages
ENCODER_PACKAGES = {
    "timm": ("timm", "huggingface-hub"),
    "hf": ("transformers", "huggingface-hub"),
    "open_clip": ("open_clip_torch", "huggingface-hub"),
}
SCORING_SCRIPT = "al_serving/azure_ml_script.py"
INFERENCE_SERVER = "azureml-inference-server-http==1.5.1"
# What Azure ML needs beside the script, and those packages whose version it has a say in. For batches its pages still
# name azureml-core and azureml-dataset-runtime: both are of the SDK v1, which ended on 2026-06-30, and the second
# refuses the azure-identity of Data Explorer's client. Where a job asks for them, `batch_environment` names an image.
RUNTIMES: dict[Purpose, tuple[str, ...]] = {
    "training": (),
    "scoring": (INFERENCE_SERVER,),
    "batch": (),
}
LEFT_TO_RUNTIME: dict[Purpose, dict[str, str]] = {
    "training": {},
    "scoring": {"pydantic": "pydantic>=2.10"},
    "batch": {},
}
ASSET_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}", "1 to 255 letters, digits, - and _, the first a letter or digit"
ENDPOINT_NAME = r"[a-z][a-z0-9-]{1,30}[a-z0-9]", "3 to 32 lower-case letters, digits and -; first a letter, last no -"
NAME_RULES = {
    "model": ASSET_NAME,
    "data asset": ASSET_NAME,
    "job": ASSET_NAME,
    "endpoint": ENDPOINT_NAME,
    "deployment": ENDPOINT_NAME,
}
DATA_SCIENTIST = "AzureML Data Scientist"  # of the roles Azure brings, the one most calls need


class WorkspaceError(ActiveLearningError):
    """Azure ML refused or failed; the message says what was asked, what it answered, and what helps."""


def workspace_client(settings: AzureMLSettings, identity: AzureDataSettings) -> MLClient:
    """The SDK's client of the workspace, under the identity that everything in Azure is asked with.

    Raises:
        WorkspaceError: the settings do not name a workspace.
    """
    from azure.ai.ml import MLClient

    missing = [name for name in ("subscription", "resource_group", "workspace") if not getattr(settings, name)]
    if missing:
        raise WorkspaceError(f"azure_ml.{', azure_ml.'.join(missing)}: not set, so there is no workspace to go to")
    trust(settings)
    return MLClient(
        azure_credential(identity),
        settings.subscription,
        settings.resource_group,
        settings.workspace,
        enable_telemetry=False,
        show_progress=False,
        **_cloud(settings, identity.authority),
    )


class Arm:
    """Plain REST below the workspace, with the SDK's logins and retries, for what the SDK has no method for."""

    def __init__(self, settings: AzureMLSettings, identity: AzureDataSettings) -> None:
        from azure.core import PipelineClient
        from azure.core.configuration import Configuration
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy

        self._manager = settings.resource_manager.rstrip("/")
        self._workspace = workspace_path(settings)
        trust(settings)
        self._credential = azure_credential(identity)
        policy = BearerTokenCredentialPolicy(self._credential, self._manager + "/.default")
        configuration: Configuration[Any, Any] = Configuration()
        configuration.retry_policy = RetryPolicy()  # by itself a client has none
        self._client: PipelineClient[Any, Any] = PipelineClient(
            self._manager, config=configuration, per_retry_policies=[policy]
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        params: dict[str, str],
        body: dict[str, Any] | None = None,
        role: str = DATA_SCIENTIST,
        longest_seconds: float = 600.0,
    ) -> dict[str, Any]:
        """The JSON answer to one request; a long-running operation is waited for.

        Raises:
            WorkspaceError: it is refused, fails, or takes longer than `longest_seconds`; begins with `what`.
        """
        deadline = time.monotonic() + longest_seconds
        answer = self._send(method, self._address(path), what, role, params=params, json=body)
        while _in_progress(answer):
            if time.monotonic() > deadline:
                raise WorkspaceError(f"{what}: not done after {longest_seconds:.0f} s")
            time.sleep(float(answer.headers.get("retry-after", "1")))
            answer = self._send("GET", answer.headers["location"], what, role)
        return answer.json() if answer.content else {}

    def token(self, audience: str) -> str:
        """A token of this identity for another service than the resource manager."""
        return self._credential.get_token(audience.rstrip("/") + "/.default").token

    def _address(self, path: str) -> str:
        return f"{self._manager}{self._workspace}/{path}"

    def _send(self, method: str, address: str, what: str, role: str, **more: Any) -> Any:
        from azure.core.exceptions import AzureError, HttpResponseError
        from azure.core.rest import HttpRequest

        try:
            answer = self._client.send_request(HttpRequest(method, address, **more))
            answer.raise_for_status()
        except HttpResponseError as error:
            raise explained(error, what, role) from error
        except AzureError as error:
            raise WorkspaceError(f"{what}: {error}") from error
        return answer


def status_text(status: Any) -> str:
    """A status as Azure words it: the SDK gives an enumeration where it knows it, else text."""
    return str(getattr(status, "value", status))


def _in_progress(answer: Any) -> bool:
    return answer.status_code == 202 and "location" in answer.headers


def workspace_path(settings: AzureMLSettings) -> str:
    """The workspace's path at the resource manager."""
    return (
        f"/subscriptions/{settings.subscription}/resourceGroups/{settings.resource_group}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{settings.workspace}"
    )


def datastore_uri(settings: AzureMLSettings, path: str) -> str:
    """A path of the platform's blob store as Azure ML addresses it."""
    return f"azureml://datastores/{settings.datastore}/paths/{path}"


def checked_name(kind: str, name: str) -> str:
    """`name`, if Azure ML takes it for that kind of thing. Raises `ValueError` with the rule."""
    pattern, words = NAME_RULES[kind]
    if not re.fullmatch(pattern, name):
        raise InvalidInput(f"{name!r} is no name of a {kind} in Azure ML: expected {words}")
    return name


def asked(what: str, action: Callable[[], T], role: str = DATA_SCIENTIST) -> T:
    """The result of `action`; whatever Azure answers instead becomes a `WorkspaceError` with a sentence."""
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        return action()
    except HttpResponseError as error:
        raise explained(error, what, role) from error
    except AzureError as error:  # no connection, no token, or refused by the SDK itself
        raise WorkspaceError(f"{what}: {error}") from error


def lookup(what: str, get: Callable[[], T]) -> T | None:
    """What `get` asks for, None where it is not there; otherwise as `asked`."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return asked(what, get)
    except WorkspaceError as error:
        if isinstance(error.__cause__, ResourceNotFoundError):
            return None
        raise


def explained(error: HttpResponseError, what: str, role: str = DATA_SCIENTIST) -> WorkspaceError:
    """An error of the service as a sentence: what was tried, the answer, and the role that is missing, if one is."""
    answer = (error.message or str(error)).strip().splitlines()[0]
    if error.status_code in (401, 403):
        return WorkspaceError(f"{what}: not permitted ({answer}); this identity needs the role {role!r}")
    return WorkspaceError(f"{what}: {error.status_code} {answer}")


def trust(settings: AzureMLSettings) -> None:
    """Make every client in this process trust `ca_bundle`: they all read the same variables."""
    if settings.ca_bundle:
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"] = settings.ca_bundle


def code_snapshot(folder: Path) -> Path:
    """The packages that run remotely, copied into `folder`/code: the files that run here, however installed."""
    folder = folder / "code"
    here = Path(__file__).resolve().parents[2]
    for package in CODE:
        shutil.copytree(here / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return folder


def environment_of(settings: AzureMLSettings, purpose: Purpose, architecture: str = "") -> str | Environment:
    """The environment of jobs and deployments: pinned to the versions installed here, where Azure ML lets us.

    With the packages that build a network of that `architecture`, as `training.architecture` names it.

    Raises:
        WorkspaceError: one of these is not installed here, so that nobody knows which version is wanted.
    """
    from azure.ai.ml.entities import Environment

    registered = (settings.batch_environment if purpose == "batch" else "") or settings.environment
    if registered:
        return f"azureml:{registered}"
    names: tuple[str, ...] = TRAINING_PACKAGES if purpose == "training" else SCORING_PACKAGES
    names += ENCODER_PACKAGES.get(architecture.partition(":")[0], ())
    left = LEFT_TO_RUNTIME[purpose]
    pins = [left.get(name) or f"{name}=={_published(name)}" for name in names]
    pins += RUNTIMES[purpose]
    conda: dict[str, Any] = {
        "name": f"al-{purpose}",
        "channels": ["conda-forge"],
        "dependencies": [f"python={PYTHON}", "pip", {"pip": pins}],
    }
    version = hashlib.sha256(repr((settings.image, pins)).encode()).hexdigest()[:12]
    return Environment(name=f"al-{purpose}", version=version, image=settings.image, conda_file=conda)


def _published(package: str) -> str:
    """The version installed here without the mark of its build (`+cpu`): elsewhere another build may be right."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError as error:
        raise WorkspaceError(
            f"{package} is not installed here, so that nobody knows which version is to run in Azure ML; install the "
            "extra of the encoder (`al encoders` names it), or set azure_ml.environment to an image that has it"
        ) from error


def _cloud(settings: AzureMLSettings, authority: str) -> dict[str, Any]:
    """What MLClient has to know of a cloud that is not the public one."""
    defaults = AzureMLSettings.model_fields
    names = ("resource_manager", "storage_suffix", "audience")
    if authority == AUTHORITY and all(getattr(settings, name) == defaults[name].default for name in names):
        return {}
    manager = settings.resource_manager.rstrip("/") + "/"
    addresses = {
        "azure_portal": manager,
        "resource_manager": manager,
        "active_directory": authority,
        "aml_resource_id": settings.audience,
        "storage_endpoint": settings.storage_suffix,
        "registry_discovery_endpoint": manager,
    }
    # The SDK keeps the first addresses that a process gives a name, so other addresses have another name.
    name = hashlib.sha256(repr(addresses).encode()).hexdigest()[:12]
    return {"cloud": f"active-learning-{name}", "cloud_metadata": addresses}
