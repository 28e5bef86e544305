"""Label Studio's REST interface, as much of it as the adapter needs. Source: its API reference, version 1.23."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from al_resources.labeling import LabelingError

if TYPE_CHECKING:
    import httpx

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
FILES_AT_ONCE = 50  # its server refuses more than 100 files a request
BYTES_AT_ONCE = 50_000_000
TASKS_AT_ONCE = 200
PAGE = 100  # tasks; what one answer of the server holds
ACCESS_SECONDS = 200.0  # an access token lives 300 s
QUOTED = 300  # characters of an answer that is an error


class ProjectGone(LabelingError):
    """The project is not there any more, or the token's owner may not see it."""


class LabelStudioClient:
    """One server, as one of its users."""

    def __init__(self, url: str, token: str, timeout: float) -> None:
        """`token`: a legacy token (40 characters), or a personal access token, which is exchanged for short ones."""
        import httpx

        self.url = url.rstrip("/")
        self._token = token
        self._is_personal = token.count(".") == 2  # a JWT; a legacy token is sent as it is
        self._access, self._access_until = "", 0.0
        self.asked_at = self._answered_at = datetime.now(UTC)  # of the server
        nothing_kept = httpx.Limits(max_keepalive_connections=0)  # nobody tells an adapter when it is used no more
        self._http = httpx.Client(base_url=self.url, timeout=timeout, follow_redirects=True, limits=nothing_kept)

    @classmethod
    def from_environment(cls, url: str, timeout: float) -> LabelStudioClient:
        """Raises `LabelingError` where there is no token in the environment."""
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            raise LabelingError(
                f"the environment has no {TOKEN_VARIABLE}; copy a token from Account & Settings in {url}, or from the "
                "file that `al label --with label-studio` names"
            )
        return cls(url, token, timeout)

    # ------------------------------------------------------------------ projects
    def projects_titled(self, title: str) -> list[dict[str, Any]]:
        """The projects of exactly that title, oldest first."""
        found = [one for one in self._paged("/api/projects/", {"title": title}) if one["title"] == title]
        return sorted(found, key=lambda one: int(one["id"]))

    def project(self, project: int) -> dict[str, Any]:
        """What the server says of a project. Raises `ProjectGone`."""
        return dict(self._ask("GET", f"/api/projects/{project}/"))

    def create_project(self, title: str, config: str, description: str) -> dict[str, Any]:
        """A new one."""
        wanted = {"title": title, "label_config": config, "description": description}
        return dict(self._ask("POST", "/api/projects/", json=wanted))

    def change_project(self, project: int, **changes: Any) -> None:
        """Change some of its fields."""
        self._ask("PATCH", f"/api/projects/{project}/", json=changes)

    # ------------------------------------------------------------------ tasks
    def upload(self, project: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Hand pictures over; the addresses, in their order, under which the server shows them to its users."""
        addresses: list[str] = []
        for some in _portions(files):
            parts = [(f"file{number}", (name, data)) for number, (name, data) in enumerate(some)]
            query = {"commit_to_project": "false"}
            ids = self._ask("POST", f"/api/projects/{project}/import", params=query, files=parts)["file_upload_ids"]
            told = self._ask("GET", f"/api/projects/{project}/file-uploads", params={"ids": json.dumps(ids)})
            # its answer is in no order that is promised: the server puts eight digits and a dash before each name
            by_name = {str(one["file"]).rpartition("/")[2].partition("-")[2]: str(one["file"]) for one in told}
            addresses += [f"/data/{by_name[name]}" for name, _ in some]
        return addresses

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Tasks with their predictions."""
        for first in range(0, len(tasks), TASKS_AT_ONCE):
            self._ask("POST", f"/api/projects/{project}/import", json=list(tasks[first : first + TASKS_AT_ONCE]))

    def import_predictions(self, project: int, predictions: Sequence[Mapping[str, Any]]) -> None:
        """Predictions for tasks that are there."""
        for first in range(0, len(predictions), TASKS_AT_ONCE):
            some = list(predictions[first : first + TASKS_AT_ONCE])
            self._ask("POST", f"/api/projects/{project}/import/predictions", json=some)

    def tasks(
        self,
        project: int,
        *,
        changed_since: datetime | None = None,
        of_round: str | None = None,
        only_open: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Tasks with their annotations, those that changed first first. `asked_at` is the server's time before."""
        wanted = []
        if changed_since is not None:
            moment = changed_since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            wanted.append(_filter("updated_at", "greater", "Datetime", moment))
        if of_round is not None:
            wanted.append(_filter("data.round", "equal", "String", of_round))
        if only_open:
            wanted.append(_filter("completed_at", "empty", "Datetime", True))
        query = {"ordering": ["tasks:updated_at"], "filters": {"conjunction": "and", "items": wanted}}
        asked = {"project": project, "fields": "all", "query": json.dumps(query), "page_size": PAGE}
        page = 1
        while True:
            answer = self._ask("GET", "/api/tasks/", params={**asked, "page": page})
            if page == 1:
                self.asked_at = self._answered_at
            yield from answer["tasks"]
            if page * PAGE >= int(answer["total"]):
                return
            page += 1

    def model_versions(self, project: int) -> list[str]:
        """Whose predictions it has."""
        return list(self._ask("GET", f"/api/projects/{project}/model-versions/"))

    def delete_model_version(self, project: int, version: str) -> None:
        """Delete all predictions of a model version."""
        self._ask("DELETE", f"/api/projects/{project}/model-versions/", json={"model_version": version})

    def users(self) -> dict[int, str]:
        """What its users are called by their numbers."""
        answer = self._ask("GET", "/api/users/")
        found = answer["results"] if isinstance(answer, dict) else answer
        return {int(one["id"]): str(one.get("email") or one.get("username") or one["id"]) for one in found}

    # ------------------------------------------------------------------ HTTP
    def _paged(self, path: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            answer = self._ask("GET", path, params={**query, "page": page, "page_size": PAGE})
            yield from answer["results"]
            if not answer.get("next"):
                return
            page += 1

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        """The server's answer. Raises `LabelingError`: there is none, or it is an error."""
        import httpx

        answer = self._send(method, path, headers=self._authorization(), **request)
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._is_personal:
            self._access_until = 0.0  # it may have been taken back before its time
            answer = self._send(method, path, headers=self._authorization(), **request)
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise LabelingError(
                f"Label Studio at {self.url} does not admit the token in {TOKEN_VARIABLE}: {answer.status_code} "
                f"{answer.text[:QUOTED]}; take one of a user who may change the project"
            )
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise ProjectGone(f"Label Studio at {self.url} has no {path.removeprefix('/api/').strip('/')}")
        if not answer.is_success:
            raise LabelingError(
                f"Label Studio at {self.url} answered {answer.status_code} to {method} {path}: {answer.text[:QUOTED]}"
            )
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise LabelingError(
                f"{self.url}{path} answered no JSON: {answer.text[:QUOTED]!r}; is it a Label Studio?"
            ) from error

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, path, **request)
        except httpx.TimeoutException as error:
            raise LabelingError(
                f"Label Studio at {self.url} did not answer {method} {path} within {self._http.timeout.read:g} s; "
                "it is asked again at the next look; label_studio.timeout_seconds grants it more"
            ) from error
        except httpx.HTTPError as error:
            raise LabelingError(
                f"Label Studio at {self.url} is out of reach: {error}; start it, or mend the url"
            ) from (error)

        with suppress(KeyError, ValueError):
            self._answered_at = parsedate_to_datetime(answer.headers["date"])
        return answer

    def _authorization(self) -> dict[str, str]:
        if not self._is_personal:
            return {"authorization": f"Token {self._token}"}
        if time.monotonic() >= self._access_until:
            answer = self._send("POST", "/api/token/refresh/", json={"refresh": self._token})
            if not answer.is_success:
                raise LabelingError(
                    f"Label Studio at {self.url} does not take the personal access token in {TOKEN_VARIABLE} "
                    f"({answer.status_code}): it has run out or was taken back; copy a new one"
                )
            self._access = str(answer.json()["access"])
            self._access_until = time.monotonic() + ACCESS_SECONDS
        return {"authorization": f"Bearer {self._access}"}


def _portions(files: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """What goes into one request each."""
    portion: list[tuple[str, bytes]] = []
    size = 0
    for name, data in files:
        if portion and (len(portion) == FILES_AT_ONCE or size + len(data) > BYTES_AT_ONCE):
            yield portion
            portion, size = [], 0
        portion.append((name, data))
        size += len(data)
    if portion:
        yield portion


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
