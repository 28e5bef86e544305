"""Vision models of transformers: `hf:ORG/NAME` on the Hugging Face hub, or `hf:FOLDER` as it was saved.

Configuration and weights are data. Code that a repository brings along is neither fetched nor run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_core.encoders.contract import Encoder, EncoderRequest, NoEncoder
from al_core.encoders.probing import embedding_width
from al_core.encoders.torchvision import IMAGENET_MEAN, IMAGENET_STD, in_channels
from al_core.encoders.weight_files import (
    check_complete,
    file_hash,
    hub_folder,
    licence_of,
    load_state,
    read_state,
    weight_files,
)
from al_core.records import EncoderRecord, Interpolation, Preprocessing, Resize

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG_FILE = "config.json"
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")
_WITH_TEXT = ("clip", "siglip")  # model types with a text part whose space the images share


class HuggingFace:
    """CLIP, SigLIP, DINOv2, DINOv3, ViT, ConvNeXt ...: what transformers knows by its own code."""

    extra = "hf"
    package = "transformers"

    def names(self) -> Sequence[str]:
        """The hub has too many to list."""
        return ()

    def preprocessing(self, name: str, *, size: int | None, channels: int, weights: str) -> Preprocessing:
        """As the image processor beside the model does it."""
        folder = _folder(name, ())
        config = _configuration(name, folder)
        described = next((_json(folder / file) for file in PREPROCESSOR_FILES if (folder / file).is_file()), {})
        described = described.get("image_processor", described)
        found = _input_of(described, getattr(config, "image_size", None) or 224)
        return in_channels(found.model_copy(update={"size": size}) if size else found, channels)

    def build(self, request: EncoderRequest) -> Encoder:
        """The image part only, with what it was trained to compare images by as the embedding."""
        source, digest, licence = "from scratch", None, None
        try:
            with _quiet():
                if request.configuration:
                    config = _restored(request.configuration)
                    model = _model_class(config)(config, **_options(config))
                elif request.weights == "default":
                    config = _configuration(request.name, _folder(request.name, ()))
                    folder, files = _with_weight_files(request.name)
                    check_complete(files)
                    model = _loaded(folder, config)
                    source, digest, licence = _origin(request.name, folder), file_hash(files), licence_of(folder)
                else:
                    config = _configuration(request.name, _folder(request.name, ()))
                    model = _model_class(config)(config, **_options(config))
                    if request.weights != "none":
                        file = Path(request.weights)
                        load_state(model, read_state(file), str(file))
                        source, digest = file.name, file_hash([file])
            module = _embedder(model, request.size)
            width = embedding_width(module, request.size)
        except NoEncoder:
            raise
        except (RuntimeError, AssertionError, TypeError, ValueError, OSError) as error:
            raise NoEncoder(f"hf:{request.name} cannot be used at {request.size} pixels: {error}") from error
        record = EncoderRecord(
            family="hf",
            name=request.name,
            source=source,
            sha256=digest,
            licence=licence,
            configuration=json.loads(config.to_json_string(use_diff=False)) | {"model_type": config.model_type},
        )
        return Encoder(module, width, 3, record)

    def embed_text(self, name: str, texts: Sequence[str], *, weights: str) -> torch.Tensor:
        """(T, d) unit vectors of texts, for CLIP and SigLIP. Raises `NoEncoder` for all others."""
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        folder = _folder(name, ("*.safetensors", *_TOKENIZER))
        kind = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
        if kind not in _WITH_TEXT or weights != "default":
            raise NoEncoder(
                f"hf:{name} ({kind}, weights {weights}) knows no text; search by pictures, or take an encoder of CLIP "
                "or SigLIP with its published weights"
            )
        try:
            with _quiet():
                model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            # SigLIP learned from texts padded to their full length
            padding = "max_length" if kind == "siglip" else True
            with torch.inference_mode():
                tokens = tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
                found = model.get_text_features(**tokens)
        except (OSError, ValueError, RuntimeError) as error:
            raise NoEncoder(f"the text part of hf:{name} cannot be used: {error}") from error
        vectors = found if isinstance(found, torch.Tensor) else found.pooler_output
        return torch.nn.functional.normalize(vectors)


def _embedder(model: nn.Module, size: int) -> nn.Module:
    """`model` as images in, embeddings out; its tensors keep their names below `model.`."""
    import inspect

    from torch import nn

    takes = inspect.signature(model.forward).parameters
    resize = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
    if getattr(model.config, "image_size", size) == size:
        resize = {}
    has_class_token = any(name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters())

    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answer = self.model(pixel_values=images, **resize)
            pooled = getattr(answer, "image_embeds", None)
            if pooled is None:
                pooled = getattr(answer, "pooler_output", None)
            if pooled is not None:
                return pooled.flatten(1)
            states = answer.last_hidden_state
            if states.ndim == 4:  # a map of features
                return states.mean(dim=(2, 3))
            return states[:, 0] if has_class_token else states.mean(dim=1)

    return Embedder()


def _folder(name: str, patterns: Sequence[str]) -> Path:
    return Path(name) if Path(name).is_dir() else hub_folder(name, patterns)


def _with_weight_files(name: str) -> tuple[Path, list[Path]]:
    folder = _folder(name, ("model*.safetensors",))
    if not Path(name).is_dir() and not any(folder.glob("*.safetensors")):
        folder = _folder(name, ("pytorch_model*.bin",))
    return folder, weight_files(folder)


def _origin(name: str, folder: Path) -> str:
    return f"folder {folder.name}" if Path(name).is_dir() else f"hub {name} {folder.name[:12]}"


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise NoEncoder(f"{file} is no JSON ({error}); was the download complete? Fetch it again") from error
    if not isinstance(found, dict):
        raise NoEncoder(f"{file} is no configuration; expected a JSON object")
    return found


def _configuration(name: str, folder: Path) -> Any:
    """The configuration of the image part."""
    from transformers import AutoConfig

    if not (folder / CONFIG_FILE).is_file():
        raise NoEncoder(f"hf:{name} is no model of transformers: there is no {CONFIG_FILE} in {folder}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        kind = _json(folder / CONFIG_FILE).get("model_type")
        raise NoEncoder(
            f"hf:{name} is a {kind!r}, which this version of transformers does not know by its own code, and code from "
            "a repository is never run; take a newer transformers, or another model"
        ) from error
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return config
    if hasattr(config, "projection_dim"):
        vision.projection_dim = config.projection_dim
    return vision


def _restored(configuration: dict[str, Any]) -> Any:
    """The configuration that a manifest holds."""
    from transformers import AutoConfig

    facts = dict(configuration)
    return AutoConfig.for_model(facts.pop("model_type"), **facts)


def _model_class(config: Any) -> Any:
    """The class of the image part.

    Raises:
        NoEncoder: it takes something else than pictures of one size.
    """
    from transformers import AutoModel, CLIPVisionModelWithProjection

    if config.model_type == "clip_vision_model":
        return CLIPVisionModelWithProjection
    found: Any = AutoModel._model_mapping.get(type(config), None)
    if isinstance(found, tuple):
        found = found[0]
    if found is None or found.main_input_name != "pixel_values" or config.model_type.startswith("siglip2"):
        raise NoEncoder(
            f"a model of the type {config.model_type!r} does not turn pictures of one size into embeddings; take a "
            "vision model like facebook/dinov2-small, google/siglip-base-patch16-224 or openai/clip-vit-base-patch32"
        )
    return found


def _options(config: Any) -> dict[str, Any]:
    """Without the layer after the class token: few checkpoints hold it, and it was learned for something else."""
    import inspect

    found = inspect.signature(_model_class(config).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in found else {}


def _loaded(folder: Path, config: Any) -> nn.Module:
    """The image part filled from a folder; every tensor of it has to be there."""
    import torch

    model, found = _model_class(config).from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        dtype=torch.float32,
        **_options(config),
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise NoEncoder(
            f"the weights in {folder} are of another model: {len(missing)} tensors of a {config.model_type} are "
            f"missing, like {missing[0]}"
        )
    return model


def _input_of(described: dict[str, Any], image_size: int | Sequence[int]) -> Preprocessing:
    """What an image processor's description means, in our terms."""
    default = image_size if isinstance(image_size, int) else max(image_size)
    resized, resize = _size_of(described.get("size"), default)
    if not described.get("do_resize", True):
        resized, resize = default, "squash"
    size, crop = resized, 1.0
    if described.get("do_center_crop") and described.get("crop_size"):
        size, _ = _size_of(described["crop_size"], default)
        crop = min(1.0, size / resized)
        if resize == "squash" and crop < 1:
            raise NoEncoder("an image processor that squeezes a picture and then crops it is not known here")
    elif described.get("crop_pct") and resize == "shortest" and resized < 384:  # as ConvNeXt means it
        crop = float(described["crop_pct"])
    scale = 255 * float(described.get("rescale_factor", 1 / 255)) if described.get("do_rescale", True) else 255.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if described.get("do_normalize", True):
        mean = tuple(described.get("image_mean") or IMAGENET_MEAN)
        std = tuple(described.get("image_std") or IMAGENET_STD)
    return Preprocessing(
        size=size,
        channels=3,
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        resize=resize,
        crop=crop,
        interpolation=_INTERPOLATIONS[int(described.get("resample", 2))],
    )


def _size_of(size: Any, default: int) -> tuple[int, Resize]:
    if size is None:
        return default, "squash"
    if isinstance(size, int):
        return size, "squash"
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), "shortest"
    return int(size.get("height", default)), "squash"


@contextmanager
def _quiet() -> Iterator[None]:
    """No reports and progress bars of transformers: what is wrong is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
