"""All runs of a study: in parallel, resumable, into one tidy table.

A study's folder: `study.json`; `images/` (decoded once); `runs/<strategy>-<start>-<seed>/rounds.jsonl`, a line
per finished round; `results.parquet`, `results.csv` and `recall.parquet`, made of those lines.
Killed at any moment and started again, it goes on after the last finished rounds.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from al_core.errors import ActiveLearningError
from al_core.learning.settings import TrainingSettings
from al_core.shown_text import without_formulas
from simulation.annotators import Oracle
from simulation.datasets import BadData, LabeledData, load_data
from simulation.study import Run, Study

STUDY_FILE = "study.json"
NOT_TIDY = ("selected", "scores", "reasons", "recall")
POLL_SECONDS = 0.5


class StudyMismatch(ActiveLearningError, ValueError):
    """The folder holds another study than the one asked for."""


class RunsFailed(ActiveLearningError, RuntimeError):
    """Some runs stopped with an error; what they finished is kept."""


def run_study(
    study: Study,
    folder: Path,
    *,
    only: Run | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> pl.DataFrame:
    """Do what is left of a study; returns its tidy table, one row per strategy, start, seed and round.

    Args:
        study: What to do. More strategies, starts or seeds than the folder has seen are added to it.
        folder: Where everything lies.
        only: The one run to do; without it all that are left.
        workers: Processes; by default as many as there are cores, or one with a GPU. One means this process.
        progress: Called with the rounds that are done and those there are.
        say: Takes a line for people.

    Raises:
        StudyMismatch: the folder holds another study.
        BadData: the images cannot be simulated on, or are too few.
        RunsFailed: some runs stopped with an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = _claim(study, folder)
    data = load_data(study.data)
    for note in data.notes:
        say(note)
    runs = study.runs() if only is None else [only]
    _check_fits(study, data, {study.split_seed(run) for run in runs})
    _prepare(study, data, folder, say)
    total = len(runs) * (study.rounds + 1)
    count = workers or default_workers(study.training.device)
    done = sum(_finished(folder, run) for run in runs)
    progress(done, total)
    left = [run for run in runs if _finished(folder, run) < study.rounds + 1]
    if left:
        _work(study, folder, left, min(count, len(left)), lambda: progress(_all_finished(folder, runs), total))
    return write_tables(folder, [run for run in study.runs() if _finished(folder, run)])


def default_workers(device: str) -> int:
    """As many processes as cores, but one where a GPU does the work."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_tables(folder: Path, runs: Iterable[Run]) -> pl.DataFrame:
    """Collect the finished rounds into `results.parquet`, `results.csv` and `recall.parquet`."""
    from simulation.experiment import ROUNDS_FILE, read_rounds

    rows, recalls = [], []
    for run in runs:
        for line in read_rounds(_folder_of(folder, run) / ROUNDS_FILE):
            rows.append({name: value for name, value in line.items() if name not in NOT_TIDY})
            keys = {name: line[name] for name in ("strategy", "start", "seed", "round", "labels")}
            recalls += [keys | {"class": name, "recall": value} for name, value in line["recall"].items()]
    table = pl.DataFrame(rows, infer_schema_length=None).sort("strategy", "start", "seed", "round")
    table.write_parquet(folder / "results.parquet")
    without_formulas(table).write_csv(folder / "results.csv")
    pl.DataFrame(recalls).write_parquet(folder / "recall.parquet")
    return table


def load_study(folder: Path) -> Study:
    """The study that a folder holds. Raises `StudyMismatch` where it holds none."""
    file = folder / STUDY_FILE
    if not file.exists():
        raise StudyMismatch(f"{folder} holds no study: there is no {STUDY_FILE}")
    return Study.model_validate_json(file.read_text())


def _claim(study: Study, folder: Path) -> Study:
    """Write the study down; where the folder holds its beginning, the study grown by what is new."""
    file = folder / STUDY_FILE
    if file.exists():
        there = load_study(folder)
        if there.key != study.key:
            ours, theirs = study.model_dump(mode="json"), there.model_dump(mode="json")
            changed = [
                f"{name} is {theirs[name]!r} there and {ours[name]!r} now"
                for name in ours
                if name not in ("strategies", "starts", "seeds") and ours[name] != theirs[name]
            ]
            raise StudyMismatch(f"{folder} holds another study: {'; '.join(changed)}; choose another --output")
        study = study.model_copy(
            update={
                "strategies": tuple(dict.fromkeys((*there.strategies, *study.strategies))),
                "starts": tuple(dict.fromkeys((*there.starts, *study.starts))),
                "seeds": max(there.seeds, study.seeds),
            }
        )
    file.write_text(study.model_dump_json(indent=1))
    return study


def _check_fits(study: Study, data: LabeledData, seeds: Iterable[int]) -> None:
    """Fail before the first round, not in the last."""
    Oracle(study.oracle, data.classes, seed=0)
    pool = min(len(data.split(seed, study.test_images, study.imbalance)[0]) for seed in seeds)
    if study.labels_needed() > pool:
        raise BadData(
            f"{data.name} leaves a pool of {pool} images beside the test set, but {study.initial} first "
            f"labels and {study.rounds} rounds of {study.budget} need {study.labels_needed()}; ask for fewer"
        )


def _prepare(study: Study, data: LabeledData, folder: Path, say: Callable[[str], None]) -> None:
    """Decode the images, learn the encoder and embed, each unless it was done; one process at a time."""
    from filelock import FileLock

    with FileLock(folder / ".prepare.lock"):
        _prepare_alone(study, data, folder, say)


def _prepare_alone(study: Study, data: LabeledData, folder: Path, say: Callable[[str], None]) -> None:
    from al_core.learning.networks import preprocessing_for
    from simulation.experiment import prepare

    training = study.training
    preprocessing = preprocessing_for(
        training.architecture,
        size=training.image_size,
        channels=training.channels,
        weights=training.initial_weights,
        crop=training.crop,
    )
    images = folder / "images"
    if training.frozen and study.pretrain is None:  # nobody needs the pixels
        from simulation.experiment import embed_once

        embed_once(data, training, images, say)
        return
    if not (images / "pixels.npy").exists():
        say(f"decoding {len(data.images)} images")
        prepare(data, preprocessing, images)
    if study.pretrain is not None:
        from simulation.pretraining import pretrain_on_pool

        pretrain_on_pool(study, data, preprocessing, folder, say)
    if training.frozen and not (images / "embeddings.npy").exists():
        from simulation.pretraining import embed_all

        say(f"embedding {len(data.images)} images")
        embed_all(_training(study, folder), preprocessing, images)


def _training(study: Study, folder: Path) -> TrainingSettings:
    """The study's training settings, with the encoder that was learned on the pool where there is one."""
    if study.pretrain is None:
        return study.training
    from simulation.pretraining import ENCODER_FILE

    return study.training.model_copy(update={"weights": str(folder / ENCODER_FILE)})


def _work(study: Study, folder: Path, runs: list[Run], workers: int, tick: Callable[[], None]) -> None:
    failed: dict[str, str] = {}
    if workers == 1:
        for run in runs:
            try:
                _run_one(study, run, folder, None, tick)
            except (ValueError, OSError, RuntimeError) as error:
                failed[run.name] = f"{type(error).__name__}: {error}"
    else:
        failed = _in_processes(study, folder, runs, workers, tick)
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunsFailed(f"{len(failed)} of {len(runs)} runs stopped:\n{listed}")


def _in_processes(
    study: Study, folder: Path, runs: list[Run], workers: int, tick: Callable[[], None]
) -> dict[str, str]:
    failed: dict[str, str] = {}
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, spawn) as pool:
        futures: dict[Future[None], Run] = {pool.submit(_run_one, study, run, folder, os.getpid()): run for run in runs}
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            tick()
            for future in ended:
                if error := future.exception():
                    failed[futures[future].name] = f"{type(error).__name__}: {error}"
    return failed


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sums of floats depend on how many threads share them: a run has the same number wherever it goes on."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_data_of_worker: dict[str, LabeledData] = {}


def _run_one(study: Study, run: Run, folder: Path, parent: int | None, tick: Callable[[], None] = lambda: None) -> None:
    """One run; in a worker process it ends with its `parent`, the process that asked for it."""
    from filelock import FileLock

    from simulation.experiment import Experiment, load_prepared

    if study.data not in _data_of_worker:
        _data_of_worker[study.data] = load_data(study.data)
    prepared = load_prepared(_data_of_worker[study.data], folder / "images")
    place = _folder_of(folder, run)
    place.mkdir(parents=True, exist_ok=True)
    # a worker that outlived a killed parent finishes its round first
    with FileLock(place / ".lock"), _threads(study.threads):
        for _ in Experiment(study, run, prepared, place, _training(study, folder)).resume():
            tick()
            if parent is not None and os.getppid() != parent:
                return


def _folder_of(folder: Path, run: Run) -> Path:
    return folder / "runs" / run.name


def _finished(folder: Path, run: Run) -> int:
    from simulation.experiment import ROUNDS_FILE

    file = _folder_of(folder, run) / ROUNDS_FILE
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _all_finished(folder: Path, runs: Iterable[Run]) -> int:
    return sum(_finished(folder, run) for run in runs)
