"""One run: rounds of score, select, answer, train, evaluate, by the code that runs in production.

Only people and HTTP are replaced: an oracle answers, and the model is called directly. Every random choice
follows from the run's seed and round, so all strategies of one seed share the first labels, the stream of
scored images, the training seed and the test set.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from al_core.dataset import JUDGES, Dataset, build_dataset, resolve_labels
from al_core.judging.evaluation import Evaluation, answers_of
from al_core.learning.checkpoint import MANIFEST_FILE, code_version, sha256_of, training_key
from al_core.learning.contract import LabeledImage, TrainingRequest
from al_core.learning.inference import Predictor
from al_core.learning.preprocessing import CHUNK, READERS
from al_core.learning.settings import TrainingSettings
from al_core.learning.torch_trainer import TorchTrainer
from al_core.near_duplicates import near_duplicate_hash
from al_core.records import ModelManifest, Preprocessing, prediction_table
from al_core.scored_images import ScoredImages
from al_core.selection import NOBODY, Judging, Rules, select_batch, select_seed_batch
from al_core.strategies.context import StrategyContext
from al_core.strategies.registry import get_strategy
from simulation.annotators import Oracle
from simulation.brakes import Brakes
from simulation.datasets import BadData, LabeledData
from simulation.study import STARTS, Run, Study

ROUNDS_FILE = "rounds.jsonl"
PROGRESS_FILE = "embedding.json"
TELL_AFTER = 10.0  # seconds of embedding between two lines for people
COMMITTEE = 3  # models of the last rounds whose disagreement committee strategies measure
_MODEL_NAME = "simulated"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # a simulation has no clock


@dataclass(frozen=True)
class Prepared:
    """The images of a study, decoded, hashed and where the encoder is frozen embedded, once for all runs."""

    data: LabeledData
    row: dict[str, int]  # image id -> its row in the arrays
    pixels: np.ndarray | None  # (N, channels, size, size) uint8; None where the encoder is frozen and nobody needs them
    hashes: dict[str, str | None]
    embeddings: np.ndarray | None = None  # (N, d) float32 of the frozen encoder


class Experiment:
    """A run in its folder: `rounds.jsonl`, a line per finished round, and the last checkpoints."""

    def __init__(self, study: Study, run: Run, prepared: Prepared, folder: Path, training: TrainingSettings) -> None:
        self.study, self.run, self.prepared, self.folder = study, run, prepared, folder
        data = prepared.data
        pool, test = data.split(study.split_seed(run), study.test_images, study.imbalance)
        self.pool = {image.image_id: image for image in pool}
        self.test = test
        if study.labels_needed() > len(pool):
            raise BadData(
                f"{data.name} leaves a pool of {len(pool)} images, but {study.initial} first labels and "
                f"{study.rounds} rounds of {study.budget} need {study.labels_needed()}; ask for fewer"
            )
        self.oracle = Oracle(study.oracle, data.classes, run.seed)
        self.strategy = get_strategy(run.strategy)
        self.training = training.model_copy(update=STARTS[run.start])
        self.selected: set[str] = set()
        self.scored: set[str] = set()
        self.labels: list[pa.Table] = []
        self.spent = 0.0  # seconds of people
        self.dataset: Dataset | None = None
        self._predictors: dict[int, Predictor] = {}
        self.reasons: dict[str, str] = {}
        self.accuracies: list[float] = []
        self.brakes: Brakes | None = None
        if study.deploy is not None:
            self.brakes = Brakes(study.deploy, run.seed, self._classes_of, prepared.hashes, list(self.pool))

    def resume(self) -> Iterator[dict[str, Any]]:
        """Do what is left; yields the line of each round when it is safely on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = read_rounds(self.folder / ROUNDS_FILE)
        _write_lines(self.folder / ROUNDS_FILE, done)  # without the half of a line that a crash may have left
        for line in done:
            self._replay(line)
        for round_ in range(len(done), self.study.rounds + 1):
            line = self._play(round_)
            with (self.folder / ROUNDS_FILE).open("a") as file:
                file.write(json.dumps(line) + "\n")
            kept = None if self.brakes is None else self.brakes.serving
            for old in range(round_ - COMMITTEE + 1):
                if old != kept:
                    shutil.rmtree(self._checkpoint(old), ignore_errors=True)
            yield line

    # ------------------------------------------------------------------ one round
    def _play(self, round_: int) -> dict[str, Any]:
        took: dict[str, float] = {}
        with _timed(took, "select"):
            batch = self._select(round_, took)
        took["select"] -= took.get("score", 0)
        selected = batch.column("image_id").to_pylist()
        self._answer(round_, selected, batch.column("reason").to_pylist())
        with _timed(took, "train"):
            manifest = self._train(round_)
        with _timed(took, "evaluate"):
            evaluation = self._evaluate(round_)
        labels = self._labeled()
        self.accuracies.append(evaluation.point_metrics()["accuracy"])
        return {
            "strategy": self.run.strategy,
            "start": self.run.start,
            "seed": self.run.seed,
            "round": round_,
            "selected": selected,
            "scores": batch.column("score").to_pylist(),
            "reasons": batch.column("reason").to_pylist(),
            "labels": len(labels),
            "images_asked": len(self.selected),
            "wrong_labels": sum(label != self.pool[image_id].label for image_id, label in labels.items()),
            "label_seconds": self.spent,
            **evaluation.point_metrics(),
            "recall": {name: interval.value for name, interval in evaluation.per_class().items()},
            "temperature": manifest.temperature,
            "epochs": manifest.training_log["epochs"],
            "classes_seen": len(manifest.classes),
            **self._deployed(round_),
            **{f"{part}_seconds": took.get(part, 0.0) for part in ("score", "select", "train", "evaluate")},
            "study": self.study.key,
            "data_version": self.prepared.data.version,
            "code_version": code_version(),
        }

    def _replay(self, line: dict[str, Any]) -> None:
        """Bring the state to the end of a finished round, without its model."""
        round_ = line["round"]
        if round_ and (self.brakes or not self.study.return_unselected):
            self._sample(round_)
        self._answer(round_, line["selected"], line["reasons"])
        self._build(round_)
        self.accuracies.append(line["accuracy"])
        if self.brakes:
            self.brakes.serving = line["deployed_round"]

    def _deployed(self, round_: int) -> dict[str, Any]:
        """Who serves after this round and how good it is; nobody is right in no case."""
        if self.brakes is None:
            return {}
        assert self.dataset is not None
        self.brakes.decide(round_, self.dataset, self.selected)
        serving = self.brakes.serving
        return {
            "deployed_round": serving,
            "deployed_accuracy": 0.0 if serving is None else self.accuracies[serving],
            "duels": sum(reason == "duel" for reason in self.reasons.values()),
            "judges": sum(self.dataset.manifest.counts.get(split, 0) for split in JUDGES),
        }

    def _classes_of(self, round_: int, ids: Sequence[str]) -> list[str]:
        """What the model of a round predicts."""
        predictor = self._predictor(round_)
        probs, _ = self._predict(predictor, ids)
        return [predictor.classes[place] for place in probs.argmax(axis=1)]

    def _select(self, round_: int, took: dict[str, float]) -> pa.Table:
        study = self.study
        if round_ == 0:
            # random sampling asks no embeddings from its first label on
            covers = self.prepared.embeddings is not None and self.run.strategy != "random"
            return select_seed_batch(
                {image_id: image.uri for image_id, image in self.pool.items()},
                embed=self._embeddings_of if covers else None,
                look_at=study.seed_pool,
                hash_of=self.prepared.hashes.get,
                budget=study.initial,
                near_duplicate_distance=study.near_duplicate_distance,
                seed=self._seed(0),
                round_=0,
                reserve=self.brakes.reserve if self.brakes else NOBODY,
                judging_share=self.brakes.settings.share if self.brakes else 0,
            ).table
        predictor = self._predictor(self._asking(round_))
        duels = self._duels(round_)
        with _timed(took, "score"):
            predictions = self._score(predictor, round_)
        brakes = self.brakes
        return select_batch(
            ScoredImages(predictions, brakes.reserve.part("teach") if brakes else None),
            strategy=self.strategy,
            budget=study.budget,
            rules=Rules(
                brakes.settings.control_share if brakes else study.control_share, study.near_duplicate_distance
            ),
            judging=Judging(
                ScoredImages(predictions, brakes.reserve.part("measure")) if brakes else None,
                duels=duels,
                judged=self._judged(),
            ),
            seed=self._seed(round_),
            round_=round_,
            model_version=predictor.version,
            context=self._context(predictor, round_),
        ).table

    def _embeddings_of(self, ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
        assert self.prepared.embeddings is not None
        return list(ids), self.prepared.embeddings[[self.prepared.row[image_id] for image_id in ids]]

    def _duels(self, round_: int) -> list[dict[str, Any]]:
        if self.brakes is None:
            return []
        assert self.dataset is not None
        return self.brakes.duels(round_ - 1, self.dataset, self.selected, self.study.budget)

    def _asking(self, round_: int) -> int:
        """The round of the model that selection looks with, and that training goes on from."""
        if self.brakes is None:
            return round_ - 1
        assert self.dataset is not None
        return self.brakes.asking(round_ - 1, self.dataset, self.selected)

    def _judged(self) -> dict[str, str]:
        """Near-duplicate hashes of the images that judge, by id; without brakes none of the pool does."""
        judges = self.brakes.reserve.among(sorted(self.selected)) if self.brakes else []
        return {one: found for one in judges if (found := self.prepared.hashes[one])}

    def _score(self, predictor: Predictor, round_: int) -> pa.Table:
        ids = self._sample(round_)
        probs, embeddings = self._predict(predictor, ids)
        return prediction_table(
            image_ids=ids,
            image_uris=[self.pool[image_id].uri for image_id in ids],
            image_hashes=[self.prepared.hashes[image_id] for image_id in ids],
            model_name=_MODEL_NAME,
            model_version=predictor.version,
            classes=predictor.classes,
            probs=probs,
            source="simulation",
            embeddings=embeddings if "embedding" in self.strategy.needs else None,
            logged_at=_EPOCH + timedelta(hours=round_),
        )

    def _sample(self, round_: int) -> list[str]:
        """The traffic of the round: the first images in an order that all strategies of a seed share."""
        ids = sorted(self.pool)
        order = np.random.default_rng([self.run.seed, round_]).permutation(len(ids))
        gone = self.selected if self.study.return_unselected else self.selected | self.scored
        waiting = (ids[row] for row in order if ids[row] not in gone)
        sample = [image_id for image_id, _ in zip(waiting, range(self.study.score_sample), strict=False)]
        self.scored.update(sample)
        if self.brakes:
            self.brakes.saw(round_, sample)
        return sample

    def _answer(self, round_: int, selected: Sequence[str], reasons: Sequence[str]) -> None:
        self.selected.update(selected)
        self.reasons |= dict(zip(selected, reasons, strict=True))
        if self.brakes:
            self.brakes.saw(round_, selected)
        rows, seconds = self.oracle.label([self.pool[image_id] for image_id in selected], round_)
        self.labels.append(rows)
        self.spent += seconds

    def _build(self, round_: int) -> Dataset:
        rule: Literal["majority", "latest"] = "majority" if self.study.oracle.annotators > 1 else "latest"
        self.dataset = build_dataset(
            resolve_labels(pl.DataFrame(pa.concat_tables(self.labels)), rule),
            reasons=self.reasons if self.brakes else {},
            urls={image_id: self.pool[image_id].uri for image_id in self.selected},
            hashes=self.prepared.hashes,
            parent=self.dataset,
            # without brakes the test set takes the holdout's place, and lies outside the pool
            reserve=self.brakes.reserve if self.brakes else NOBODY,
            validation_share=self.study.validation_share,
            near_duplicate_distance=self.study.near_duplicate_distance,
            round_=round_,
        )
        return self.dataset

    def _train(self, round_: int) -> ModelManifest:
        dataset = self._build(round_)
        settings = self.training.model_copy(update={"seed": self._seed(round_)})
        folder = self._checkpoint(round_)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        before = self._asking(round_) if round_ and settings.warm_start else None  # training goes on from who asks
        parent = None if before is None else self._checkpoint(before)
        request = TrainingRequest(
            train=dataset.images("train"),
            validation=dataset.images("validation"),
            classes=dataset.manifest.classes,
            settings=settings,
            read_image=self.prepared.data.read,
            output=folder,
            parent=parent,
            unlabeled=None if self.prepared.embeddings is None else self._unlabeled,
        )
        result = TorchTrainer(*self._known(request)).fit(request, lambda line: None)
        manifest = ModelManifest(
            name=_MODEL_NAME,
            version=round_ + 1,
            architecture=result.architecture,
            classes=result.classes,
            preprocessing=result.preprocessing,
            temperature=result.temperature,
            parent_version=None if before is None else before + 1,
            dataset_version=dataset.manifest.version,
            round=round_,
            training_key=training_key(
                dataset.manifest.version, None if before is None else before + 1, settings, code_version()
            ),
            training_settings=settings.model_dump(mode="json"),
            training_log=result.log,
            code_version=code_version(),
            labels=len(request.train) + len(request.validation),
            created_at=_EPOCH + timedelta(hours=round_),
            weights_sha256=sha256_of(result.weights),
            encoder=result.encoder,
        )
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
        return manifest

    def _evaluate(self, round_: int) -> Evaluation:
        predictor = self._predictor(round_)
        probs, _ = self._predict(predictor, [image.image_id for image in self.test])
        return Evaluation(answers_of(self.test, probs, predictor.classes), {})

    # ------------------------------------------------------------------ its parts
    def _predict(self, predictor: Predictor, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [self.prepared.row[image_id] for image_id in ids]
        if self.prepared.embeddings is not None:
            embeddings = self.prepared.embeddings[rows]
            return predictor.classify(embeddings), embeddings
        assert self.prepared.pixels is not None
        parts = [
            predictor.predict_pixels(torch.from_numpy(self.prepared.pixels[rows[start : start + CHUNK]]))
            for start in range(0, len(rows), CHUNK)
        ]
        probs, embeddings = zip(*parts, strict=True)
        return np.concatenate(probs), np.concatenate(embeddings)

    def _context(self, predictor: Predictor, round_: int) -> StrategyContext:
        """What strategies may need, as `al_loop.strategy_inputs` says it in production."""

        def embed(images: Sequence[LabeledImage]) -> tuple[np.ndarray, np.ndarray]:
            ids = [image.image_id for image in images]
            return np.array(ids, str), self._predict(predictor, ids)[1]

        return StrategyContext(
            classes=predictor.classes,
            dataset=lambda: self.dataset,
            labels=lambda: pl.DataFrame(pa.concat_tables(self.labels)),
            embed=embed,
            committee=lambda ids: self._committee(round_, ids),
            encoder=lambda: predictor.encoder_hash,
        )

    def _committee(self, round_: int, ids: Sequence[str]) -> np.ndarray:
        """The answers (N, T, C) of the models of the last rounds; classes an older one lacks have probability 0."""
        models = [self._predictor(number) for number in range(max(0, round_ - COMMITTEE), round_)]
        answers = [self._predict(model, ids)[0] for model in models]
        width = max(probs.shape[1] for probs in answers)
        return np.stack([np.pad(probs, ((0, 0), (0, width - probs.shape[1]))) for probs in answers], axis=1)

    def _known(self, request: TrainingRequest) -> tuple[dict[str, np.ndarray] | None, dict[str, np.ndarray]]:
        """Embeddings, where the encoder is frozen, and pixels of the images to train on, by image id."""
        row = {image.image_id: self.prepared.row[image.image_id] for image in (*request.train, *request.validation)}
        embeddings, pixels = self.prepared.embeddings, self.prepared.pixels
        return (
            None if embeddings is None else {image_id: embeddings[i] for image_id, i in row.items()},
            {} if pixels is None else {image_id: pixels[i] for image_id, i in row.items()},
        )

    def _unlabeled(self, encoder: str, most: int) -> np.ndarray:
        """Embeddings of images of the pool that teach and have no label, by the one encoder of the study.

        The same images round after round, as long as nobody labels them.
        """
        assert self.prepared.embeddings is not None
        ids = sorted(self.pool.keys() - self.selected)
        if self.brakes:
            ids = sorted(set(ids) - set(self.brakes.reserve.among(ids)))
        order = np.random.default_rng(self.run.seed).permutation(len(self.pool))
        rank = dict(zip(sorted(self.pool), order.tolist(), strict=True))
        drawn = sorted(ids, key=rank.__getitem__)[:most]
        return self.prepared.embeddings[[self.prepared.row[image_id] for image_id in drawn]]

    def _labeled(self) -> dict[str, str]:
        """Image id -> resolved label, of what takes part in training."""
        assert self.dataset is not None
        used = self.dataset.rows.filter(pl.col("split") != "excluded")
        return dict(used.select("image_id", "label").iter_rows())

    def _predictor(self, round_: int) -> Predictor:
        """The model of a round; the last ones stay loaded."""
        if round_ not in self._predictors:
            self._predictors[round_] = Predictor.load(self._checkpoint(round_), self.training.device)
            self._predictors.pop(round_ - COMMITTEE, None)
        return self._predictors[round_]

    def _checkpoint(self, round_: int) -> Path:
        return self.folder / f"model-{round_:03d}"

    def _seed(self, round_: int) -> int:
        """The same for every strategy and start of the run's seed."""
        return int(np.random.SeedSequence([self.run.seed, round_, 1]).generate_state(1)[0])


def prepare(data: LabeledData, preprocessing: Preprocessing, folder: Path) -> None:
    """Decode and hash every image once, into `folder`; the runs map the arrays from there.

    Raises:
        BadData: an image cannot be read.
    """
    from al_core.images import BadImage, decode_stored_image
    from al_core.learning.preprocessing import to_pixels

    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(data.images), preprocessing.channels, preprocessing.size, preprocessing.size)
    part = folder / "pixels.part.npy"
    pixels = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
    hashes = {}
    for row, image in enumerate(data.images):
        try:
            picture = decode_stored_image(data.read(image.uri), name=image.uri, channels=preprocessing.channels)
        except BadImage as error:
            raise BadData(f"{error}; remove it from the folder") from error
        pixels[row] = to_pixels([picture], preprocessing)[0].numpy()
        hashes[image.image_id] = near_duplicate_hash(picture)
    pixels.flush()
    (folder / "hashes.json").write_text(json.dumps(hashes))
    part.rename(folder / "pixels.npy")


def embed_once(data: LabeledData, training: TrainingSettings, folder: Path, say: Callable[[str], None]) -> None:
    """Embed and hash every image by the frozen encoder, into `folder`; no more than a chunk's pixels are held.

    Stopped at any moment, it goes on after the last chunk that was written.

    Raises:
        BadData: an image cannot be read.
        NoEncoder: the encoder cannot be had.
    """
    from al_core.learning.embedding import Embedder

    if (folder / "embeddings.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    embedder = Embedder.of_settings(training)
    total, done = len(data.images), _embedded_before(folder, embedder.encoder_hash)
    part, mode = folder / "embeddings.part.npy", "r+" if done else "w+"
    rows = np.lib.format.open_memmap(part, mode, np.float32, (total, embedder.dimension))
    hashes: dict[str, str | None] = json.loads((folder / "hashes.json").read_text()) if done else {}
    say(f"embedding {total - done:,} of {total:,} images with {training.architecture}")
    began = told = time.monotonic()
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(done, total, CHUNK):
            chunk = data.images[start : start + CHUNK]
            read = list(pool.map(lambda image: _decoded(data, image, embedder.preprocessing), chunk))
            rows[start : start + len(chunk)] = embedder.embed_pixels(torch.cat([pixels for pixels, _ in read]))
            rows.flush()
            hashes |= {image.image_id: known for image, (_, known) in zip(chunk, read, strict=True)}
            (folder / "hashes.json").write_text(json.dumps(hashes))
            _write_progress(folder, embedder.encoder_hash, start + len(chunk))
            if time.monotonic() - told > TELL_AFTER:
                told = time.monotonic()
                speed = (start + len(chunk) - done) / (told - began)
                left = (total - start - len(chunk)) / speed / 60
                say(f"{start + len(chunk):,} of {total:,} images embedded, {speed:.0f} a second, {left:.0f} min left")
    part.rename(folder / "embeddings.npy")


def _decoded(data: LabeledData, image: LabeledImage, preprocessing: Preprocessing) -> tuple[torch.Tensor, str | None]:
    from al_core.images import BadImage, decode_stored_image
    from al_core.learning.preprocessing import to_pixels

    try:
        picture = decode_stored_image(data.read(image.uri), name=image.uri, channels=preprocessing.channels)
    except BadImage as error:
        raise BadData(f"{error}; remove it from the folder") from error
    return to_pixels([picture], preprocessing), near_duplicate_hash(picture)


def _embedded_before(folder: Path, encoder: str) -> int:
    """How many images an earlier process embedded with this encoder."""
    file = folder / PROGRESS_FILE
    known = json.loads(file.read_text()) if file.exists() and (folder / "embeddings.part.npy").exists() else {}
    return int(known["images"]) if known.get("encoder") == encoder else 0


def _write_progress(folder: Path, encoder: str, images: int) -> None:
    part = folder / f"{PROGRESS_FILE}.part"
    part.write_text(json.dumps({"encoder": encoder, "images": images}))
    part.replace(folder / PROGRESS_FILE)


def load_prepared(data: LabeledData, folder: Path) -> Prepared:
    """What `prepare` left, memory-mapped."""
    embeddings, pixels = folder / "embeddings.npy", folder / "pixels.npy"
    return Prepared(
        data=data,
        row={image.image_id: row for row, image in enumerate(data.images)},
        pixels=np.load(pixels, mmap_mode="r") if pixels.exists() else None,
        hashes=json.loads((folder / "hashes.json").read_text()),
        embeddings=np.load(embeddings) if embeddings.exists() else None,
    )


def read_rounds(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a run; the half of one that a crash left at the end does not count."""
    if not file.exists():
        return []
    lines = file.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _write_lines(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    part.replace(file)


class _timed:  # noqa: N801
    """Adds the seconds of its block to `took[part]`."""

    def __init__(self, took: dict[str, float], part: str) -> None:
        self.took, self.part = took, part

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.took[self.part] = self.took.get(self.part, 0) + time.perf_counter() - self.began
