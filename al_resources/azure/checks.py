"""Does every address in Azure that the settings name answer, and may this identity ask there?

All are asked at once and by reading only, within seconds: retries, logins and name servers included.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from al_core.records import utc_now

if TYPE_CHECKING:
    from azure.core.pipeline import PipelineResponse

    from al_resources.settings import Settings

LIMIT_SECONDS = 5.0  # for all of them together
BUSY_SECONDS = 3.0  # a busy Data Explorer may become less busy
DATASTORES_API = {"api-version": "2024-04-01"}
PASSING = 500  # from this HTTP status on, and with 429, it is not our doing
SECRETS = {"key": "the right AZURE_STORAGE_ACCOUNT_KEY", "sas": "an AZURE_STORAGE_SAS_TOKEN that allows it"}

CLOCK_SECONDS = 300  # off by more than this, a clock is wrong

Outcome = Literal["ok", "wrong", "refused", "out of reach"]


@dataclass(frozen=True)
class Finding:
    """What came of asking one address; `name` is the setting it comes from."""

    name: str
    outcome: Outcome
    detail: str


@dataclass
class _Clock:
    """How far this machine's clock is ahead of Azure's, which every answer tells, refusals among them."""

    ahead: timedelta | None = None

    def look(self, response: PipelineResponse[Any, Any]) -> None:
        """For clients of azure-core to call with each answer."""
        if told := response.http_response.headers.get("Date"):
            self.ahead = utc_now() - parsedate_to_datetime(told)

    def findings(self) -> list[Finding]:
        """None where nobody told the time."""
        if self.ahead is None:
            return []
        seconds = round(self.ahead.total_seconds())
        much = f"{abs(seconds)} s" if abs(seconds) <= CLOCK_SECONDS else f"{round(abs(seconds) / 60)} min"
        said = f"this machine's clock is {much} {'behind' if seconds < 0 else 'ahead of'} Azure's"
        if abs(seconds) <= CLOCK_SECONDS:
            return [Finding("clock", "ok", said)]
        return [
            Finding("clock", "wrong", f"{said}; set it by NTP: times in the log are wrong, and logins may be refused")
        ]


@dataclass(frozen=True)
class _Question:
    name: str
    address: str
    needs: str  # what an identity has to have to be answered
    ask: Callable[[], object]


def check_azure(settings: Settings) -> list[Finding]:
    """One finding per address, within about `LIMIT_SECONDS`.

    Raises:
        SettingsError: the key or SAS that the settings ask for is not in the environment.
    """
    logging.getLogger("azure.identity").setLevel(logging.ERROR)  # what it warns of is in the findings
    clock = _Clock()
    asked = [(question, _begin(question)) for question in list(_questions(settings, clock))]
    deadline = monotonic() + LIMIT_SECONDS
    findings = [_within(deadline, question, finding) for question, finding in asked]
    return findings + clock.findings()


def _questions(settings: Settings, clock: _Clock) -> Iterator[_Question]:
    import azure.kusto.data
    import azure.kusto.ingest  # noqa: F401  these imports take a second, which is not the services' doing

    from al_resources.azure.data_explorer import KustoDatabase
    from al_resources.azure.storage import container_client, queue_client
    from al_resources.event_queue.azure import poison_url
    from al_resources.ledgers.kusto import KustoLedgers

    azure_, workspace = settings.azure, settings.azure_ml
    container = container_client(azure_, hurried=True)
    address = f"{azure_.blob_account_url}/{azure_.container}"
    may = SECRETS.get(azure_.storage_credential)
    yield _Question(
        "azure.blob_account_url",
        address,
        may or "the role 'Storage Blob Data Contributor'",
        lambda: next(container.list_blobs(results_per_page=1, raw_response_hook=clock.look).by_page(), None),
    )
    if events := azure_.events_queue_url:
        for address in (events, poison_url(events)):
            queue = queue_client(azure_, address, hurried=True)
            needs = may or "the role 'Storage Queue Data Contributor'"
            yield _Question("azure.events_queue_url", address, needs, queue.peek_messages)
    database = KustoDatabase(azure_, give_up_seconds=BUSY_SECONDS)
    yield _Question(
        "azure.kusto_uri",
        f"{azure_.kusto_uri}, database {azure_.kusto_database}",
        "the role 'Viewer' on the database",
        lambda: KustoLedgers(database).read("exports", path=""),
    )
    if azure_.kusto_ingestion != "streaming":
        yield _Question(
            "azure.kusto_ingest_uri",
            azure_.kusto_ingest_uri or f"the ingestion address of {azure_.kusto_uri}",
            "the role 'Ingestor' on the database",
            database.failed_ingestions,
        )
    if workspace.workspace:
        from al_resources.azure.workspace import DATA_SCIENTIST, Arm

        arm, store = Arm(workspace, azure_), workspace.datastore
        yield _Question(
            "azure_ml.workspace",
            f"{workspace.workspace} at {workspace.resource_manager}, datastore {store}",
            f"the role {DATA_SCIENTIST!r} on the workspace",
            lambda: arm.call("GET", f"datastores/{store}", what=f"datastore {store}", params=DATASTORES_API),
        )


def _begin(question: _Question) -> Future[Finding]:
    """In a thread that keeps no process from ending: a name server can hang for minutes."""
    finding: Future[Finding] = Future()
    threading.Thread(target=lambda: finding.set_result(_ask(question)), daemon=True).start()
    return finding


def _within(deadline: float, question: _Question, finding: Future[Finding]) -> Finding:
    try:
        return finding.result(max(0.0, deadline - monotonic()))
    except NotInTime:
        said = f"no answer within {LIMIT_SECONDS:.0f} s; is {question.name} right, and may this machine reach it?"
        return Finding(question.name, "out of reach", f"{question.address}: {said}")


def _ask(question: _Question) -> Finding:
    from azure.core.exceptions import AzureError
    from azure.kusto.data.exceptions import KustoError

    from al_resources.azure.workspace import WorkspaceError

    try:
        question.ask()
    except (AzureError, KustoError, WorkspaceError, OSError) as error:
        outcome, said = _explained(error, question)
        return Finding(question.name, outcome, f"{question.address}: {said}")
    return Finding(question.name, "ok", question.address)


def _explained(error: Exception, question: _Question) -> tuple[Outcome, str]:
    """What went wrong, in one line, and what helps."""
    from azure.core.exceptions import ClientAuthenticationError

    from al_resources.azure.data_explorer import http_status
    from al_resources.azure.workspace import WorkspaceError

    cause = error.__cause__ if isinstance(error, WorkspaceError) and error.__cause__ else error
    status, said = http_status(cause), next(iter(str(error).strip().splitlines()), type(error).__name__)
    if status in (401, 403):
        return "refused", f"{status}, {said}; this needs {question.needs}, and network rules that let this machine in"
    if status == 404:
        return "refused", f"404, {said}; `al azure init` creates container and queues, if {question.name} is right"
    if status == 400:
        return "refused", f"400, {said}; `al azure init` creates tables, if {question.name} is right"
    if status is not None:
        return "out of reach" if status >= PASSING or status == 429 else "refused", f"{status}, {said}"
    if isinstance(cause, ClientAuthenticationError):
        return "refused", f"nobody is logged in: {said}; azure.credential names who should be"
    return "out of reach", f"{said}; is {question.name} right, and may this machine reach it?"
