"""The contract of every trainer: the same comes of a request, whether it runs here or as a job in Azure ML."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_workspace import CLASSES, TrainingBench, publish_dataset

from al_core.learning.checkpoint import sha256_of
from al_core.learning.contract import TrainingRequest, TrainingResult
from al_core.learning.inference import Predictor
from al_core.learning.torch_trainer import TorchTrainer
from al_core.records import ModelManifest, utc_now
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


def test_a_training_goes_on_from_its_parent_and_leaves_the_same_weights_wherever_it_runs(bench: TrainingBench):
    torch.set_num_threads(1)  # as in a job: sums in another order are other sums
    dataset = publish_dataset(bench.platform)
    cold = bench.request(dataset)
    parent = registered(bench.platform, cold, TorchTrainer().fit(cold, bench.report))
    bench.lines.clear()

    request = bench.request(dataset, parent=parent)
    result = bench.trainer.fit(request, bench.report)
    assert result.weights == request.output / "model.safetensors"
    assert result.architecture == "small_cnn"
    assert result.classes == CLASSES
    assert (result.log["epochs"], result.log["train_images"], result.log["validation_images"]) == (2, 16, 4)
    assert (result.log["warm_start"], result.log["parent_version"]) == (True, 1)
    assert "epoch 2/2: loss " in "\n".join(bench.lines)

    answers = Predictor.load(registered(bench.platform, request, result)).predict([Image.new("L", (8, 8))])
    assert answers.shape == (1, 2)
    expected = load_file(TorchTrainer().fit(bench.request(dataset, parent=parent), bench.report).weights)
    found = load_file(result.weights)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_data_that_cannot_be_trained_on_is_an_error_that_says_why(bench: TrainingBench):
    request = bench.request(publish_dataset(bench.platform), architecture="no_such_network")
    with pytest.raises(Exception, match="no_such_network"):
        bench.trainer.fit(request, bench.report)
