"""People in the demo: somebody who knows every label, at the labeling page, by HTTP as a browser does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from al_core.errors import ActiveLearningError

AT_ONCE = 20  # pictures in hand
PATIENCE_SECONDS = 300.0  # for one answer of the page, on a busy machine


class PageRefused(ActiveLearningError):
    """The page did not take what was sent."""


class PersonAtThePage:
    """Comes in by a link and labels what the page shows. `truth`: image id -> class."""

    def __init__(self, link: str, truth: Mapping[str, str]) -> None:
        address = "{0.scheme}://{0.netloc}".format(urlsplit(link))
        headers = {"origin": address, "x-al-page": "1"}
        self._link = link
        self._truth = truth
        self._tab = str(uuid4())
        self._http = httpx.Client(base_url=address, headers=headers, timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        """Leave the page."""
        self._http.close()

    def is_let_in(self) -> bool:
        """Whether the page is up and lets this person in."""
        try:
            return self._http.get(self._link).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def is_asked(self, round_: int) -> bool:
        """Whether the page shows the round."""
        session = self._checked(self._http.get("/api/session", params={"tab": self._tab}))
        return round_ in session["rounds"]

    def label(self, round_: int) -> int:
        """Answer every picture of a round; returns how many.

        Raises:
            PageRefused: an answer was not kept; says which and why.
        """
        answered = 0
        while pictures := self._post("next", round_, want=AT_ONCE)["pictures"]:
            answers = [self._answer(picture) for picture in pictures]
            told = self._post("answers", round_, answers=answers)
            if told["refused"]:
                raise PageRefused(f"round {round_}: the labeling page refused answers: {told['refused']}")
            answered += len(pictures)
        return answered

    def _answer(self, picture: str) -> dict[str, Any]:
        from al_core.images import content_id

        shown = self._http.get(f"/picture/{picture}").raise_for_status().content
        label = self._truth[content_id(shown)]
        return {"event_id": str(uuid4()), "picture": picture, "kind": "label", "label": label, "milliseconds": 900}

    def _post(self, name: str, round_: int, **body: Any) -> dict[str, Any]:
        return self._checked(self._http.post(f"/api/{name}", json={"round": round_, "tab": self._tab, **body}))

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_error:
            raise PageRefused(f"the labeling page answered {response.status_code}: {response.text[:300]}")
        return dict(response.json())
