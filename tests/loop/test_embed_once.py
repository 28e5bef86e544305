"""Embed once: what a frozen encoder made of an image is kept, and it never sees that image again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from al_assets import views
from al_cli.digits import digit_pngs
from al_cli.embed import embed as command
from al_core.errors import GiveUp
from al_core.images import content_id
from al_core.learning.checkpoint import save_weights
from al_core.learning.networks import Classifier, build_network
from al_core.learning.settings import TrainingSettings
from al_core.records import utc_now
from al_loop import embedded_before, embedding
from al_loop.answering import predictor_of
from al_loop.claims import check_claims
from al_loop.deploying import decide, deploy
from al_loop.embedding import embed_files, embedder_of, fill
from al_loop.embedding_map import map_of
from al_loop.forgetting import forget
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.scoring import score, score_pool
from al_loop.searching import Query, find
from al_loop.selecting import Wishes, choose, preview, stage
from al_loop.training import train_challenger, unlabeled_embeddings
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.prediction_store.referring import engine_of
from al_resources.settings import (
    DeploymentSettings,
    HoldoutSettings,
    LabelingSettings,
    SelectionSettings,
    ServingSettings,
    Settings,
)
from al_serving.batch import NamedFile
from al_serving.collector import Collector
from al_serving.payloads import SentImage
from al_serving.scoring import Scorer

PNGS = digit_pngs()[:260]
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


def quiet(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding")


@pytest.fixture(scope="module")
def platform(home: Path) -> Platform:
    """A home with pictures and a frozen encoder that somebody else trained, say."""
    torch.manual_seed(0)
    network = build_network("small_cnn", classes=2, size=16, channels=1)
    save_weights(network, home / "encoder.safetensors")
    platform = Platform(
        Settings(
            home=home,
            labeling=LabelingSettings(
                project="oracle", oracle_labels=str(home / "truth.json"), classes=tuple("0123456789")
            ),
            selection=SelectionSettings(initial_budget=80, budget=10, pool_scoring_limit=150),
            holdout=HoldoutSettings(reserve=0.3, share=0.3, validation_share=0.1),
            training=TrainingSettings(
                architecture="small_cnn", image_size=16, channels=1, frozen=True,
                weights=str(home / "encoder.safetensors"),
            ),
            deployment=DeploymentSettings(watch_seconds=0),
        )
    )  # fmt: skip
    (home / "truth.json").write_text(json.dumps({platform.images.put(png).image_id: label for png, label in PNGS}))
    return platform


@pytest.fixture
def asked(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the table was asked about, call by call."""
    calls: list[int] = []
    whole = platform.embeddings.known

    def counted(encoder: str, image_ids: Sequence[str]) -> np.ndarray:
        calls.append(len(image_ids))
        return whole(encoder, image_ids)

    monkeypatch.setattr(platform.embeddings, "known", counted)
    return calls


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the encoder looked at, call by call; empty ones, by which its latency is measured, apart."""
    calls: list[int] = []
    whole = Classifier.embed

    def counted(network: Classifier, images: torch.Tensor) -> torch.Tensor:
        if len(images.unique()) > 1:
            calls.append(len(images))
        return whole(network, images)

    monkeypatch.setattr(Classifier, "embed", counted)
    return calls


def al_embed(*arguments: str) -> dict[str, Any]:
    found = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    answer: dict[str, Any] = json.loads(found.output)
    return answer


class TestARoundOfAFrozenEncoder:
    """In this order: each test goes on where the one before stopped."""

    def test_al_embed_embeds_the_store_and_goes_on_where_it_was_stopped(
        self, platform: Platform, seen: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("al_cli.embed.open_platform", lambda: platform)
        monkeypatch.setattr(embedding, "PAGE", 100)

        class Killed(Exception):
            """After the first page."""

        def dies(done: int, total: int) -> None:
            raise Killed

        with pytest.raises(Killed):
            embedding.embed_store(platform, embedder_of(platform), dies)
        assert sum(seen) == 100
        assert al_embed()["embedded"] == 160
        assert sum(seen) == 260
        assert al_embed()["known"] == 260
        assert platform.embeddings.counts() == {embedder_of(platform).encoder_hash: 260}

    def test_the_first_round_its_training_its_judging_and_the_pool_ask_the_encoder_nothing(
        self, platform: Platform, seen: list[int]
    ) -> None:
        chosen, facts = choose(platform, 0, Wishes(), quiet)
        assert facts["first images"] == "those that teach cover what small_cnn tells apart"
        stage(platform, 0, chosen, quiet)
        assert isinstance(platform.labeling, OracleLabeling)
        platform.labeling.answer(0)
        merge_exports(platform, "", quiet)
        said: list[str] = []
        manifest = train_challenger(platform, publish_dataset(platform, 0), run_id="run", log=said.append)
        assert manifest.training_log["unlabeled_images"] is not None
        better = decide(platform, manifest).deploy
        assert better is not None
        assert seen == []
        deploy(platform, better, run_id="run", log=quiet)  # which asks the service a few pictures, to hear it answer
        seen.clear()
        scored = score_pool(platform, log=said.append)
        assert scored is not None
        assert scored.scored == 150
        assert any("150 of them by the embeddings that small_cnn made of them before" in line for line in said)
        assert seen == []

    def test_what_was_scored_by_embedding_is_what_the_pictures_would_have_brought(self, platform: Platform) -> None:
        rows = platform.predictions.rows_of([content_id(png) for png, _ in PNGS])
        assert rows.num_rows == 150
        assert rows["image_hash"].null_count == 0, "near-duplicates are told apart by it"
        one = rows.slice(0, 1).to_pylist()[0]
        predictor = predictor_of(platform, 1)
        from al_core.images import decode_stored_image

        picture = decode_stored_image(platform.images.read(one["image_uri"]), channels=1)
        assert one["probs"] == pytest.approx(predictor.predict([picture])[0].tolist(), abs=0.01)

    def test_the_prediction_log_embeds_what_came_in_since_and_asks_about_nothing_else(
        self, platform: Platform, seen: list[int], asked: list[int]
    ) -> None:
        assert fill(platform, log=quiet) == 0
        assert sum(asked) == 260, "the first look is at all"
        new = [platform.images.put(png).image_id for png, _ in digit_pngs()[260:270]]
        asked.clear()
        assert fill(platform, log=quiet) == 10
        assert sum(seen) == 10
        assert sum(asked) == 10 + 10, "and once more when they are added"
        asked.clear()
        assert fill(platform, log=quiet) == 0
        assert sum(asked) == 0
        assert platform.embeddings.known(embedder_of(platform).encoder_hash, new).all()

    @pytest.mark.parametrize("spoiled", [b"", b"PK half", None], ids=["empty", "half", "gone"])
    def test_what_is_written_down_of_it_is_believed_only_whole(
        self, platform: Platform, asked: list[int], spoiled: bytes | None
    ) -> None:
        (noted,) = (blob.path for blob in platform.blobs.list(embedded_before.FOLDER))
        platform.blobs.delete(noted)
        if spoiled is not None:
            platform.blobs.write(noted, spoiled)
        assert fill(platform, log=quiet) == 0
        assert sum(asked) == platform.images.count()

    def test_an_embedding_that_got_lost_is_named_and_made_again_though_others_came_in(
        self, platform: Platform, seen: list[int]
    ) -> None:
        encoder, (gone, *_) = embedder_of(platform).encoder_hash, platform.images.ids()
        platform.embeddings.erase([gone])
        platform.images.put(digit_pngs()[270][0])
        embed_files(platform, embedder_of(platform), [NamedFile("new.png", lambda: digit_pngs()[270][0])])
        said: list[str] = []
        seen.clear()
        assert fill(platform, log=said.append) == 1
        assert any(
            f"has lost what small_cnn made of 1 images ({gone}): they are embedded again" in line for line in said
        )
        assert sum(seen) == 1
        assert platform.embeddings.known(encoder, [gone]).all()

    def test_scoring_a_folder_embeds_what_is_new_and_keeps_it(
        self, platform: Platform, seen: list[int], tmp_path: Path
    ) -> None:
        new = [png for png, _ in digit_pngs()[280:283]]
        for number, png in enumerate([PNGS[0][0], *new]):
            (tmp_path / f"{number}.png").write_bytes(png)
        summary = score(platform, folder=tmp_path, key="once", log=quiet)
        assert summary is not None
        assert (summary.scored, sum(seen)) == (4, 3)
        encoder = embedder_of(platform).encoder_hash
        kept = platform.embeddings.read(encoder, [content_id(png) for png in new])
        assert kept.known.all()
        assert None not in kept.image_hashes
        logged = platform.predictions.rows_of([content_id(new[0])], ["probs"])["probs"][0].as_py()
        assert logged == pytest.approx(predictor_of(platform, 1).classify(kept.embeddings[:1])[0].tolist(), abs=1e-6)

    def test_what_a_service_made_is_kept_when_its_spool_is_emptied_and_the_log_refers_to_it(
        self, platform: Platform, seen: list[int]
    ) -> None:
        logging = Platform(platform.settings.model_copy(update={"serving": ServingSettings(log_embeddings=True)}))
        png, encoder = digit_pngs()[290][0], embedder_of(platform).encoder_hash
        assert logging.registry.manifest(1).encoder_hash == encoder
        with Collector.of(logging) as collector:
            service = Scorer.of(logging, logging.registry.fetch(1), collector)
            service.answer([service.read(SentImage("a.png", png), "online")], "online")
            assert collector.flush()
        kept = logging.embeddings.read(encoder, [content_id(png)])
        assert kept.known.all()
        assert engine_of(logging.predictions).rows_of([content_id(png)])["embedding"].null_count == 1
        read = logging.predictions.rows_of([content_id(png)], ["embedding"])["embedding"][0].as_py()
        assert read == kept.embeddings[0].tolist()
        assert fill(logging, log=quiet) == 0
        assert sum(seen) == 1, "nothing is embedded again"

    def test_selection_search_and_drift_read_embeddings_though_the_service_logs_none(self, platform: Platform) -> None:
        chosen, _ = preview(platform, Wishes(strategy="k_center_greedy", budget=5))
        assert chosen.height == 5
        found = find(platform, Query(class_name="3"), 5)
        assert (found.rows.height, found.left_out) == (5, 0)
        window = (MIDNIGHT, utc_now() + timedelta(days=1))
        name = platform.settings.model.name
        sample = platform.predictions.sample(name, 1, *window, 50, ["embedding"], seed=0)
        assert (sample.num_rows, sample["embedding"].null_count) == (50, 0)

    def test_images_without_a_label_teach_though_the_log_has_no_embedding(self, platform: Platform) -> None:
        encoder = embedder_of(platform).encoder_hash
        found = unlabeled_embeddings(platform, 1, encoder, 50)
        assert found.shape == (50, predictor_of(platform, 1).dimension)
        assert len(unlabeled_embeddings(platform, 1, "another encoder", 50)) == 0

    def test_the_map_shows_what_is_labeled_and_what_waits_though_the_log_has_no_embedding(
        self, platform: Platform, seen: list[int]
    ) -> None:
        dataset = platform.datasets.latest()
        assert dataset is not None
        views.embedding_map(platform, 0, dataset)
        page = platform.blobs.read("reports/0000/embedding_map.html").decode()
        points = map_of(platform, dataset)
        assert points is not None
        labeled = dict(zip(points.image_ids, points.labels, strict=True))
        assert {image_id for image_id, label in labeled.items() if label} == set(dataset.rows["image_id"])
        assert page.count("<circle") == len(labeled) > dataset.rows.height
        assert "script" not in page
        assert not re.search(r"(?:src|href|url)\s*[=(]", page), "nothing outside is asked for"
        assert seen == []

    def test_what_is_forgotten_has_no_embedding_either_and_is_not_embedded_again(self, platform: Platform) -> None:
        png = PNGS[7][0]
        assert forget(platform, content_id(png))["embeddings"] == 1
        summary = embed_files(platform, embedder_of(platform), [NamedFile("gone.png", lambda: png)])
        assert (summary.embedded, summary.known) == (0, 0)
        assert platform.embeddings.rows_of([content_id(png)]) == 0
        assert not platform.blobs.exists("reports/0000/embedding_map.html"), "it names every image on it"
        assert not list(platform.blobs.list(embedded_before.FOLDER))
        assert fill(platform, log=quiet) == 0
        assert [claim.contradictions for claim in check_claims(platform) if not claim.holds] == []


def test_a_folder_is_embedded_though_it_is_not_in_the_store_and_what_is_no_picture_is_named(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_cli.embed.open_platform", lambda: platform)
    png = digit_pngs()[300][0]
    for name, data in {"a.png": png, "b.png": png, "c.png": png[:40]}.items():
        (tmp_path / name).write_bytes(data)
    done = al_embed(str(tmp_path))
    assert (done["images"], done["embedded"], list(done["refused"])) == (3, 1, ["c.png"])
    assert not platform.images.exists(content_id(png))


def test_an_encoder_that_has_learned_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GiveUp, match=r"'small_cnn' begins from nothing.*al encoders"):
        embedder_of(Platform(Settings(home=tmp_path)))
