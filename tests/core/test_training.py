"""What the trainer promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import STRIPES, Files, digits, fit, png, settings

from al_core.images import decode_image
from al_core.learning import torch_trainer
from al_core.learning.calibration import fit_temperature
from al_core.learning.checkpoint import WEIGHTS_FILE, BadCheckpoint, code_version, read_manifest, training_key
from al_core.learning.contract import LabeledImage, TrainingRequest, load_trainer
from al_core.learning.inference import Predictor
from al_core.learning.networks import build_network, preprocessing_for, resolve_device
from al_core.learning.preprocessing import to_pixels
from al_core.learning.settings import TrainingSettings
from al_core.learning.torch_trainer import TorchTrainer, augment, shrink_and_perturb


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files() -> Files:
    return Files()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# ---------------------------------------------------------------- it learns


def test_few_digits_are_enough_to_learn_from(tmp_path):
    files, images = digits()
    test, few, more = images[:400], images[400:428], images[400:700]
    small = settings(image_size=16, epochs=30)
    fit(files, few, tmp_path / "few", settings=small)
    fit(
        files,
        more[:255],
        tmp_path / "more",
        validation=more[255:],
        settings=small.model_copy(update={"epochs": 10}),
    )

    def accuracy(folder: Path) -> float:
        predictor = Predictor.load(folder)
        probs = predictor.predict([decode_image(files.read(image.uri), channels=1) for image in test])
        names = np.asarray(predictor.classes)[probs.argmax(axis=1)]
        return float(np.mean(names == [image.label for image in test]))

    assert accuracy(tmp_path / "few") > 0.55
    assert accuracy(tmp_path / "more") > 0.94


def test_the_log_says_what_happened(files, tmp_path):
    lines: list[str] = []
    train, validation = files.patterns(16), files.patterns(12, seed=1)
    result = fit(files, train, tmp_path, validation=validation, settings=settings(epochs=6), report=lines.append)
    log = result.log
    assert log["epochs"] == len(log["train_loss"]) == len(log["validation_loss"]) == 6
    assert 1 <= log["best_epoch"] <= 6
    assert log["train_images"] == 32
    assert log["validation_images"] == 24
    assert log["device"] == "cpu"
    assert log["seconds"] > 0
    assert not log["warm_start"]
    assert any(line.startswith("epoch 6/6: loss ") for line in lines)


def test_the_same_request_gives_the_same_weights_and_leaves_the_random_state_alone(files, tmp_path):
    train = files.patterns(8)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(files, train, tmp_path / name, settings=settings(seed=seed, augment="shift_flip"))
    assert torch.equal(torch.rand(3), expected)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_importing_the_contract_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, al_core.learning.contract, al_core.learning.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- validation


def test_validation_images_are_never_trained_on(files, tmp_path, monkeypatch):
    seen: list[int] = []
    original = torch_trainer.augment

    def spy(pixels, *args, **settings):
        seen.append(int(pixels.max()))
        return original(pixels, *args, **settings)

    monkeypatch.setattr(torch_trainer, "augment", spy)
    train = files.patterns(8)
    validation = [files.add(f"{i:032x}", "across", png(np.full((8, 8), 255))) for i in range(30)]
    fit(files, train, tmp_path, validation=validation, settings=settings())
    assert max(seen) < 255


def test_a_tiny_validation_set_does_not_decide_when_to_stop(files, tmp_path):
    result = fit(
        files,
        files.patterns(8),
        tmp_path,
        validation=files.patterns(2, seed=1),
        settings=settings(patience=1),
    )
    assert result.log["epochs"] == result.log["best_epoch"] == 4
    assert result.log["validation_loss"] == []


def test_training_stops_early_and_keeps_the_best_weights(files, tmp_path):
    train = files.patterns(12)
    noise = [
        LabeledImage(image.image_id, image.uri, label)
        for image, label in zip(files.patterns(15, seed=3), ["across", "down"] * 15, strict=True)
    ]  # labels without meaning: the loss on them rises as the model gets sure
    result = fit(files, train, tmp_path, validation=noise, settings=settings(epochs=40, patience=2))
    assert result.log["epochs"] < 40
    assert result.log["best_epoch"] < result.log["epochs"]


def test_an_image_in_train_and_validation_is_refused(files, tmp_path):
    train = files.patterns(4)
    with pytest.raises(ValueError, match=r"1 image\(s\) are both in train and in validation"):
        fit(files, train, tmp_path, validation=train[:1], settings=settings())


# ---------------------------------------------------------------- going on from a parent


def test_a_warm_start_goes_on_where_the_parent_stopped(files, tmp_path):
    train = files.patterns(12)
    fit(files, train, tmp_path / "1", settings=settings(epochs=20))
    gentle = settings(epochs=1, incremental_learning_rate=1e-6, augment="none")
    result = fit(files, train, tmp_path / "2", parent=tmp_path / "1", settings=gentle)
    assert result.log["warm_start"]
    assert result.log["parent_version"] == 1
    for name in ("head.weight", "encoder.0.weight"):
        assert torch.allclose(weights(tmp_path / "1")[name], weights(tmp_path / "2")[name], atol=1e-4)


def test_a_warm_start_may_take_fewer_passes(files, tmp_path):
    train, few = files.patterns(4), settings(epochs=3, incremental_epochs=2)
    assert fit(files, train, tmp_path / "1", settings=few).log["epochs"] == 3
    assert fit(files, train, tmp_path / "2", parent=tmp_path / "1", settings=few).log["epochs"] == 2
    cold = few.model_copy(update={"warm_start": False})
    assert fit(files, train, tmp_path / "3", parent=tmp_path / "1", settings=cold).log["epochs"] == 3


def test_a_new_class_grows_the_head_and_keeps_the_old_rows(files, tmp_path):
    fit(files, files.patterns(12), tmp_path / "1", settings=settings(epochs=20))
    three = files.patterns(12, ("across", "down", "plain"))
    gentle = settings(epochs=1, incremental_learning_rate=1e-6, augment="none")
    fit(
        files,
        three,
        tmp_path / "2",
        parent=tmp_path / "1",
        classes=("across", "down", "plain"),
        settings=gentle,
    )
    old, new = weights(tmp_path / "1")["head.weight"], weights(tmp_path / "2")["head.weight"]
    assert new.shape == (3, old.shape[1])
    assert torch.allclose(new[:2], old, atol=1e-4)
    fit(
        files,
        three,
        tmp_path / "3",
        parent=tmp_path / "2",
        classes=("across", "down", "plain"),
        settings=settings(epochs=20),
    )
    predictor = Predictor.load(tmp_path / "3")
    assert predictor.classes == ("across", "down", "plain")


def test_classes_in_another_order_than_the_parents_are_refused(files, tmp_path):
    train = files.patterns(4)
    fit(files, train, tmp_path / "1", settings=settings(epochs=1))
    with pytest.raises(ValueError, match=r"do not begin with those of v1, \['across', 'down'\]"):
        fit(
            files,
            train,
            tmp_path / "2",
            parent=tmp_path / "1",
            classes=("down", "across"),
            settings=settings(),
        )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_size": 16}, "trained on 8x8 grey"),
        ({"channels": 3}, "now 8x8 colour"),
        ({"architecture": "squeezenet1_1", "image_size": 32}, "the settings ask for squeezenet1_1"),
        ({"warm_start": False}, "warm_start is off"),
    ],
)
def test_a_parent_that_cannot_be_continued_means_a_cold_start_with_a_reason(files, tmp_path, changes, reason):
    train = files.patterns(4)
    fit(files, train, tmp_path / "1", settings=settings(epochs=1))
    result = fit(files, train, tmp_path / "2", parent=tmp_path / "1", settings=settings(epochs=1, **changes))
    assert not result.log["warm_start"]
    assert reason in result.log["cold_start_reason"]


def test_a_tampered_parent_is_refused(files, tmp_path):
    train = files.patterns(4)
    fit(files, train, tmp_path / "1", settings=settings(epochs=1))
    changed = weights(tmp_path / "1")
    changed["head.bias"] += 1
    save_file(changed, tmp_path / "1" / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="changed after it was published"):
        fit(files, train, tmp_path / "2", parent=tmp_path / "1", settings=settings(epochs=1))


def test_shrink_and_perturb_mixes_old_and_fresh_weights():
    old, fresh = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    expected = 0.5 * old.weight + 0.1 * fresh.weight
    shrink_and_perturb(old, fresh, 0.5, 0.1)
    assert torch.allclose(old.weight, expected)


# ---------------------------------------------------------------- bad input


def test_no_training_image_is_an_error(files, tmp_path):
    with pytest.raises(ValueError, match="no training image"):
        fit(files, [], tmp_path, classes=("a", "b"), settings=settings())


def test_one_class_only_is_an_error(files, tmp_path):
    with pytest.raises(ValueError, match="all 4 training images are labeled 'across'"):
        fit(files, files.patterns(4, ("across",)), tmp_path, classes=("across", "down"), settings=settings())


def test_a_label_outside_the_classes_is_an_error(files, tmp_path):
    with pytest.raises(ValueError, match=r"\['down'\] are not among the classes \['across'\]"):
        fit(files, files.patterns(4), tmp_path, classes=("across",), settings=settings())


def test_broken_and_missing_images_are_left_out_and_named(files, tmp_path):
    train = files.patterns(6)
    broken = files.add("b" * 32, "across", files.read(train[0].uri)[:60])
    missing = LabeledImage("c" * 32, "images/nowhere", "down")
    lines: list[str] = []
    result = fit(files, [*train, broken, missing], tmp_path, settings=settings(), report=lines.append)
    assert result.log["train_images"] == 12
    assert set(result.log["skipped"]) == {"b" * 32, "c" * 32}
    assert "there is no file images/nowhere" in result.log["skipped"]["c" * 32]
    assert any("b" * 32 in line for line in lines)


def test_only_unreadable_images_is_an_error(files, tmp_path):
    bad = [files.add(f"{i:032x}", label, b"no image") for i, label in enumerate(("across", "down"))]
    with pytest.raises(ValueError, match="none of the 2 training images can be read"):
        fit(files, bad, tmp_path, settings=settings())


def test_other_trouble_while_reading_is_raised(files, tmp_path):
    def unreachable(uri: str) -> bytes:
        raise PermissionError("the store is closed")

    request = TrainingRequest(files.patterns(2), [], ("across", "down"), settings(), unreachable, tmp_path)
    with pytest.raises(PermissionError, match="closed"):
        TorchTrainer().fit(request, print)


def test_a_diverging_loss_is_an_error_that_names_the_setting(files, tmp_path):
    wild = settings(learning_rate=1e30, epochs=10)
    with pytest.raises(ValueError, match=r"lower training\.learning_rate"):
        fit(files, files.patterns(8), tmp_path, settings=wild)


def test_cuda_without_a_gpu_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="torch sees no GPU"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("al_core.learning.torch_trainer", "expected module:attribute"),
        ("nowhere.at_all:Trainer", "cannot be imported"),
        ("al_core.learning.torch_trainer:Nothing", "has no Nothing"),
        ("builtins:dict", "has no fit"),
    ],
)
def test_a_trainer_that_is_not_there_is_named(path, message):
    with pytest.raises(ValueError, match=message):
        load_trainer(path)


def test_the_default_trainer_is_found():
    assert isinstance(load_trainer(TrainingSettings().trainer), TorchTrainer)


def test_the_training_key_depends_on_everything_that_matters():
    base = TrainingSettings()
    keys = {
        training_key("d1", 1, base, "c1"),
        training_key("d2", 1, base, "c1"),
        training_key("d1", 2, base, "c1"),
        training_key("d1", None, base, "c1"),
        training_key("d1", 1, base.model_copy(update={"seed": 1}), "c1"),
        training_key("d1", 1, base, "c2"),
    }
    assert len(keys) == 6
    assert training_key("d1", 1, TrainingSettings(), "c1") in keys
    assert code_version()


# ---------------------------------------------------------------- its parts


def test_many_images_lie_in_a_scratch_file_and_train_the_same(files, tmp_path, monkeypatch):
    train = files.patterns(6)
    fit(files, train, tmp_path / "memory", settings=settings(epochs=1))
    monkeypatch.setattr(torch_trainer, "MAX_IN_MEMORY", 100)
    fit(files, train, tmp_path / "disk", settings=settings(epochs=1))
    a, b = weights(tmp_path / "memory"), weights(tmp_path / "disk")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        "manifest.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(("share", "reach"), [(1 / 16, 1), (1 / 8, 2), (0.01, 1)])
def test_shifting_moves_a_picture_and_repeats_its_edges(share, reach):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(400, 1, 16, 16)
    moved = augment(pixels, "shift", torch.Generator().manual_seed(0), share=share)
    assert moved.shape == pixels.shape
    offsets = {(int(image[0, 8, 8]) - 136) for image in moved}
    steps = range(-reach, reach + 1)
    assert offsets == {16 * dy + dx for dy in steps for dx in steps}


def test_half_of_the_pictures_are_mirrored():
    pixels = torch.arange(8, dtype=torch.uint8).expand(400, 3, 8, 8)
    mirrored = augment(pixels, "shift_flip", torch.Generator().manual_seed(0), share=1 / 16)
    falling = (mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, -1]).float().mean()
    assert 0.4 < falling < 0.6
    assert augment(pixels, "none", torch.Generator(), share=1 / 16) is pixels


def test_a_batch_holds_every_image_before_any_comes_again():
    batches = torch_trainer._batches(5, 3, torch.Generator().manual_seed(0))
    rows = torch.cat([next(batches) for _ in range(5)])
    assert sorted(rows[:5].tolist()) == sorted(rows[5:10].tolist()) == sorted(rows[10:].tolist()) == [0, 1, 2, 3, 4]


def test_rare_classes_weigh_more_but_do_not_rule():
    weights_ = torch_trainer._class_weights(torch.tensor([0] * 90 + [1] * 10), 3)
    assert weights_[1] / weights_[0] == pytest.approx(3)
    assert (90 * weights_[0] + 10 * weights_[1]) / 100 == pytest.approx(1)
    assert weights_[2] == 1


def test_the_temperature_undoes_overconfidence():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, targets) == pytest.approx(1, abs=0.1)
    assert fit_temperature(3 * logits, targets) == pytest.approx(3, abs=0.3)
    sure = torch.eye(2).repeat(15, 1) * 5
    assert 0.3 < fit_temperature(sure, torch.tensor([0, 1]).repeat(15)) < 1  # no error, yet not "certain"


def test_a_frozen_encoder_trains_the_head_alone(files, tmp_path):
    train, validation = files.patterns(20), files.patterns(15, seed=1)
    fit(files, train, tmp_path / "1", settings=settings(epochs=1))
    result = fit(
        files,
        train,
        tmp_path / "2",
        validation=validation,
        parent=tmp_path / "1",
        settings=settings(frozen=True),
    )
    old, new = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("encoder."))
    assert not torch.equal(old["head.weight"], new["head.weight"])
    assert result.log["train_loss"][-1] < 0.2


def test_fine_tuning_begins_with_the_head_that_suits_the_embeddings_where_labels_are_enough(files, tmp_path):
    train = files.patterns(20)
    fit(files, train, tmp_path / "1", settings=settings(epochs=1))
    published = settings(
        weights=str(tmp_path / "1" / WEIGHTS_FILE), epochs=1, learning_rate=1e-12, augment="none", head_first=40
    )
    alone = fit(files, train, tmp_path / "alone", settings=published.model_copy(update={"frozen": True}))
    whole = fit(files, train, tmp_path / "whole", settings=published)
    assert whole.log["head_first"]["out_of_fold"] == alone.log["out_of_fold"]
    head = weights(tmp_path / "alone")["head.weight"] / alone.temperature
    assert torch.allclose(weights(tmp_path / "whole")["head.weight"], head, atol=1e-5)
    for number, changes in enumerate(({"head_first": 41}, {"head_first": 0}, {"weights": "none"})):
        other = fit(files, train, tmp_path / str(number + 2), settings=published.model_copy(update=changes))
        assert other.log["head_first"] is None, changes
    gone_on = fit(files, train, tmp_path / "on", parent=tmp_path / "whole", settings=published)
    assert gone_on.log["head_first"] is None, "its parent's head is no head drawn at random"


def test_all_labels_teach_the_head_of_a_frozen_encoder_and_tell_how_sure_it_may_be(files, tmp_path):
    images = files.patterns(20, STRIPES)
    fit(files, images, tmp_path / "1", settings=settings(epochs=1))
    lines: list[str] = []
    wanted = settings(frozen=True, weight_decay=7.0, label_smoothing=0.5)
    for name, train, validation in (("split", images[:50], images[50:]), ("whole", images, [])):
        result = fit(
            files,
            train,
            tmp_path / name,
            validation=validation,
            classes=sorted(STRIPES),
            parent=tmp_path / "1",
            settings=wanted,
            report=lines.append,
        )
        assert result.log["out_of_fold"]["labels"] == 80
    # neither the split nor the optimizer's settings make a difference
    split, whole = (weights(tmp_path / name) for name in ("split", "whole"))
    assert torch.allclose(split["head.weight"], whole["head.weight"], atol=1e-4)
    assert result.log["weight_decay"] != 7.0
    assert any(line.startswith("head on 80 labels: weight decay") for line in lines)


def test_few_validation_images_calibrate_as_well_as_they_can(files, tmp_path):
    few = [*files.patterns(3, seed=1), *files.patterns(3, seed=2)]
    other = {"across": "down", "down": "across"}
    wrong = [LabeledImage(image.image_id, image.uri, other[image.label]) for image in few]
    sure = fit(files, files.patterns(12), tmp_path / "sure", validation=few, settings=settings())
    unsure = fit(files, files.patterns(12), tmp_path / "unsure", validation=wrong, settings=settings())
    assert sure.temperature < 1 < unsure.temperature
    none = fit(files, files.patterns(12), tmp_path / "none", settings=settings())
    assert none.temperature == 1.0


def test_a_frozen_encoder_is_neither_shrunk_nor_perturbed(files, tmp_path):
    train = files.patterns(8)
    fit(files, train, tmp_path / "1", settings=settings())
    changes = settings(frozen=True, shrink=0.5, perturb=0.1)
    fit(files, train, tmp_path / "2", parent=tmp_path / "1", settings=changes)
    before, after = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name in before:
        if name.startswith("encoder."):
            assert torch.equal(before[name], after[name]), name


def test_known_embeddings_spare_reading_the_images(files, tmp_path):
    train = files.patterns(20)
    fit(files, train, tmp_path / "1", settings=settings(epochs=1))
    fit(files, train, tmp_path / "read", parent=tmp_path / "1", settings=settings(frozen=True))
    predictor = Predictor.load(tmp_path / "1")
    pictures = [decode_image(files.read(image.uri), channels=1) for image in train]
    vectors = predictor.predict_with_embeddings(pictures)[1]
    known = {image.image_id: vector for image, vector in zip(train, vectors, strict=True)}
    (tmp_path / "known").mkdir()
    request = TrainingRequest(
        train,
        [],
        ("across", "down"),
        settings(frozen=True),
        {}.__getitem__,
        tmp_path / "known",
        tmp_path / "1",
    )
    TorchTrainer(known).fit(request, print)
    for name, value in weights(tmp_path / "read").items():
        assert torch.allclose(value, weights(tmp_path / "known")[name], atol=1e-3)
    assert np.allclose(predictor.classify(vectors), predictor.predict(pictures), atol=1e-6)


def test_known_pixels_spare_reading_the_images(files, tmp_path):
    train, validation = files.patterns(20), files.patterns(12, seed=1)
    fit(files, train, tmp_path / "read", validation=validation, settings=settings(epochs=2))
    preprocessing = read_manifest(tmp_path / "read").preprocessing
    pixels = {
        image.image_id: to_pixels([decode_image(files.read(image.uri), channels=1)], preprocessing)[0].numpy()
        for image in (*train, *validation)
    }
    (tmp_path / "known").mkdir()
    request = TrainingRequest(
        train, validation, ("across", "down"), settings(epochs=2), {}.__getitem__, tmp_path / "known"
    )
    TorchTrainer(pixels=pixels).fit(request, print)
    for name, value in weights(tmp_path / "read").items():
        assert torch.equal(value, weights(tmp_path / "known")[name])


def test_freezing_an_encoder_that_never_learned_is_an_error(files, tmp_path):
    with pytest.raises(ValueError, match="frozen needs an encoder that has learned something"):
        fit(files, files.patterns(4), tmp_path, settings=settings(frozen=True))


def test_on_a_cpu_half_precision_is_asked_for(files, tmp_path):
    train = files.patterns(16)
    assert fit(files, train, tmp_path / "auto", settings=settings(epochs=1)).log["precision"] == "float32"
    result = fit(files, train, tmp_path / "half", settings=settings(precision="bfloat16", epochs=20))
    assert result.log["precision"] == "bfloat16"
    assert result.log["train_loss"][-1] < 0.3
    assert all(
        value.dtype == torch.float32 for value in weights(tmp_path / "half").values() if value.is_floating_point()
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_training_runs_in_half_precision(files, tmp_path):
    train = files.patterns(20)
    result = fit(files, train, tmp_path, settings=settings(device="cuda", epochs=20))
    assert result.log["precision"] in ("bfloat16", "float16")
    assert result.log["train_loss"][-1] < 0.3


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("architecture", "size", "width"),
    [
        ("resnet18", 32, 512),
        ("mobilenet_v3_small", 32, 1024),
        ("vit_b_32", 32, 768),
        ("squeezenet1_1", 32, 512),
    ],
)
def test_any_torchvision_classifier_gets_a_new_head(architecture, size, width):
    network = build_network(architecture, classes=3, size=size, channels=1).eval()
    with torch.inference_mode():
        images = torch.zeros(2, 1, size, size)
        assert network.embed(images).shape == (2, width)
        assert network(images).shape == (2, 3)


def test_colour_input_is_normalised_as_the_weights_expect():
    assert preprocessing_for("resnet18", size=64, channels=3).mean == (0.485, 0.456, 0.406)
    assert preprocessing_for("resnet18", size=64, channels=1).mean == pytest.approx((0.449,))
    assert preprocessing_for("small_cnn", size=8, channels=1).std == (0.25,)


@pytest.mark.parametrize(
    ("architecture", "size", "weights_", "message"),
    [
        ("resnet81", 32, "none", "did you mean resnet18"),
        ("vit_b_16", 50, "none", "vit_b_16 cannot be built for images of 50 pixels"),
        ("small_cnn", 8, "default", "no weights to download"),
        ("small_cnn", 8, "/nowhere/weights.pt", "there is no file /nowhere/weights.pt"),
    ],
)
def test_networks_that_cannot_be_built_say_why(architecture, size, weights_, message):
    with pytest.raises(ValueError, match=message):
        build_network(architecture, classes=2, size=size, channels=3, weights=weights_)


def test_weights_are_read_from_a_file_whatever_its_head(tmp_path):
    donor = build_network("squeezenet1_1", classes=7, size=32, channels=3)
    save_file({n: v.contiguous() for n, v in donor.state_dict().items()}, tmp_path / "own.safetensors")
    theirs = dict(donor.encoder.state_dict()) | {"classifier.1.weight": torch.zeros(9, 512, 1, 1)}
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pt")
    for file in ("own.safetensors", "theirs.pt"):
        network = build_network("squeezenet1_1", classes=2, size=32, channels=3, weights=str(tmp_path / file))
        for name, value in donor.encoder.state_dict().items():
            assert torch.equal(network.encoder.state_dict()[name], value)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="without running code"):
        build_network("small_cnn", classes=2, size=8, channels=1, weights=str(tmp_path / "evil.pt"))


def test_weights_of_another_network_are_refused_with_their_names(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"0.weight is missing; .* and \d+ more"):
        build_network("small_cnn", classes=2, size=8, channels=1, weights=str(tmp_path / "other.pt"))


def test_the_code_version_of_a_checkout_is_the_one_git_knows():
    import subprocess

    here = Path(__file__).parent
    asked = ["git", "-C", str(here), "describe", "--always", "--dirty", "--tags"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not in a checkout")
    assert code_version() == found.stdout.strip()
