"""The contract of every trainer: the same files come of it, whether it runs here or as a job in Azure ML."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_workspace import CLASSES, TrainingBench, publish_dataset

from al_core.checkpoint import sha256_of
from al_core.inference import Predictor
from al_core.records import ModelManifest, utc_now
from al_core.torch_trainer import TorchTrainer
from al_core.training import TrainingRequest, TrainingResult
from al_resources.platform import Platform

AZURE = "azure ml job"


@pytest.fixture(params=["in process", pytest.param(AZURE, marks=pytest.mark.live)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> TrainingBench:
    if request.param == AZURE:
        workspace = request.getfixturevalue("workspace")
        return TrainingBench(workspace.platform, workspace.platform.trainer, tmp_path)
    return TrainingBench(request.getfixturevalue("platform"), TorchTrainer(), tmp_path)


def registered(platform: Platform, request: TrainingRequest, result: TrainingResult) -> Path:
    """The result as a version of the registry, fetched as a parent is."""
    manifest = ModelManifest(
        name=platform.settings.model.name,
        version=0,
        architecture=result.architecture,
        classes=result.classes,
        preprocessing=result.preprocessing,
        temperature=result.temperature,
        dataset_version="d",
        training_key=request.key,
        code_version="test",
        labels=len(request.train),
        created_at=utc_now(),
        weights_sha256=sha256_of(result.weights),
    )
    return platform.registry.fetch(platform.registry.register(result.weights, manifest).version)


def test_a_training_leaves_weights_that_answer_and_says_how_it_went(bench: TrainingBench):
    torch.set_num_threads(1)  # as in a job: sums in another order are other sums
    request = bench.request(publish_dataset(bench.platform))
    result = bench.trainer.fit(request, bench.report)
    assert result.weights == request.output / "model.safetensors"
    assert result.architecture == "small_cnn"
    assert result.classes == CLASSES
    assert result.log["epochs"] == 2
    assert result.log["train_images"] == 16
    assert result.log["validation_images"] == 4
    assert "epoch 2/2: loss " in "\n".join(bench.lines)
    parent = registered(bench.platform, request, result)
    probs = Predictor.load(parent).predict([Image.new("L", (8, 8))])
    assert probs.shape == (1, 2)

    here = bench.request(publish_dataset(bench.platform))
    expected = load_file(TorchTrainer().fit(here, bench.report).weights)
    found = load_file(result.weights)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)  # wherever it was trained


def test_a_warm_start_goes_on_from_the_parent(bench: TrainingBench):
    dataset = publish_dataset(bench.platform, validation=0)
    cold = bench.request(dataset)
    first = bench.trainer.fit(cold, bench.report)
    parent = registered(bench.platform, cold, first)
    gentle = bench.request(dataset, parent=parent, epochs=1, incremental_learning_rate=1e-6)
    second = bench.trainer.fit(gentle, bench.report)
    assert second.log["warm_start"]
    assert second.log["parent_version"] == 1
    before, after = load_file(first.weights), load_file(second.weights)
    assert torch.allclose(before["head.weight"], after["head.weight"], atol=1e-4)


def test_data_that_cannot_be_trained_on_is_an_error_that_says_why(bench: TrainingBench):
    request = bench.request(publish_dataset(bench.platform), architecture="no_such_network")
    with pytest.raises(Exception, match="no_such_network"):
        bench.trainer.fit(request, bench.report)
