"""A training as a process of its own: what a remote job runs, files in, files out, Dagster Pipes messages on the way.

    python -m al_resources.training.job --request FILE --train DIR [--validation DIR] --images DIR [--parent DIR]
                                        --output DIR --messages DIR

The trainer is the one that trains in process. What came of it is reported, not guessed: a job that ends without
reporting a materialization has not trained, whatever its exit status says.

The messages are those of Dagster Pipes, one file each: 1.json, 2.json ...; a file without a newline at its end is
still being written. Whoever started the job reads them; nothing here talks to Dagster, or imports it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PipesContext,
    PipesContextData,
    PipesDefaultContextLoader,
    PipesMappingParamsLoader,
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    PipesParams,
    encode_param,
)
from pydantic import BaseModel, ConfigDict

from al_core.errors import InvalidInput
from al_core.learning.checkpoint import WEIGHTS_FILE, sha256_of
from al_core.learning.contract import LabeledImage, TrainingRequest, TrainingResult, load_trainer
from al_core.learning.devices import unusable_gpu
from al_core.learning.settings import TrainingSettings
from al_core.records import EncoderRecord, Preprocessing
from al_resources.datasets.azure_ml import IMAGES_FILE, from_lines
from al_resources.image_store import IMAGES, image_path

ASSET = "model_checkpoint"
RESULT = "result"  # under this name the materialization carries a `RemoteResult`


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RemoteRequest(_Frozen):
    """What of a `TrainingRequest` is neither images nor weights."""

    key: str
    classes: tuple[str, ...]
    settings: TrainingSettings


class RemoteResult(_Frozen):
    """A `TrainingResult` as the job reports it."""

    weights_sha256: str
    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float
    log: dict[str, Any]
    encoder: EncoderRecord | None = None

    def at(self, weights: Path) -> TrainingResult:
        """The result, with its weights where they were brought to."""
        return TrainingResult(
            weights, self.architecture, self.classes, self.preprocessing, self.temperature, self.log, self.encoder
        )


class _Channel(PipesMessageWriterChannel):
    """Every message at once, as a file: the folder is a mounted container, where appending means writing all again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def write_message(self, message: PipesMessage) -> None:
        self._count += 1
        (self._folder / f"{self._count}.json").write_text(json.dumps(message) + "\n")


class _FolderWriter(PipesMessageWriter[_Channel]):
    """Messages into the folder that the parameters name."""

    @contextmanager
    def open(self, params: PipesParams) -> Iterator[_Channel]:
        folder = Path(params["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        yield _Channel(folder)


def open_pipes(folder: Path) -> PipesContext:
    """Pipes that report into `folder`; of no run in particular, for a job outlives the step that began it."""
    context = PipesContextData(
        asset_keys=[ASSET],
        code_version_by_asset_key=None,
        provenance_by_asset_key=None,
        partition_key=None,
        partition_key_range=None,
        partition_time_window=None,
        run_id="",
        job_name=None,
        retry_number=0,
        extras={},
    )
    parameters = {
        DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param({PipesDefaultContextLoader.DIRECT_KEY: context}),
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({"folder": str(folder)}),
    }
    return PipesContext(PipesMappingParamsLoader(parameters), PipesDefaultContextLoader(), _FolderWriter())


Work = Callable[[argparse.Namespace, RemoteRequest, Callable[[str], None]], TrainingResult]


def train(given: argparse.Namespace, request: RemoteRequest, report: Callable[[str], None]) -> TrainingResult:
    """Train on the files that the arguments name. Raises what the trainer raises, and for a GPU that stands idle."""
    if unused := unusable_gpu(request.settings.device):
        raise InvalidInput(
            f"{unused}; azure_ml.environment names an environment whose image has a build for the driver, and "
            "training.device = 'cpu' trains on the CPU all the same, best on azure_ml.compute without GPU"
        )

    def read_image(uri: str) -> bytes:
        return (given.images / image_path(uri).removeprefix(f"{IMAGES}/")).read_bytes()

    return load_trainer(request.settings.trainer).fit(
        TrainingRequest(
            train=_images_of(given.train),
            validation=_images_of(given.validation),
            classes=request.classes,
            settings=request.settings,
            read_image=read_image,
            output=given.output,
            parent=given.parent,
            key=request.key,
        ),
        report,
    )


def run(work: Work, arguments: list[str] | None, *, needed: Sequence[str], optional: Sequence[str] = ()) -> int:
    """Do the `work` of a job and report what came of it; an error is reported, too, and raised."""
    parser = argparse.ArgumentParser()
    for name in ("request", *needed, "output", "messages"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in optional:
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args(arguments)
    with open_pipes(given.messages) as pipes:

        def report(line: str) -> None:
            print(line, flush=True)  # for whoever looks at the job itself
            pipes.log.info(line)

        given.output.mkdir(parents=True, exist_ok=True)
        result = work(given, RemoteRequest.model_validate_json(given.request.read_bytes()), report)
        expected = given.output / WEIGHTS_FILE
        if result.weights != expected:
            raise ValueError(f"the trainer left its weights at {result.weights}; expected {expected}")
        facts = RemoteResult(
            weights_sha256=sha256_of(result.weights),
            architecture=result.architecture,
            classes=result.classes,
            preprocessing=result.preprocessing,
            temperature=result.temperature,
            log=result.log,
            encoder=result.encoder,
        )
        pipes.report_asset_materialization(
            metadata={RESULT: {"raw_value": facts.model_dump(mode="json"), "type": "json"}},
            data_version=facts.weights_sha256[:16],
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the job."""
    return run(train, arguments, needed=("train", "images"), optional=("validation", "parent"))


def _images_of(table: Path | None) -> list[LabeledImage]:
    return from_lines((table / IMAGES_FILE).read_bytes()) if table else []


if __name__ == "__main__":
    sys.exit(main())
