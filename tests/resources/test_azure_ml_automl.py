"""AutoML for images as a trainer: what it is asked, and that its network becomes a checkpoint of this platform."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from azure_workspace import Workspace
from safetensors.torch import load_file
from torchvision import models
from training_workspace import CLASSES, TrainingBench, publish_dataset

from al_core.encoders.contract import Encoder
from al_core.learning.checkpoint import sha256_of
from al_core.learning.contract import TrainingRequest
from al_core.learning.networks import Classifier, build_network, load_state
from al_core.learning.torch_trainer import TorchTrainer
from al_core.records import EncoderRecord, ModelManifest, utc_now
from al_resources.azure.workspace import WorkspaceError
from al_resources.platform import Platform
from al_resources.settings import Settings, SettingsError
from al_resources.training.automl_model import NETWORKS, read_model, renamed
from al_resources.training.azure_ml_automl import TRAINER, AutoMLTrainer
from al_resources.training.azure_ml_job import AzureMLTrainer
from emulators.azure_ml import ROOT, Fault

SMALLEST = {"architecture": "mobilenet_v2", "image_size": 32, "channels": 3, "trainer": TRAINER}


@pytest.fixture
def bench(workspace: Workspace, tmp_path: Path) -> TrainingBench:
    trainer = AutoMLTrainer(workspace.client, workspace.platform.blobs, workspace.settings, "classifier")
    return TrainingBench(workspace.platform, trainer, tmp_path)


def asked(workspace: Workspace) -> list[dict[str, Any]]:
    bodies = [body for verb, path, _, body in workspace.emulator.requests if verb == "PUT" and "/jobs/" in path]
    return [body["properties"] for body in bodies]


def registered(platform: Platform, request: TrainingRequest, result: Any) -> Path:
    manifest = ModelManifest(
        name="classifier",
        version=0,
        architecture=result.architecture,
        classes=result.classes,
        preprocessing=result.preprocessing,
        dataset_version="d",
        training_key=request.key,
        training_log=result.log,
        code_version="test",
        labels=1,
        created_at=utc_now(),
        weights_sha256=sha256_of(result.weights),
    )
    return platform.registry.fetch(platform.registry.register(result.weights, manifest).version)


@pytest.mark.live
@pytest.mark.usefixtures("whole_code")
def test_automl_trains_on_the_registered_dataset_and_goes_on_from_its_own_run(
    bench: TrainingBench, workspace: Workspace
):
    first = bench.request(publish_dataset(bench.platform), **SMALLEST)
    result = bench.trainer.fit(first, bench.report)
    assert result.classes == CLASSES
    assert result.log["automl_run"] == f"classifier-{first.key}-automl-1_HD_0"
    automl, conversion = asked(workspace)
    task = automl["taskDetails"]
    assert task["trainingData"]["uri"] == f"{ROOT}/data/classifier-train/versions/1"
    assert task["validationData"]["uri"] == f"{ROOT}/data/classifier-validation/versions/1"
    assert task["targetColumnName"] == "label"
    assert task["limitSettings"]["maxTrials"] == 1
    assert task["modelSettings"]["modelName"] == "mobilenetv2"
    assert "checkpointRunId" not in task["modelSettings"]
    assert conversion["computeId"].endswith("/computes/cpu-cluster")
    network = build_network("mobilenet_v2", classes=2, size=32, channels=3)
    load_state(network, load_file(result.weights), "what AutoML left")

    parent = registered(bench.platform, first, result)
    second = bench.request(publish_dataset(bench.platform, sequence=2), parent=parent, **SMALLEST)
    workspace.emulator.faults.append(Fault("PUT", f"/jobs/classifier-{second.key}-1", 400))  # seen enough by then
    with pytest.raises(WorkspaceError, match="submitting job"):
        bench.trainer.fit(second, bench.report)
    assert asked(workspace)[2]["taskDetails"]["modelSettings"]["checkpointRunId"] == result.log["automl_run"]


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_its_network_answers_the_same_under_our_names_with_the_classes_in_our_order(architecture: str):
    torch.manual_seed(0)
    theirs = models.get_model(architecture, num_classes=2).eval()
    ours = build_network(architecture, classes=3, size=32, channels=3).eval()
    load_state(ours, renamed(theirs.state_dict(), NETWORKS[architecture], ["b", "a"], ["a", "unseen", "b"]), "AutoML's")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert torch.allclose(found[:, [2, 0]], expected, atol=1e-5)
    assert (found[:, 1] < expected.min()).all()


def test_its_vision_transformer_which_is_timms_answers_the_same_as_torchvisions():
    torch.manual_seed(0)
    shape = {"patch_size": 16, "num_heads": 4}
    theirs = timm.models.VisionTransformer(
        img_size=32, depth=2, embed_dim=64, mlp_ratio=2, num_classes=2, **shape
    ).eval()
    bare = models.VisionTransformer(image_size=32, num_layers=2, hidden_dim=64, mlp_dim=128, num_classes=1000, **shape)
    bare.heads = torch.nn.Identity()
    record = EncoderRecord(family="torchvision", name="vit", source="from scratch")
    ours = Classifier(Encoder(bare, 64, 3, record), 2).eval()
    load_state(ours, renamed(theirs.state_dict(), NETWORKS["vit_b_16"], ["a", "b"], ["a", "b"]), "AutoML's")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("vit_b_16", "vit_base_patch16_224"), ("vit_l_16", "vit_large_patch16_224")]
)
def test_every_tensor_of_its_vision_transformers_has_its_place(ours: str, theirs: str):
    with torch.device("meta"):  # names and shapes, and no weights
        state = timm.create_model(theirs, num_classes=2).state_dict()
        wanted = models.get_model(ours, num_classes=2).state_dict()
    place = NETWORKS[ours].encoder
    found = {place(name): value.shape for name, value in state.items() if not name.startswith("head.")}
    assert found == {name: value.shape for name, value in wanted.items() if not name.startswith("heads.")}


def test_a_label_that_is_no_class_is_refused():
    state = models.resnet18(num_classes=1).state_dict()
    with pytest.raises(ValueError, match=r"trained on \['cat'\], not among the classes \['dog'\]"):
        renamed(state, NETWORKS["resnet18"], ["cat"], ["dog"])


class Runs:
    """What a pickle can do to whoever loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


NUMBERS = [np.float64(0.25), np.float32(0.25), np.int64(3), np.bool_(True), np.str_("cat"), np.array([0.25, 0.5])]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_numpy_beside_the_weights_are_read_as_old_and_new_numpy_write_them(tmp_path: Path, module: bytes):
    """AutoML's numpy is older than 2 and writes `numpy.core`; ours writes `numpy._core`."""
    file = tmp_path / "model.pt"
    content = {"model_name": "resnet18", "specs": {"labels": ["a"]}, "model_state": {"w": torch.ones(2)}}
    torch.save({**content, "metrics": NUMBERS}, file, pickle_protocol=2)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", module) if "data.pkl" in name else data)
    read = read_model(file)
    assert [np.asarray(found).tolist() for found in read["metrics"]] == [np.asarray(one).tolist() for one in NUMBERS]
    assert torch.equal(read["model_state"]["w"], torch.ones(2))


def test_code_in_a_model_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"model_name": "resnet18", "specs": Runs(), "model_state": {}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="cannot be read without running code in it"):
        read_model(tmp_path / "model.pt")
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_model_of_automl_says_what_it_lacks(tmp_path: Path):
    torch.save({"model_state": {}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="it lacks model_name, specs"):
        read_model(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architecture": "vit_b_32"}, "cannot be taken over; choose one of resnet18"),
        ({"channels": 1}, "set it to 3"),
        ({"frozen": True}, "set it to false"),
    ],
)
def test_what_automl_cannot_follow_is_refused_before_any_call(
    bench: TrainingBench, workspace: Workspace, change: dict[str, Any], problem: str
):
    request = bench.request(publish_dataset(bench.platform), **{**SMALLEST, **change})
    with pytest.raises(ValueError, match=problem):
        bench.trainer.fit(request, bench.report)
    assert asked(workspace) == []


def test_the_settings_choose_where_a_training_runs(workspace: Workspace, tmp_path: Path):
    del workspace  # its environment is what the clients log in with
    azure = {"kusto_uri": "https://k.kusto.windows.net", "blob_account_url": "https://a.blob.core.windows.net"}
    place = {"subscription": "s", "resource_group": "g", "workspace": "w"}

    def trainer(trainer: str = "al_core.learning.torch_trainer:TorchTrainer", **azure_ml: str) -> Any:
        settings = Settings.model_validate(
            {
                "profile": "azure",
                "home": tmp_path,
                "azure": azure,
                "azure_ml": azure_ml,
                "training": {"trainer": trainer},
            }
        )
        return Platform(settings).trainer

    assert type(trainer(**place)) is AzureMLTrainer
    assert type(trainer(**place, training="here")) is TorchTrainer
    assert type(trainer(TRAINER, **place, training="here")) is AutoMLTrainer
    assert type(trainer()) is TorchTrainer


def test_automl_without_a_workspace_says_what_is_missing(tmp_path: Path):
    settings = Settings(home=tmp_path, training={"trainer": TRAINER})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"needs profile = 'azure' and azure_ml\.workspace"):
        _ = Platform(settings).trainer
