"""Label Studio, for teams that have it: rounds become tasks of one project there, annotations come back as exports.

Pictures are uploaded, so the server needs no way to our store. Tasks are told apart by (round, image id). Who labels
sees no prediction, but is given the pictures in its order. Answers are polled: the cursor is the server's own time of
change, kept in the blob store; what it already brought is known by annotator, so a deleted annotation is taken back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from pydantic import BaseModel, ValidationError

from al_resources.labeling import LabelingError, LabelingStatus, Predict, Prediction, StagedImage
from al_resources.labeling.class_list import class_list
from al_resources.labeling.formats.label_studio import answers_in, image_of
from al_resources.labeling.projects.label_studio_client import FILES_AT_ONCE, LabelStudioClient, ProjectGone
from al_resources.labeling.releases import write_rows
from al_resources.labeling.staging import is_staged, round_folder, staged_images

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.ledgers import Ledgers
    from al_resources.settings import LabelingSettings
    from al_resources.settings.label_studio import LabelStudioSettings

LOGGER = logging.getLogger(__name__)
FOLDER = "labeling/label_studio"
PROJECT = f"{FOLDER}/project.json"
LATE = timedelta(seconds=60)  # what was written at a moment may become visible so much later
STEP = timedelta(microseconds=1)
LONGEST_TITLE = 50
SHOWN = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}  # what it takes and a browser shows; others are converted
DESCRIPTION = "Pictures that a model learns most from. Tasks and classes come from the active learning platform."


class KnownProject(BaseModel):
    """Which project is ours."""

    url: str
    id: int
    made: bool  # by us: its labeling interface is ours to change


class Controls(BaseModel):
    """What in a project's labeling interface answers for a picture."""

    from_name: str
    to_name: str
    value: str  # the key of the picture in a task's data
    classes: tuple[str, ...]


class Cursor(BaseModel):
    """How far answers were brought: the server's time, and of each task whose answer of when is here."""

    since: datetime | None = None
    brought: dict[int, dict[str, str]] = {}  # task -> annotator -> the annotation's time of change


class LabelStudioLabeling:
    """See `LabelingProject`. `model`: what predictions are called after."""

    def __init__(
        self,
        blobs: BlobStore,
        ledgers: Ledgers,
        labeling: LabelingSettings,
        settings: LabelStudioSettings,
        model: str,
    ) -> None:
        self.blobs = blobs
        self.ledgers = ledgers
        self.labeling = labeling
        self.settings = settings
        self.model = model
        self._opened: LabelStudioClient | None = None

    # ------------------------------------------------------------------ the port
    def announce(self, round_: int) -> None:
        """Add the round's pictures to the project, those that are not there yet.

        A project that is gone is made anew, with the pictures of all rounds that nobody has answered.
        """
        try:
            project, anew = self._project(), False
            if project is None:
                project, anew = self._adopt_or_make(), True
        except ProjectGone as error:
            LOGGER.warning("%s; it is made anew with all pictures that nobody has answered", error)
            self.blobs.delete(PROJECT)
            project, anew = self._adopt_or_make(), True
        controls = self._controls(project)
        others = [other for other in range(round_) if is_staged(self.blobs, other)] if anew else []
        for each in [*others, round_]:
            self._add(project, controls, each, only_open=each != round_)
        wanted = {"sampling": "Uncertainty sampling", "show_collab_predictions": False}
        self._client.change_project(project.id, **wanted)

    def status(self, round_: int) -> LabelingStatus:
        """Labeled there or, as an export of any other tool, in the ledger."""
        from al_core.answers import standing

        staged = {image.image_id for image in staged_images(self.blobs, round_)}
        labeled = staged & set(standing(self.ledgers.read("labels"))["image_id"])
        skipped: set[str] = set()
        if (project := self._project()) is not None:
            for task in self._client.tasks(project.id, of_round=_round_name(round_)):
                answers = [_row(task, annotation, "") for annotation in task.get("annotations") or []]
                done = labeled if any(row["label"] is not None for row in answers) else skipped
                done |= staged & ({str(task["data"].get("image_id"))} if answers else set())
        title = f"{project.url}/projects/{project.id}" if project else ""
        return LabelingStatus(total=len(staged), labeled=len(labeled), skipped=len(skipped - labeled), project=title)

    def collect(self) -> list[str]:
        """Bring what changed since the last look into the inbox: answers, and what was taken back."""
        if (project := self._project()) is None:
            return []
        cursor = self._cursor(project)
        rows: list[dict[str, Any]] = []
        newest = cursor.since
        client, began, complete = self._client, time.monotonic(), True
        people: dict[int, str] | None = None
        for task in client.tasks(project.id, changed_since=cursor.since):
            changed = datetime.fromisoformat(task["updated_at"])
            if time.monotonic() - began > self.settings.poll_seconds and newest and _is_past(newest, cursor.since):
                complete = False
                break
            if task.get("annotations") and people is None:
                people = client.users()
            rows += _news(task, cursor.brought, people or {})
            newest = changed if newest is None else max(newest, changed)
        since = _next_since(cursor.since, newest, client.asked_at, complete=complete)
        paths = []
        if rows:
            path, new = write_rows(self.blobs, f"label-studio-{project.id}", rows)
            paths = [path] if new else []
        if rows or since != cursor.since:  # after the export: a crash in between brings the same once more
            moved = Cursor(since=since, brought=cursor.brought)
            self.blobs.write(_cursor_path(project), moved.model_dump_json().encode())
        return paths

    def refresh(self, version: int, predict: Predict) -> int:
        """Put the model's answers beside all open tasks that have none of this version, and order the tasks by them."""
        if (project := self._project()) is None:
            return 0
        name = f"{self.model} v{version}"
        lacking: dict[str, list[int]] = {}
        for task in self._client.tasks(project.id, only_open=True):
            has = {one.get("model_version") for one in task.get("predictions") or [] if isinstance(one, Mapping)}
            if name not in has and (image_id := task["data"].get("image_id")):
                lacking.setdefault(str(image_id), []).append(int(task["id"]))
        controls = self._controls(project)
        told = [
            _prediction(prediction, task, name, controls)
            for prediction in (predict(list(lacking)) if lacking else ())
            for task in lacking[prediction.image_id]
        ]
        self._client.import_predictions(project.id, told)
        if told:
            self._client.change_project(project.id, model_version=name)
            for old in self._client.model_versions(project.id):
                if old.startswith(f"{self.model} v") and old != name:
                    self._client.delete_model_version(project.id, old)
        return len(told)

    # ------------------------------------------------------------------ the project
    @property
    def _client(self) -> LabelStudioClient:
        if self._opened is None:
            self._opened = LabelStudioClient.from_environment(self.settings.url, self.settings.timeout_seconds)
        return self._opened

    def _project(self) -> KnownProject | None:
        """The project as it was adopted or made; None before the first round.

        Raises:
            ProjectGone: it is not there any more.
        """
        try:
            known = KnownProject.model_validate_json(self.blobs.read(PROJECT))
        except (FileNotFoundError, ValidationError):
            return None
        if known.url != self._client.url:
            return None  # another server: there it is adopted or made at the next round
        try:
            self._client.project(known.id)
        except ProjectGone as error:
            raise ProjectGone(
                f"{error}: somebody deleted it, or the token's owner may not see it; answers brought before are kept. "
                "The next round makes a new one; materializing selected_candidates of the newest round again, too"
            ) from error
        return known

    def _adopt_or_make(self) -> KnownProject:
        title = (self.settings.project or f"Active learning: {self.model}")[:LONGEST_TITLE]
        there = self._client.projects_titled(title)
        if len(there) > 1:
            raise LabelingError(
                f"Label Studio at {self._client.url} has {len(there)} projects titled {title!r}; rename all but one, "
                "or name another in label_studio.project"
            )
        if there:
            project, made = there[0], there[0].get("description") == DESCRIPTION
        else:
            config = _interface(self._classes())
            project, made = self._client.create_project(title, config, DESCRIPTION), True
        known = KnownProject(url=self._client.url, id=int(project["id"]), made=made)
        self.blobs.write(PROJECT, known.model_dump_json().encode())
        return known

    def _controls(self, project: KnownProject) -> Controls:
        """What answers in the project, with all our classes. Raises `LabelingError`: an adopted one lacks it."""
        told = self._client.project(project.id)
        controls, classes = _controls_of(told.get("parsed_label_config") or {}), self._classes()
        lacking = classes if controls is None else tuple(name for name in classes if name not in controls.classes)
        if controls is not None and not lacking:
            return controls
        if not project.made:
            where = f"project {told.get('title')!r} of Label Studio at {project.url}"
            what = "no <Choices> for an <Image>" if controls is None else f"no choice for {', '.join(lacking)}"
            raise LabelingError(
                f"{where} has {what}: add that to its labeling interface, or name another label_studio.project"
            )
        kept = () if controls is None else tuple(name for name in controls.classes if name not in classes)
        self._client.change_project(project.id, label_config=_interface((*classes, *kept)))
        return Controls(from_name="choice", to_name="image", value="image", classes=(*classes, *kept))

    def _classes(self) -> tuple[str, ...]:
        labels = self.ledgers.read("labels")["label"].drop_nulls().unique().sort()
        names = class_list(self.blobs, self.labeling, tuple(labels)).names
        if not names:
            raise LabelingError("labeling.classes is empty, and Label Studio needs choices to show: name the classes")
        return names

    def _add(self, project: KnownProject, controls: Controls, round_: int, *, only_open: bool) -> None:
        from al_core.answers import answered

        there = {
            str(task["data"].get("image_id")) for task in self._client.tasks(project.id, of_round=_round_name(round_))
        }
        if only_open:
            there |= set(answered(self.ledgers.read("labels")))
        images = iter(image for image in staged_images(self.blobs, round_) if image.image_id not in there)
        while some := list(islice(images, FILES_AT_ONCE)):
            readable = [(image, file) for image in some if (file := self._file(round_, image)) is not None]
            addresses = self._client.upload(project.id, [file for _, file in readable])
            tasks = [
                {"data": {controls.value: address, "image_id": image.image_id, "round": _round_name(round_)}}
                for (image, _), address in zip(readable, addresses, strict=True)
            ]
            self._client.import_tasks(project.id, tasks)

    def _file(self, round_: int, image: StagedImage) -> tuple[str, bytes] | None:
        """Name and bytes as a browser shows them; None, with a word, for what cannot be read."""
        import io

        from al_core.images import BadImage, decode_stored_image

        try:
            data = self.blobs.read(f"{round_folder(round_)}/{image.file_name}")
            if (suffix := PurePosixPath(image.file_name).suffix.lower()) in SHOWN:
                return f"{image.image_id}{suffix}", data  # a person's own name may be one that the server changes
            converted = io.BytesIO()
            decode_stored_image(data, name=image.image_id).save(converted, "PNG")
        except (BadImage, FileNotFoundError) as error:
            LOGGER.warning("round %d: %s is not given to Label Studio: %s", round_, image.file_name, error)
            return None
        return f"{image.image_id}.png", converted.getvalue()

    def _cursor(self, project: KnownProject) -> Cursor:
        try:
            return Cursor.model_validate_json(self.blobs.read(_cursor_path(project)))
        except (FileNotFoundError, ValidationError):  # from the beginning: merging tells what is nothing new
            return Cursor()


# ---------------------------------------------------------------------- what a task says
def _news(
    task: Mapping[str, Any], brought: dict[int, dict[str, str]], people: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    """The rows of an export for what changed on a task; `brought` is brought up to date.

    Of one annotator the newest annotation counts: the tool keeps both where an answer was sent twice.
    """
    last: dict[str, Mapping[str, Any]] = {}
    for annotation in sorted(task.get("annotations") or [], key=lambda one: (one["updated_at"], one["id"])):
        last[_who(annotation, people)] = annotation
    number = int(task["id"])
    before = brought.pop(number, {})
    for annotator, annotation in last.items():
        if before.get(annotator) != annotation["updated_at"]:
            yield _row(task, annotation, annotator)
    for annotator in before.keys() - last.keys():
        yield {"image_url": _image(task), "label": None, "annotator": annotator, "labeled_at": task["updated_at"]}
    if last:
        brought[number] = {annotator: str(annotation["updated_at"]) for annotator, annotation in last.items()}


def _row(task: Mapping[str, Any], annotation: Mapping[str, Any], annotator: str) -> dict[str, Any]:
    """One line of the export, as `formats.azure_ml_jsonl` reads it."""
    answers = answers_in(annotation.get("result") or [])
    skipped = bool(annotation.get("was_cancelled")) or not answers.names
    return {
        "image_url": _image(task),
        "label": None if skipped else answers.names,
        "annotator": annotator,
        "labeled_at": annotation["updated_at"],
        "annotation_seconds": None if skipped else annotation.get("lead_time"),
        **({"outcome": "skip"} if skipped else {}),
    }


def _image(task: Mapping[str, Any]) -> str:
    return str(task["data"].get("image_id") or image_of(task["data"]) or f"task {task['id']}")


def _who(annotation: Mapping[str, Any], people: Mapping[int, str]) -> str:
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, Mapping) else who
    return "nobody" if who is None else people.get(int(who), str(who))


def _prediction(prediction: Prediction, task: int, version: str, controls: Controls) -> dict[str, Any]:
    """The tool asks for the lowest score first: it gets the certainty."""
    choice = {"from_name": controls.from_name, "to_name": controls.to_name, "type": "choices"}
    return {
        "task": task,
        "model_version": version,
        "score": 1.0 - prediction.uncertainty,
        "result": [{**choice, "value": {"choices": [prediction.label]}}],
    }


def _interface(classes: Sequence[str]) -> str:
    """Its labeling interface: a picture, and one choice."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <Choices name="choice" toName="image" choice="single" showInLine="true">\n{choices}  </Choices>\n</View>\n'
    )


def _controls_of(parsed: Mapping[str, Any]) -> Controls | None:
    """The first choice between classes of a picture."""
    for name, control in parsed.items():
        pictures = [one for one in control.get("inputs") or [] if one.get("type") == "Image"]
        if control.get("type") == "Choices" and pictures:
            return Controls(
                from_name=name,
                to_name=control["to_name"][0],
                value=str(pictures[0]["value"]).lstrip("$"),
                classes=tuple(control.get("labels") or ()),
            )
    return None


def _round_name(round_: int) -> str:
    return f"round-{round_:04d}"


def _cursor_path(project: KnownProject) -> str:
    import hashlib

    server = hashlib.blake2b(project.url.encode(), digest_size=4).hexdigest()
    return f"{FOLDER}/cursor-{server}-{project.id}.json"


def _is_past(newest: datetime, since: datetime | None) -> bool:
    """Whether stopping here leaves a cursor further on than it was."""
    return since is None or newest > since + STEP


def _next_since(
    since: datetime | None, newest: datetime | None, asked_at: datetime, *, complete: bool
) -> datetime | None:
    """Where the next look begins. What is younger than `LATE` may have neighbours that are not visible yet."""
    if newest is None:
        return since
    reached = min(newest if complete else newest - STEP, asked_at - LATE)
    return reached if since is None else max(since, reached)
