"""A machine that has a GPU does not train on its CPU in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trained import Files, settings

from al_core.learning import devices
from al_core.learning.contract import TrainingRequest
from al_core.learning.devices import unusable_gpu
from al_core.learning.torch_trainer import TorchTrainer
from al_resources.training import job

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.07  Sat Feb 17 22:55:48 UTC 2024\n"


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file system of a machine with one GPU and driver 535, on which torch finds nothing."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    (tmp_path / "dev" / "nvidiactl").touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(DRIVER)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("gpu_machine")
def test_it_says_which_gpu_which_driver_and_which_torch() -> None:
    said = unusable_gpu("auto")
    assert said is not None
    assert "a GPU (nvidia0, driver 535.161.07)" in said
    assert f"torch {torch.__version__}, built for CUDA 13.0, sees none" in said


def test_a_machine_without_a_gpu_one_whose_gpu_works_and_one_that_is_told_not_to_use_it_are_all_right(
    gpu_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unusable_gpu("cpu") is None
    with monkeypatch.context() as hidden:
        hidden.setenv("CUDA_VISIBLE_DEVICES", "-1")
        assert unusable_gpu("auto") is None
    with monkeypatch.context() as works:
        works.setattr(torch.cuda, "is_available", lambda: True)
        assert unusable_gpu("auto") is None
    (gpu_machine / "dev" / "nvidia0").unlink()
    assert unusable_gpu("auto") is None


@pytest.mark.usefixtures("gpu_machine")
def test_a_training_here_goes_on_and_says_so(tmp_path: Path) -> None:
    files, said = Files(), []
    request = TrainingRequest(
        train=files.patterns(4),
        validation=[],
        classes=("across", "down"),
        settings=settings(epochs=1, device="auto"),
        read_image=files.read,
        output=tmp_path,
        parent=None,
        key="k",
    )
    TorchTrainer().fit(request, said.append)
    assert said[0].startswith("training on the CPU: this machine has a GPU (nvidia0")


@pytest.mark.usefixtures("gpu_machine")
def test_a_job_on_a_machine_that_is_paid_for_its_gpu_fails_by_name(tmp_path: Path) -> None:
    asked = job.RemoteRequest(key="k", classes=("across", "down"), settings=settings(device="auto"))
    (tmp_path / "request.json").write_text(asked.model_dump_json())
    given = [f"--{name}={tmp_path / name}" for name in ("train", "images", "output", "messages")]
    with pytest.raises(ValueError, match=r"driver 535\.161\.07.*azure_ml\.environment.*training\.device = 'cpu'"):
        job.main([f"--request={tmp_path / 'request.json'}", *given])
