"""Models of timm: `timm:NAME` as `timm.list_models()` tells, or `timm:FOLDER` as it saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_core.encoders.contract import Encoder, EncoderRequest, NoEncoder
from al_core.encoders.probing import embedding_width
from al_core.encoders.spelling import unknown_name
from al_core.encoders.torchvision import in_channels
from al_core.encoders.weight_files import file_hash, hub_folder, licence_of, read_state, weight_files
from al_core.records import EncoderRecord, Interpolation, Preprocessing, Resize

if TYPE_CHECKING:
    from torch import nn

CONFIG_FILE = "config.json"
_RESIZE: dict[str, Resize] = {"center": "shortest", "squash": "squash", "border": "longest"}


class Timm:
    """Vision transformers, DINOv2 and DINOv3, EfficientNets, ConvNeXts ...: over a thousand with their weights."""

    extra = "timm"
    package = "timm"

    def names(self) -> Sequence[str]:
        """All with published weights."""
        import timm

        return timm.list_models(pretrained=True)

    def preprocessing(self, name: str, *, size: int | None, channels: int, weights: str) -> Preprocessing:
        """As the published weights were validated."""
        facts = _published(name)
        interpolation: Interpolation = facts["interpolation"]
        colour = Preprocessing(
            size=size or facts["input_size"][-1],
            channels=3,
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            resize=_RESIZE[facts["crop_mode"]],
            crop=facts["crop_pct"],
            interpolation=interpolation,
        )
        return in_channels(colour, channels)

    def build(self, request: EncoderRequest) -> Encoder:
        """Without its classifier, pooled as the model pools."""
        if request.configuration:
            return _encoder(request, request.configuration, None)
        facts = _published(request.name)
        plan = {"architecture": facts["architecture"], "model_args": facts.get("model_args", {})}
        if facts.get("fixed_input_size"):
            plan["model_args"] = {**plan["model_args"], "img_size": request.size}
        if request.weights == "none":
            return _encoder(request, plan, None)
        return _encoder(request, plan, facts)


def _published(name: str) -> dict[str, Any]:
    """The configuration of a model: of its folder, or of the list inside timm. No model is built for it."""
    import timm
    from timm.data import resolve_data_config

    if Path(name).is_dir():
        described = _described(Path(name))
        facts = {**described["pretrained_cfg"], "architecture": described["architecture"]}
        facts |= {"model_args": described.get("model_args") or {}, "folder": name}
    else:
        if name.partition(".")[0] not in timm.list_models():
            names = timm.list_models(pretrained=True)
            raise unknown_name(f"model timm:{name}", name, [*names, *timm.list_models()], "see timm.list_models()")
        try:
            found = timm.get_pretrained_cfg(name)
        except RuntimeError:  # no such tag
            found = None
        if found is None:
            raise unknown_name(
                f"weights timm:{name}", name, timm.list_pretrained(f"{name.partition('.')[0]}*"), "none are published"
            )
        facts = found.to_dict()
    return facts | resolve_data_config(pretrained_cfg=facts)


def _described(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    try:
        described = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise NoEncoder(f"{folder} is no model of timm: it has no {CONFIG_FILE}") from error
    except ValueError as error:
        raise NoEncoder(f"{file} is no JSON ({error}); was the download complete? Fetch it again") from error
    if not isinstance(described, dict) or "architecture" not in described:
        raise NoEncoder(f"{file} names no architecture of timm; expected what timm's push_to_hf_hub writes")
    described.setdefault("pretrained_cfg", {})
    return described


def _encoder(request: EncoderRequest, plan: Mapping[str, Any], published: Mapping[str, Any] | None) -> Encoder:
    """`plan` says what is built; `published` where its weights are, None where it starts from nothing."""
    source, digest, licence = "from scratch", None, None
    module: nn.Module
    try:
        if published is None:
            module = _create(plan, num_classes=0)
        else:
            file, source, licence = _weights(request, published)
            digest = file_hash([file])
            module = _with_weights(plan, published, file)
        width = embedding_width(module, request.size)
    except NoEncoder:
        raise
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise NoEncoder(f"timm:{request.name} cannot be built for images of {request.size} pixels: {error}") from error
    record = EncoderRecord(
        family="timm", name=request.name, source=source, sha256=digest, licence=licence, configuration=dict(plan)
    )
    return Encoder(module, width, 3, record)


def _create(plan: Mapping[str, Any], **options: Any) -> nn.Module:
    import timm

    return timm.create_model(plan["architecture"], **{"pretrained": False} | dict(plan["model_args"]) | options)


def _weights(request: EncoderRequest, published: Mapping[str, Any]) -> tuple[Path, str, str | None]:
    """The file, where it is from, and its licence."""
    if request.weights != "default":
        return Path(request.weights), Path(request.weights).name, None
    licence = published.get("license")
    if folder := published.get("folder"):
        return weight_files(Path(folder))[0], f"folder {Path(folder).name}", licence or licence_of(Path(folder))
    repository = published.get("hf_hub_id")
    if not repository:
        raise NoEncoder(
            f"no weights of timm:{request.name} are published on the hub; name others (timm.list_models"
            "(pretrained=True)), or set training.weights to a local file"
        )
    folder = hub_folder(repository, ["*.safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = hub_folder(repository, ["*.bin"])
    return weight_files(folder)[0], f"hub {repository} {folder.name[:12]}", licence or licence_of(folder)


def _with_weights(plan: Mapping[str, Any], published: Mapping[str, Any], file: Path) -> nn.Module:
    """The network filled from the file, whatever its classifier; every tensor has to fit.

    timm itself leaves out what does not fit as soon as the classifier's width differs. So the network is built with
    the classifier of the file, and loses it afterwards.
    """
    state = read_state(file)
    head = published.get("classifier") or "head"
    names = [head] if isinstance(head, str) else list(head)
    found = state.get(f"{names[0]}.weight")
    classes = 0 if found is None else int(found.shape[0])
    overlay = {"file": str(file), "num_classes": classes, "label_offset": 0, "custom_load": False}
    module: Any = _create(plan, num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay)
    module.reset_classifier(0)
    return module
