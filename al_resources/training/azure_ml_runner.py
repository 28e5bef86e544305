"""Jobs of Azure ML, watched from here to their end.

What Dagster's own client for Azure ML leaves open is closed here: an interruption cancels the job *and* is raised
on, a status call that fails is repeated, a status that nobody knows or that never changes comes to an end, and a
process that is started again goes on with the job it began.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from al_core.errors import ActiveLearningError
from al_resources.azure.workspace import WorkspaceError, checked_name, explained, status_text
from al_resources.settings.azure_ml import AzureMLSettings

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Job
    from azure.core.exceptions import AzureError

COMPLETED = "Completed"
NOT_THERE = "not there (yet)"  # a service of many parts may not know at once what it was told
WAITING = {"NotStarted", "Queued", "Preparing", "Provisioning", "Starting"}  # as long as it takes to get a machine
WORKING = {"Running", "Finalizing"}
OVER_WITHOUT_RESULT = {"Failed", "Canceled", "CancelRequested"}
TRANSIENT = {408, 429, 500, 502, 503, 504}
ATTEMPTS = 20  # jobs of the same training that came to nothing

T = TypeVar("T")
Box = TypeVar("Box", bound="Inbox")


class JobFailed(ActiveLearningError):
    """The job brought no result; the message names it and says why."""


class Inbox(Protocol):
    """What a job tells while it runs."""

    error: str  # why it failed, where it said so

    @property
    def reported(self) -> bool:
        """Whether it said what came of it."""

    def listen(self) -> bool:
        """Take in what is new; whether there was anything."""


class JobRunner:
    """Submits a job, or finds the one submitted before, and follows it to its end."""

    def __init__(
        self, client: MLClient, settings: AzureMLSettings, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._settings = settings
        self._sleep = sleep

    def run(
        self,
        name: str,
        *,
        job: Callable[[str], Job],
        inbox: Callable[[str], Box],
        report: Callable[[str], None],
    ) -> tuple[str, Box]:
        """Follow the first of the jobs `name`-1, `name`-2 ... that has not come to nothing, to its end.

        Returns:
            Its full name, and its inbox with all it told.

        Args:
            name: The same for the same work.
            job: Makes the job of that full name, where there is none yet.
            inbox: Of the job of that full name.
            report: Takes a line for people.

        Raises:
            JobFailed: it failed, was cancelled, fell silent, took too long, or completed without a report.
            WorkspaceError: Azure refuses.
        """
        full, status, told = self._attempt(name, inbox)
        try:
            if status is None:
                self._submit(job(full))
                report(f"job {full} submitted")
            else:
                report(f"job {full} was begun before and is {status}: going on with it")
            self._follow(full, told, report)
        except BaseException:
            # interrupted, or given up: nobody waits for it any more, and it costs money
            self._cancel(full, report)
            raise
        return full, told

    def tags(self, name: str) -> dict[str, str]:
        """What a job is tagged with. Raises `WorkspaceError`."""
        return self._patiently(name, lambda: self._client.jobs.get(name).tags or {})

    def _attempt(self, name: str, inbox: Callable[[str], Box]) -> tuple[str, str | None, Box]:
        """The job to go on with, its status, None where it has to be submitted, and its inbox."""
        for number in range(1, ATTEMPTS + 1):
            full = checked_name("job", f"{name}-{number}")
            status = self._patiently(full, partial(self._status, full))
            if status in OVER_WITHOUT_RESULT:
                continue
            told = inbox(full)
            if status == COMPLETED:
                self._patiently(full, told.listen)
                if not told.reported:
                    continue
            return full, status, told
        raise JobFailed(f"{ATTEMPTS} jobs of this training came to nothing; see {name}-* in the workspace")

    def _submit(self, job: Job) -> None:
        from azure.core.exceptions import AzureError, HttpResponseError

        what = f"submitting job {job.name}"
        try:
            self._client.jobs.create_or_update(job)
        except HttpResponseError as error:
            if error.status_code != 409:  # 409: somebody submitted the same training just now, or we did, unheard
                raise explained(error, what) from error
        except AzureError as error:
            raise WorkspaceError(f"{what}: {error}") from error

    def _follow(self, name: str, inbox: Inbox, report: Callable[[str], None]) -> None:
        begun = heard = time.monotonic()
        before: str | None = None
        while True:
            status = self._patiently(name, partial(self._status, name)) or NOT_THERE
            news = self._patiently(name, inbox.listen)  # after the status: a job that is over says no more
            if status != before:
                report(f"job {name}: {status}")
            if status == COMPLETED and inbox.reported:
                return
            if status == COMPLETED:
                raise JobFailed(f"job {name} is Completed, but never reported what came of it{self._where(name)}")
            if status in OVER_WITHOUT_RESULT:
                reason = f": {inbox.error}" if inbox.error else self._where(name)
                raise JobFailed(f"job {name} is {status} in the workspace{reason}")
            now = time.monotonic()
            if status != before or status in WAITING or (news and status in WORKING):
                heard = now
            before = status
            if now - begun > 60 * self._settings.job_minutes:
                raise JobFailed(f"job {name} takes longer than azure_ml.job_minutes ({self._settings.job_minutes:g})")
            if now - heard > 60 * self._settings.stuck_minutes:
                raise JobFailed(
                    f"job {name} is {status} and said nothing for azure_ml.stuck_minutes "
                    f"({self._settings.stuck_minutes:g})"
                )
            self._sleep(self._settings.poll_seconds)

    def _status(self, name: str) -> str | None:
        """The job's status, None where there is no such job."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return status_text(self._client.jobs.get(name).status)
        except ResourceNotFoundError:
            return None

    def _where(self, name: str) -> str:
        """Where to read on."""
        from azure.core.exceptions import AzureError

        try:
            address = self._client.jobs.get(name).studio_url
        except AzureError:
            address = None  # the failure itself is what has to be told
        return f"; its log: {address}" if address else "; see its log there"

    def _patiently(self, name: str, ask: Callable[[], T]) -> T:
        """An answer, through trouble that is over within `stuck_minutes`."""
        from azure.core.exceptions import AzureError

        deadline = time.monotonic() + 60 * self._settings.stuck_minutes
        while True:
            try:
                return ask()
            except AzureError as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise _told(error, f"asking for job {name}") from error
            self._sleep(self._settings.poll_seconds)

    def _cancel(self, name: str, report: Callable[[str], None]) -> None:
        from azure.core.exceptions import AzureError

        try:
            status = self._status(name)
            if status is not None and status != COMPLETED and status not in OVER_WITHOUT_RESULT:
                self._client.jobs.begin_cancel(name)
                report(f"job {name} is being cancelled")
        except AzureError as error:  # what brought us here is the error to raise
            report(f"job {name} could not be cancelled, look after it in the workspace: {error}")


def is_transient(error: AzureError) -> bool:
    """Whether asking again may help: no answer at all, throttled, or the service's own trouble."""
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return True
    return isinstance(error, HttpResponseError) and error.status_code in TRANSIENT


def _told(error: AzureError, what: str) -> WorkspaceError:
    from azure.core.exceptions import HttpResponseError

    if isinstance(error, HttpResponseError) and error.status_code is not None:
        return explained(error, what)
    return WorkspaceError(f"{what}: {error}")
