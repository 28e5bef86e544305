"""What a loaded checkpoint promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from trained import Files, fit, settings

from al_core.images import decode_image
from al_core.learning import inference
from al_core.learning.checkpoint import BadCheckpoint, sha256_of
from al_core.learning.inference import Predictor
from al_core.learning.preprocessing import normalise, to_pixels
from al_core.records import ModelManifest, Preprocessing


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    files = Files()
    folder = tmp_path_factory.mktemp("checkpoint")
    fit(files, files.patterns(12), folder, settings=settings(epochs=10))
    images = [decode_image(files.read(image.uri), channels=1) for image in files.patterns(10, seed=5)]
    return folder, images


def edit_manifest(folder, **changes):
    file = folder / "manifest.json"
    manifest = ModelManifest.model_validate_json(file.read_text())
    file.write_text(manifest.model_copy(update=changes).model_dump_json())


@pytest.fixture
def copied(checkpoint, tmp_path):
    for file in checkpoint[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_it_answers_with_distributions_and_embeddings(checkpoint):
    predictor = Predictor.load(checkpoint[0])
    probs, embeddings = predictor.predict_with_embeddings(checkpoint[1])
    assert probs.shape == (20, 2)
    assert probs.dtype == embeddings.dtype == np.float32
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert embeddings.shape == (20, predictor.dimension)
    assert (predictor.name, predictor.version, predictor.classes) == ("classifier", 1, ("across", "down"))
    assert (probs.argmax(axis=1) == [0] * 10 + [1] * 10).mean() > 0.9


def test_the_answer_does_not_depend_on_the_company(checkpoint, monkeypatch):
    predictor = Predictor.load(checkpoint[0])
    together = predictor.predict(checkpoint[1])
    monkeypatch.setattr(inference, "BATCH_VALUES", 3 * 64)
    small = Predictor.load(checkpoint[0])
    assert np.allclose(small.predict(checkpoint[1]), together, atol=1e-5)


def test_no_image_gives_no_row(checkpoint):
    probs, embeddings = Predictor.load(checkpoint[0]).predict_with_embeddings([])
    assert probs.shape == (0, 2)
    assert embeddings.shape[0] == 0


def test_colour_and_size_are_brought_to_what_the_model_wants(checkpoint):
    predictor = Predictor.load(checkpoint[0])
    grey = checkpoint[1][0]
    assert np.allclose(predictor.predict([grey.convert("RGB")]), predictor.predict([grey]), atol=0.02)
    assert predictor.predict([Image.new("RGB", (300, 40))]).shape == (1, 2)


def test_threads_share_a_predictor(checkpoint):
    predictor = Predictor.load(checkpoint[0])
    expected = predictor.predict(checkpoint[1])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: predictor.predict(checkpoint[1]), range(12)))
    assert all(np.allclose(answer, expected, atol=1e-6) for answer in answers)


def test_the_temperature_flattens_the_distribution(copied, checkpoint):
    sharp = Predictor.load(copied).predict(checkpoint[1])
    edit_manifest(copied, temperature=4.0)
    flat = Predictor.load(copied).predict(checkpoint[1])
    assert flat.max(axis=1).mean() < sharp.max(axis=1).mean()
    assert np.array_equal(flat.argmax(axis=1), sharp.argmax(axis=1))


def test_changed_weights_are_refused(copied):
    tensors = load_file(copied / "model.safetensors")
    tensors["head.bias"] += 1
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"classifier v1 says .* fetch the version again"):
        Predictor.load(copied)


def test_missing_and_unexpected_tensors_are_named(copied):
    tensors = load_file(copied / "model.safetensors")
    tensors["head.extra"] = tensors.pop("head.bias")
    save_file(tensors, copied / "model.safetensors")
    edit_manifest(copied, weights_sha256=sha256_of(copied / "model.safetensors"))
    with pytest.raises(BadCheckpoint, match=r"head\.bias is missing; head\.extra is unexpected"):
        Predictor.load(copied)


def test_a_file_that_is_no_safetensors_is_refused(copied):
    torch.save({}, copied / "model.safetensors")
    edit_manifest(copied, weights_sha256=sha256_of(copied / "model.safetensors"))
    with pytest.raises(BadCheckpoint, match="is no safetensors file"):
        Predictor.load(copied)


def test_an_architecture_that_is_not_known_is_named(copied):
    edit_manifest(copied, architecture="resnet81")
    with pytest.raises(BadCheckpoint, match="unknown architecture 'resnet81'"):
        Predictor.load(copied)


@pytest.mark.parametrize("missing", ["model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(copied, missing):
    (copied / missing).unlink()
    with pytest.raises(BadCheckpoint, match=missing):
        Predictor.load(copied)


def test_a_manifest_that_is_none_is_refused(copied):
    (copied / "manifest.json").write_text('{"name": "x"}')
    with pytest.raises(BadCheckpoint, match="is no model manifest"):
        Predictor.load(copied)


def test_pixels_are_scaled_then_normalised():
    preprocessing = Preprocessing(size=8, channels=3, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    pixels = to_pixels([Image.new("RGB", (8, 8), (255, 0, 51))], preprocessing)
    values = normalise(pixels, preprocessing)[0, :, 0, 0]
    assert values.tolist() == pytest.approx([1.0, -1.0, 0.2])
