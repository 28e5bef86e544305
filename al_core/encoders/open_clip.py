"""Models of open_clip: `open_clip:NAME/TAG` as `open_clip.list_pretrained()` tells, or `open_clip:FOLDER`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_core.encoders.contract import Encoder, EncoderRequest, NoEncoder
from al_core.encoders.probing import embedding_width
from al_core.encoders.spelling import unknown_name
from al_core.encoders.torchvision import in_channels
from al_core.encoders.weight_files import file_hash, hub_folder, licence_of, read_state, weight_files
from al_core.records import EncoderRecord, Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG_FILE = "open_clip_config.json"
_SMALLEST_TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class _Published:
    """What is known of a model before any of it is built."""

    model: dict[str, Any]  # open_clip's model_cfg
    input: dict[str, Any]  # its preprocess_cfg
    hub: str = ""  # repository of the weights
    file: str = ""  # in it, where it has one name only
    folder: Path | None = None


class OpenClip:
    """CLIP and SigLIP as trained on LAION, DataComp, WebLI ...: images and texts in one space."""

    extra = "open-clip"
    package = "open_clip"

    def names(self) -> Sequence[str]:
        """All with published weights."""
        import open_clip

        return [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]

    def preprocessing(self, name: str, *, size: int | None, channels: int, weights: str) -> Preprocessing:
        """As the weights were trained."""
        from open_clip.transform import PreprocessCfg

        published = _published(name)
        defaults = PreprocessCfg()
        wanted = {"mean": defaults.mean, "std": defaults.std, "interpolation": "bicubic", "resize_mode": "shortest"}
        wanted |= {key: value for key, value in published.input.items() if key in wanted and value}
        colour = Preprocessing(
            size=size or _square(published.model["vision_cfg"].get("image_size", 224)),
            channels=3,
            mean=tuple(wanted["mean"]),
            std=tuple(wanted["std"]),
            resize=wanted["resize_mode"],
            interpolation=wanted["interpolation"],
        )
        return in_channels(colour, channels)

    def build(self, request: EncoderRequest) -> Encoder:
        """The image tower with its projection: the space in which images and texts are compared."""
        source, digest, licence = "from scratch", None, None
        try:
            if request.configuration:
                model = request.configuration
                module = _tower(model)
            else:
                published = _published(request.name)
                model = _image_part(published.model, request.size)
                if request.weights == "none":
                    module = _tower(model)
                else:
                    file, source, licence = _weights(request, published)
                    digest = file_hash([file])
                    module = _whole(published.model, request.size, file).visual
            width = embedding_width(module, request.size)
        except NoEncoder:
            raise
        except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
            raise NoEncoder(f"open_clip:{request.name} cannot be used at {request.size} pixels: {error}") from error
        record = EncoderRecord(
            family="open_clip", name=request.name, source=source, sha256=digest, licence=licence, configuration=model
        )
        return Encoder(module, width, 3, record)

    def embed_text(self, name: str, texts: Sequence[str], *, weights: str) -> torch.Tensor:
        """(T, d) unit vectors of texts."""
        import torch

        published = _published(name)
        request = EncoderRequest(name, _square(published.model["vision_cfg"].get("image_size", 224)), 3, weights)
        try:
            file, _, _ = _weights(request, published)
            model = _whole(published.model, request.size, file).eval()
            with torch.inference_mode():
                return model.encode_text(_tokens(name, published, texts), normalize=True)
        except NoEncoder:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise NoEncoder(f"the text part of open_clip:{name} cannot be used: {error}") from error


def _published(name: str) -> _Published:
    import open_clip

    if Path(name).is_dir():
        file = Path(name) / CONFIG_FILE
        try:
            described = json.loads(file.read_text())
            return _Published(described["model_cfg"], described.get("preprocess_cfg", {}), folder=Path(name))
        except FileNotFoundError as error:
            raise NoEncoder(f"{name} is no model of open_clip: it has no {CONFIG_FILE}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise NoEncoder(f"{file} cannot be used ({error!r}); was the download complete? Fetch it again") from error
    architecture, _, tag = name.rpartition("/") if "/" in name else (name, "", "")
    model = open_clip.get_model_config(architecture)
    if model is None:
        known = [f"{known}/{published}" for known, published in open_clip.list_pretrained()]
        raise unknown_name(f"model open_clip:{name}", name, known, "see open_clip.list_pretrained()")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag.lower() not in [known.lower() for known in tags]:
        raise unknown_name(f"weights open_clip:{name}", tag, tags, f"{architecture} has {', '.join(tags) or 'none'}")
    found = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if found.get("quick_gelu"):
        model = {**model, "quick_gelu": True}  # these weights were trained with that activation
    hub, _, file_name = found.get("hf_hub", "").rpartition("/")
    return _Published(model, found, hub, file_name)


def _weights(request: EncoderRequest, published: _Published) -> tuple[Path, str, str | None]:
    """The file, where it is from, and its licence."""
    if request.weights != "default":
        file = Path(request.weights)
        if not file.is_file():
            raise NoEncoder(f"training.weights: there is no file {file}; expected none, default, or a local file")
        return file, file.name, None
    if published.folder is not None:
        return weight_files(published.folder)[0], f"folder {published.folder.name}", licence_of(published.folder)
    if not published.hub:
        raise NoEncoder(
            f"open_clip:{request.name} names no weights on the hub; expected NAME/TAG as open_clip.list_pretrained() "
            "tells them, or training.weights with a local file"
        )
    file_name = published.file or "open_clip_model.safetensors"
    folder = hub_folder(published.hub, [Path(file_name).stem + ".safetensors", "*config.json"])
    if not any(folder.glob("*.safetensors")):
        folder = hub_folder(published.hub, [published.file or "open_clip_pytorch_model.bin"])
    return weight_files(folder)[0], f"hub {published.hub} {folder.name[:12]}", licence_of(folder)


def _image_part(model: dict[str, Any], size: int) -> dict[str, Any]:
    """What the image tower is built from, at another size of the picture than its own."""
    vision = {**model["vision_cfg"], "image_size": size, "timm_model_pretrained": False}
    return {"embed_dim": model["embed_dim"], "quick_gelu": model.get("quick_gelu", False), "vision_cfg": vision}


def _tower(model: dict[str, Any]) -> nn.Module:
    """The image tower alone: beside the smallest text tower there can be, which is thrown away."""
    from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg

    both = CLIP(
        embed_dim=model["embed_dim"],
        vision_cfg=CLIPVisionCfg(**model["vision_cfg"]),
        text_cfg=CLIPTextCfg(**_SMALLEST_TEXT),
        quick_gelu=model["quick_gelu"],
    )
    return both.visual


def _whole(model: dict[str, Any], size: int, file: Path) -> Any:
    """Both towers with the weights of the file; every tensor has to fit."""
    from open_clip import CLIP, CustomTextCLIP, load_checkpoint

    read_state(file)  # says what is wrong with it
    facts = {key: value for key, value in model.items() if key != "custom_text"}
    facts["vision_cfg"] = {**facts["vision_cfg"], "image_size": size, "timm_model_pretrained": False}
    text = facts["text_cfg"]
    if text.get("hf_model_name"):
        facts["text_cfg"] = {**text, "hf_model_pretrained": False}
    custom = model.get("custom_text") or "hf_model_name" in text
    network = (CustomTextCLIP if custom else CLIP)(**facts)
    load_checkpoint(network, str(file), strict=True, weights_only=True)
    return network


def _tokens(name: str, published: _Published, texts: Sequence[str]) -> torch.Tensor:
    import open_clip

    if published.folder is not None:
        context = published.model["text_cfg"].get("context_length", 77)
        return open_clip.SimpleTokenizer(context_length=context)(list(texts))
    return open_clip.get_tokenizer(name.rpartition("/")[0] or name)(list(texts))


def _square(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else max(size)
