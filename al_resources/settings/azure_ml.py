"""Where the Azure Machine Learning workspace is and what it may use. Settings only: nothing of Azure is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}$"
NAME_OR_NOTHING = f"^$|{NAME}"
COMPUTE = r"^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$"
ENVIRONMENT_OR_NOTHING = r"^$|^[a-zA-Z0-9][\w.-]*:[\w.-]+$"


class AzureMLSettings(BaseModel):
    """The workspace, its computes, and the addresses of the cloud it lives in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subscription: str = Field("", description="id of the subscription")
    resource_group: str = Field("", description="where the workspace is")
    workspace: str = Field("", description="its name; empty: models and endpoint stay with this platform")

    resource_manager: str = Field("https://management.azure.com/", description="of another cloud, or of a test server")
    storage_suffix: str = Field("core.windows.net", description="of the cloud's storage accounts")
    audience: str = Field("https://ml.azure.com", description="what tokens for Azure ML itself are asked for, by cloud")
    ca_bundle: str = Field("", description="file with the certificate authorities to trust; empty: the usual ones")

    datastore: str = Field(
        "workspaceblobstore",
        pattern=NAME,
        description="the datastore whose container is this platform's blob store",
    )
    training: Literal["job", "here"] = Field("job", description="where training.trainer runs: on `compute`, or here")
    compute: str = Field("gpu-cluster", pattern=COMPUTE, description="compute cluster that trains")
    batch_compute: str = Field("cpu-cluster", pattern=COMPUTE, description="compute cluster that scores in batch")
    image: str = Field(
        "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest",
        description="base image of jobs and deployments",
    )
    environment: str = Field(
        "",
        pattern=ENVIRONMENT_OR_NOTHING,
        description="`name:version` of a registered environment; empty: one is built and kept",
    )
    experiment: str = Field("active-learning", pattern=NAME, description="under which jobs are listed")
    job_minutes: float = Field(24 * 60, gt=0, description="a training that takes longer is cancelled")
    stuck_minutes: float = Field(60, gt=0, description="a running job that is silent for so long is cancelled")
    poll_seconds: float = Field(15, gt=0, description="how often a job is looked at")

    instance_type: str = Field("Standard_D4as_v4", description="machine of an online deployment")
    instance_count: int = Field(1, ge=1, description="machines of an online deployment")
    ready_seconds: float = Field(
        300,
        ge=10,
        description="so long an online deployment may take to load its model, or may hang, until it has failed",
    )
    auth: Literal["key", "aad_token"] = Field("aad_token", description="how the endpoint knows its callers")
    environment_variables: dict[str, str] = Field(
        {}, description="of the scoring containers, for example AL_PROFILE and what it needs; never a secret"
    )

    batch_endpoint: str = Field("", description="scores whole folders; empty: the step that asks for it does it itself")
    batch_environment: str = Field(
        "",
        pattern=ENVIRONMENT_OR_NOTHING,
        description="`name:version` for batches alone; empty: as for everything else",
    )
    batch_instances: int = Field(1, ge=1, description="machines that score a batch, at most")
    batch_parallel: int = Field(1, ge=1, description="processes on each of them")
    batch_minutes: float = Field(24 * 60, gt=0, description="a batch that takes longer is cancelled")
    old_deployment_hours: float = Field(
        24, ge=0, description="so long the version that served before stays up without traffic, ready to go back to"
    )
