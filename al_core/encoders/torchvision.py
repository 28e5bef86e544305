"""Every classifier of torchvision, without its head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from al_core.encoders.contract import Encoder, EncoderRequest, NoEncoder
from al_core.encoders.spelling import unknown_name
from al_core.encoders.weight_files import file_hash
from al_core.learning.settings import SMALL_CNN, SMALL_SIZE
from al_core.records import EncoderRecord, Preprocessing

if TYPE_CHECKING:
    from torch import nn

IMAGENET_CLASSES = 1000  # the width of every torchvision head before it is replaced
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Torchvision:
    """ResNets, EfficientNets, ConvNeXts, vision transformers: `torchvision.models.list_models()`."""

    extra = ""
    package = "torchvision"

    def names(self) -> Sequence[str]:
        """All classifiers."""
        from torchvision import models

        return models.list_models(module=models)

    def preprocessing(self, name: str, *, size: int | None, channels: int, weights: str) -> Preprocessing:
        """As the published weights were validated; from nothing, squeezed to 32 pixels.

        A size that is asked for squeezes the whole picture into it: nothing is cut off.
        """
        from torchvision import models

        wanted: dict[str, Any] = {"size": size or SMALL_SIZE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        self._check(name)
        if weights == "default":
            preset = models.get_model_weights(name).DEFAULT.transforms()
            wanted |= {"mean": tuple(preset.mean), "std": tuple(preset.std)}
            if size is None:
                crop, shorter = preset.crop_size[0], preset.resize_size[0]
                wanted |= {
                    "size": crop,
                    "resize": "shortest",
                    "crop": min(1.0, crop / shorter),
                    "interpolation": preset.interpolation.value,
                }
        return in_channels(Preprocessing(channels=3, **wanted), channels)

    def build(self, request: EncoderRequest) -> Encoder:
        """With weights of its own where `default` asks for them."""
        self._check(request.name)
        try:
            network, source, digest = _network(request)
            head, dimension = _take_head(network)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise NoEncoder(f"{request.name} cannot be built for images of {request.size} pixels: {error}") from error
        record = EncoderRecord(family="torchvision", name=request.name, source=source, sha256=digest)
        return Encoder(network, dimension, 3, record, head=head)

    def _check(self, name: str) -> None:
        names = self.names()
        if name not in names:
            raise unknown_name(
                f"architecture {name!r}; {SMALL_CNN} or a torchvision classifier",
                name,
                [SMALL_CNN, *names],
                "see torchvision.models.list_models()",
            )


def in_channels(colour: Preprocessing, channels: int) -> Preprocessing:
    """The same input for grey pictures, whose one channel enters three times."""
    if channels == 3:
        return colour
    mean, std = sum(colour.mean) / len(colour.mean), sum(colour.std) / len(colour.std)
    return colour.model_copy(update={"channels": 1, "mean": (mean,), "std": (std,)})


def _network(request: EncoderRequest) -> tuple[nn.Module, str, str | None]:
    from torchvision import models

    options: dict[str, Any] = {}
    if request.name.startswith("vit_"):
        options["image_size"] = request.size
    elif request.name.startswith("maxvit"):
        options["input_size"] = (request.size, request.size)
    elif request.name in ("googlenet", "inception_v3"):
        # auxiliary heads answer in tuples while training
        options |= {"aux_logits": False, "init_weights": False} if request.weights != "default" else {}
    if request.weights == "default":
        return _downloaded(request.name, request.size, options)
    return models.get_model(request.name, weights=None, **options), "from scratch", None


def _downloaded(name: str, size: int, options: dict[str, Any]) -> tuple[nn.Module, str, str]:
    import torch
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    published = models.get_model_weights(name).DEFAULT
    try:
        if "image_size" not in options:
            network = models.get_model(name, weights=published, **options)
        else:
            network = models.get_model(name, weights=None, **options)
            state = published.get_state_dict(progress=False, check_hash=True)
            network.load_state_dict(interpolate_embeddings(size, network.patch_size, state))
    except (URLError, RuntimeError) as error:  # RuntimeError: the download's hash is wrong
        raise NoEncoder(
            f"the weights of {name} could not be downloaded ({error}); set training.weights to a local file, or to none"
        ) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    return network, published.url, file_hash([file])


def _take_head(network: nn.Module) -> tuple[str, int]:
    """Replace the classifying layer by the identity; its name and the width of what reaches it.

    The head is the last layer with 1000 outputs, whatever the model calls it. SqueezeNet's is a 1x1
    convolution before the average: linear, so the average of its inputs serves as the embedding.
    """
    from torch import nn

    for name, layer in reversed(list(network.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == IMAGENET_CLASSES:
            width = layer.in_features
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == IMAGENET_CLASSES:
            width = layer.in_channels
        else:
            continue
        network.set_submodule(name, nn.Identity())
        return name, width
    raise NoEncoder(f"{type(network).__name__} has no layer with {IMAGENET_CLASSES} outputs to replace")
