"""What the commands ask of a running Dagster, over its public GraphQL API.

Imports little, so that a machine that only asks (a workflow of GitHub) needs little.
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from al_core.errors import ActiveLearningError

LOCATION = "active_learning"
REPOSITORY = "__repository__"
ASSET_JOB = "__ASSET_JOB"  # by which Dagster runs assets that are asked for one by one
ATTEMPTS = 3
_RUN = "runId status jobName creationTime startTime endTime tags { key value }"
_EVALUATED = """__typename ... on PythonError { message } ... on DryRunInstigationTick { evaluationResult {
  skipReason error { message errorChain { error { message } } }
  dynamicPartitionsRequests { partitionKeys partitionsDefName }
  runRequests { runKey runConfigYaml jobName tags { key value } } } }"""


class DagsterError(ActiveLearningError):
    """Dagster answered with an error, or did not come up."""


class NotLetIn(DagsterError):
    """The guard of Dagster's pages, or the login before it, knows no such token."""


class DagsterApi:
    """One running instance. `token`: what its guard, or the login before it, lets in as a bearer."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(timeout=60, headers=headers)

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """One GraphQL operation. Raises `DagsterError` where it is answered with errors."""
        return self._asked(60, text, **variables)

    def _asked(self, timeout: float, text: str, **variables: Any) -> dict[str, Any]:
        asked = {"query": text, "variables": variables}
        response = self._client.post(f"{self.url}/graphql", json=asked, timeout=timeout)
        if response.is_redirect or response.status_code in (401, 403):
            raise NotLetIn(f"{self.url} lets nobody in by this token (HTTP {response.status_code})")
        answer = response.json()
        if answer.get("errors"):
            raise DagsterError(str(answer["errors"]))
        return answer["data"]

    def start_sensor(self, name: str) -> None:
        """Switch a sensor on."""
        self._switch_on(
            f"sensor {name}",
            """mutation($s: SensorSelector!) { result: startSensor(sensorSelector: $s) {
              __typename ... on PythonError { message } } }""",
            _selector(sensorName=name),
        )

    def start_schedule(self, name: str) -> None:
        """Switch a schedule on."""
        self._switch_on(
            f"schedule {name}",
            """mutation($s: ScheduleSelector!) { result: startSchedule(scheduleSelector: $s) {
              __typename ... on PythonError { message } } }""",
            _selector(scheduleName=name),
        )

    def _switch_on(self, what: str, mutation: str, selector: dict[str, str]) -> None:
        for attempt in range(ATTEMPTS):
            answer = self.query(mutation, s=selector)["result"]
            if answer["__typename"] in ("Sensor", "ScheduleStateResult"):
                return
            # The daemon may write the first state of an instigator in the same moment; the next attempt finds it.
            if "already present in storage" not in answer.get("message", "") or attempt == ATTEMPTS - 1:
                raise DagsterError(f"{what} did not start: {answer}")

    def tick_schedule(self, name: str, job: str) -> tuple[list[str], str]:
        """Evaluate the schedule now and submit exactly what it requests: (run ids, reason where it skipped)."""
        tick = self.query(
            f"mutation($s: ScheduleSelector!, $t: Float) "
            f"{{ tick: scheduleDryRun(selectorData: $s, timestamp: $t) {{ {_EVALUATED} }} }}",
            s=_selector(scheduleName=name),
            t=time.time(),
        )["tick"]
        return self._submit(f"schedule {name}", tick, job, {"dagster/schedule_name": name})

    def tick_sensor(self, name: str, job: str) -> tuple[list[str], str]:
        """Evaluate the sensor now, without its cursor, and submit what it requests: as `tick_schedule`.

        The runs bear the sensor's name and key, so that its own ticks do not request them again.
        """
        tick = self.query(
            f"mutation($s: SensorSelector!, $c: String) "
            f"{{ tick: sensorDryRun(selectorData: $s, cursor: $c) {{ {_EVALUATED} }} }}",
            s=_selector(sensorName=name),
            c=None,
        )["tick"]
        return self._submit(f"sensor {name}", tick, job, {"dagster/sensor_name": name})

    def sensors(self) -> list[str]:
        """The names of all sensors."""
        found = self.query(
            """query($r: RepositorySelector!) { repositoryOrError(repositorySelector: $r) {
              __typename ... on PythonError { message } ... on Repository { sensors { name } } } }""",
            r=_selector(),
        )["repositoryOrError"]
        if found["__typename"] != "Repository":
            raise DagsterError(f"{self.url} does not show the code location {LOCATION}: {found}")
        return [sensor["name"] for sensor in found["sensors"]]

    def _submit(self, what: str, tick: dict[str, Any], job: str, tags: dict[str, str]) -> tuple[list[str], str]:
        if tick["__typename"] != "DryRunInstigationTick":
            raise DagsterError(f"{what}: {tick}")
        result = tick["evaluationResult"]
        if result["error"]:
            causes = [link["error"]["message"] for link in result["error"]["errorChain"]]
            raise DagsterError(f"{what}: {' '.join([result['error']['message'], *causes])}")
        for wanted in result["dynamicPartitionsRequests"] or []:
            for key in wanted["partitionKeys"] or []:
                self._add_partition(wanted["partitionsDefName"], key)
        return [self._launch(job, request, tags) for request in result["runRequests"] or []], result["skipReason"] or ""

    def _add_partition(self, partitions: str, key: str) -> None:
        answer = self.query(
            """mutation($r: RepositorySelector!, $p: String!, $k: String!) {
              added: addDynamicPartition(repositorySelector: $r, partitionsDefName: $p, partitionKey: $k) {
                __typename ... on PythonError { message } ... on UnauthorizedError { message } } }""",
            r=_selector(),
            p=partitions,
            k=key,
        )["added"]
        if answer["__typename"] not in ("AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError"):
            raise DagsterError(f"{partitions} {key} was not opened: {answer}")

    def _launch(self, job: str, request: dict[str, Any], besides: dict[str, str]) -> str:
        tags = besides | {tag["key"]: tag["value"] for tag in request["tags"]}
        if request["runKey"]:
            tags["dagster/run_key"] = request["runKey"]
        answer = self.query(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
              __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
              ... on RunConfigValidationInvalid { errors { message } } } }""",
            p={
                "selector": _selector(jobName=request["jobName"] or job),
                "runConfigData": request["runConfigYaml"],
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            },
        )["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise DagsterError(f"run of {job} was not launched: {answer}")
        return str(answer["run"]["runId"])

    def materialize(self, asset: str, config: dict[str, Any]) -> str:
        """Ask for a run of one asset that is not partitioned, with this config; returns its id."""
        answer = self.query(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
              __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
              ... on RunConfigValidationInvalid { errors { message } } } }""",
            p={
                "selector": {**_selector(jobName=ASSET_JOB), "assetSelection": [{"path": [asset]}]},
                "runConfigData": {"ops": {asset: {"config": config}}},
            },
        )["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise DagsterError(f"a run of {asset} was not launched: {answer}")
        return str(answer["run"]["runId"])

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """Runs with all of these tags, newest first; a `/` in a tag is written `__` here."""
        wanted = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
        return self.query(
            f"query($f: RunsFilter!) {{ runsOrError(filter: $f) {{ ... on Runs {{ results {{ {_RUN} "
            "stepStats { stepKey startTime endTime status } } } } }",
            f={"tags": wanted},
        )["runsOrError"]["results"]

    def at_work(self, job: str) -> str:
        """The beginning of the id of a run of that job that is queued or running; empty where there is none."""
        found = self.query(
            """query($f: RunsFilter!) { runsOrError(filter: $f, limit: 1) { ... on Runs { results { runId } } } }""",
            f={"pipelineName": job, "statuses": ["QUEUED", "NOT_STARTED", "STARTING", "STARTED"]},
        )["runsOrError"]["results"]
        return found[0]["runId"][:8] if found else ""

    def run(self, run_id: str) -> dict[str, Any]:
        """One run, as `runs` tells it."""
        return self.query(
            f"query($id: ID!) {{ runOrError(runId: $id) {{ ... on Run {{ {_RUN} "
            "stepStats { stepKey startTime endTime status } } } }",
            id=run_id,
        )["runOrError"]


def _selector(**named: str) -> dict[str, str]:
    return {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, **named}
