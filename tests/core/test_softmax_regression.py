"""The head on a frozen encoder: the minimum of torch's own loss, whatever the scale of the features."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.nn import functional

from al_core.learning import softmax_regression
from al_core.learning.calibration import calibration_error, calibration_limit
from al_core.learning.softmax_regression import UNDECIDED, fit_linear_head, folds


def problem(seed: int, *, count: int = 60, width: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator)
    return centres[targets] + torch.randn(count, width, generator=generator), targets


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), decay=st.sampled_from([1e-3, 1e-2, 0.1]))
def test_it_is_the_minimum_of_torchs_weighted_loss(seed, decay):
    features, targets = problem(seed)
    features = standardised(features)
    class_weights = torch.tensor([0.5, 1.0, 2.0])
    head = fit_linear_head(features, targets, class_weights, weight_decay=decay)
    weight, bias = head.weight.requires_grad_(), head.bias.requires_grad_()
    loss = functional.cross_entropy(features @ weight.T + bias, targets, class_weights)
    loss = loss + decay / 2 * weight.square().sum()
    loss.backward()
    assert loss.item() == pytest.approx(head.loss, rel=1e-4)
    assert max(weight.grad.abs().max().item(), bias.grad.abs().max().item()) < 5e-4  # convex: flat is the bottom


@pytest.mark.parametrize("width", [5, 200])
def test_it_agrees_with_scikit_learn_with_more_values_than_labels_too(width):
    from sklearn.linear_model import LogisticRegression

    features, targets = problem(1, width=width)
    features, decay = standardised(features), 0.1
    peer = LogisticRegression(C=1 / (decay * len(targets)), tol=1e-6, max_iter=1000).fit(features, targets)
    head = fit_linear_head(features, targets, torch.ones(3), weight_decay=decay)
    ours = torch.softmax(features @ head.weight.T + head.bias, dim=1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(features), atol=2e-3)


def test_scale_and_offset_of_the_features_do_not_matter():
    features, targets = problem(2)
    moved = 1e3 * features + torch.tensor([0.0, 50.0, 0.0, -7.0, 0.0])
    one, other = (fit_linear_head(x, targets, torch.ones(3), weight_decay=0.01) for x in (features, moved))
    plain = features @ one.weight.T + one.bias
    assert torch.allclose(plain, moved @ other.weight.T + other.bias, atol=2e-2)


def test_a_feature_that_hardly_moved_does_not_drown_the_others_when_it_does():
    features, targets = problem(3)
    features[:, 0] = 4.0
    features[0, 0] += 1e-3
    head = fit_linear_head(features, targets, torch.ones(3), weight_decay=0.01)
    later = features.clone()
    later[:, 0] += 1.0
    before, after = (x @ head.weight.T + head.bias for x in (features, later))
    assert (before - after).abs().max() < 0.5


def test_embeddings_that_are_not_finite_are_named():
    features, targets = problem(4)
    features[0, 0] = float("nan")
    with pytest.raises(ValueError, match="embeddings of the frozen encoder are not finite"):
        fit_linear_head(features, targets, torch.ones(3), weight_decay=0.01)


# ---------------------------------------------------------------- how strongly, and how sure


def noisy(seed: int, *, count: int, noise: float, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes along two of the directions, and labels of which a share is wrong."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    centres = torch.zeros(3, width)
    centres[0, 0], centres[1, 1], centres[2, :2] = 3, 3, -3
    features = centres[targets] + torch.randn(count, width, generator=generator)
    wrong = torch.rand(count, generator=generator) < noise
    return features, torch.where(wrong, torch.randint(3, (count,), generator=generator), targets)


@pytest.mark.parametrize("seed", range(3))
def test_noise_in_the_labels_calls_for_a_stronger_hand(seed):
    clean, dirty = (
        fit_linear_head(*noisy(seed, count=90, noise=share), torch.ones(3), seed=seed) for share in (0.0, 0.6)
    )
    assert dirty.weight_decay >= clean.weight_decay
    assert dirty.out_of_fold.accuracy < clean.out_of_fold.accuracy


@pytest.mark.parametrize(("count", "most"), [(60, 0.15), (300, 0.08)])
def test_it_says_how_sure_it_may_be_on_images_it_never_saw(count, most):
    errors = []
    for seed in range(4):
        head = fit_linear_head(*noisy(seed, count=count, noise=0.3), torch.ones(3), seed=seed)
        unseen, truth = noisy(100 + seed, count=3000, noise=0.3)
        probs = torch.softmax((unseen @ head.weight.T + head.bias) / head.temperature, dim=1)
        confidence, predicted = probs.max(dim=1)
        errors.append(calibration_error(confidence.numpy(), (predicted == truth).numpy()))
    assert np.mean(errors) < most


def errors_on_digits(monkeypatch: pytest.MonkeyPatch, seed: int, *, doubtful: bool) -> tuple[float, float]:
    """The calibration error of the head of 180 labels, and of one that does not ask whether they are like the pool."""
    digits = load_digits()
    features, targets = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    unseen, pool = order[:600], order[600:]
    labeled = pool[:180]
    if doubtful:
        first = fit_linear_head(features[pool[:60]], targets[pool[:60]], torch.ones(10))
        best = (features[pool[60:]] @ first.weight.T + first.bias).topk(2).values
        labeled = torch.cat([pool[:60], pool[60:][(best[:, 0] - best[:, 1]).argsort()[:120]]])
    rest = pool[~torch.isin(pool, labeled)]
    errors = []
    for surely in (softmax_regression.SURELY, np.inf):
        with monkeypatch.context() as patched:
            patched.setattr(softmax_regression, "SURELY", surely)
            head = fit_linear_head(features[labeled], targets[labeled], torch.ones(10), unlabeled=features[rest])
        probs = torch.softmax((features[unseen] @ head.weight.T + head.bias) / head.temperature, dim=1)
        confidence, predicted = probs.max(dim=1)
        errors.append(calibration_error(confidence.numpy(), (predicted == targets[unseen]).numpy()))
    return errors[0], errors[1]


def test_labels_that_were_picked_for_being_doubtful_do_not_make_it_modest_on_all_images(
    monkeypatch: pytest.MonkeyPatch,
):
    asked, unasked = np.mean([errors_on_digits(monkeypatch, seed, doubtful=True) for seed in range(3)], axis=0)
    assert asked < 0.95 * unasked


def test_labels_that_were_drawn_at_random_stand_for_themselves(monkeypatch: pytest.MonkeyPatch):
    asked, unasked = errors_on_digits(monkeypatch, 0, doubtful=False)
    assert asked == unasked


def test_every_label_teaches_and_the_choice_is_the_best_out_of_fold():
    features, targets = noisy(5, count=120, noise=0.3)
    head = fit_linear_head(features, targets, torch.ones(3))
    assert head.tried[head.weight_decay] == min(head.tried.values())
    assert head.out_of_fold.labels == 120
    again = fit_linear_head(features, targets, torch.ones(3), weight_decay=head.weight_decay)
    torch.testing.assert_close(head.weight, again.weight, atol=1e-3, rtol=1e-2)  # begun elsewhere, ended there


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.9])
def test_with_many_labels_the_choice_from_the_middle_on_is_that_of_the_whole_path(
    noise: float, monkeypatch: pytest.MonkeyPatch
):
    features, targets = noisy(7, count=600, noise=noise)
    monkeypatch.setattr(softmax_regression, "FEWER_FOLDS", softmax_regression.FOLDS)
    whole = fit_linear_head(features, targets, torch.ones(3))
    monkeypatch.setattr(softmax_regression, "MANY_LABELS", 500)
    short = fit_linear_head(features, targets, torch.ones(3))
    assert short.weight_decay == whole.weight_decay
    assert short.temperature == pytest.approx(whole.temperature, rel=0.02)
    assert set(short.tried) <= set(softmax_regression.DECAYS)


def test_a_class_with_one_label_counts_as_an_answer_that_was_wrong():
    features, targets = noisy(6, count=60, noise=0.0)
    targets[0] = 3
    head = fit_linear_head(features, targets, torch.ones(4))
    assert head.out_of_fold.labels == 60
    assert head.out_of_fold.accuracy <= 59 / 60


def test_fewer_labels_than_folds_and_one_label_a_class_are_no_trouble():
    features = torch.eye(3)
    head = fit_linear_head(features, torch.arange(3), torch.ones(3))
    assert (head.weight_decay, head.temperature, head.out_of_fold) == (UNDECIDED, 1.0, None)
    assert (features @ head.weight.T + head.bias).argmax(dim=1).tolist() == [0, 1, 2]


# ---------------------------------------------------------------- images without a label


def test_a_head_of_few_labels_learns_from_its_own_answers_to_images_without_one():
    from sklearn.datasets import load_digits

    pixels, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    pixels, alone, taught = pixels.float(), [], []
    for seed in range(3):
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
        labeled, unlabeled, unseen = order[:60], order[60:800], order[800:]
        for accuracies, more in ((alone, None), (taught, pixels[unlabeled])):
            head = fit_linear_head(pixels[labeled], digits[labeled], torch.ones(10), seed=seed, unlabeled=more)
            answers = (pixels[unseen] @ head.weight.T + head.bias).argmax(dim=1)
            accuracies.append((answers == digits[unseen]).float().mean().item())
    assert np.mean(taught) > np.mean(alone) + 0.01


def test_own_answers_teach_only_where_labels_out_of_fold_are_predicted_better():
    for seed in range(2):
        features, targets = noisy(seed, count=60, noise=0.5)
        unlabeled = torch.randn(300, features.shape[1], generator=torch.Generator().manual_seed(seed))
        plain = fit_linear_head(features, targets, torch.ones(3), seed=seed)
        head = fit_linear_head(features, targets, torch.ones(3), seed=seed, unlabeled=unlabeled)
        best = min(plain.tried.values())
        assert (head.taught_by > 0) == (head.taught_loss < best)
        if not head.taught_by:
            assert torch.equal(head.weight, plain.weight)


def test_with_many_labels_or_hardly_an_image_without_one_nobody_asks():
    labels, plenty = noisy(1, count=501, noise=0.2), torch.randn(100, 40)
    assert fit_linear_head(*labels, torch.ones(3), unlabeled=plenty).taught_loss is None
    few = noisy(1, count=60, noise=0.2)
    assert fit_linear_head(*few, torch.ones(3), unlabeled=plenty[:10]).taught_loss is None
    assert fit_linear_head(*few, torch.ones(3), unlabeled=plenty).taught_loss is not None


@given(counts=st.lists(st.integers(0, 12), min_size=2, max_size=5).filter(sum), seed=st.integers(0, 50))
def test_folds_deal_out_every_class_evenly(counts, seed):
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    found = folds(targets, 5, seed)
    for number in range(len(counts)):
        of_class = torch.bincount(found[targets == number], minlength=5)
        assert of_class.max() - of_class.min() <= 1


# ---------------------------------------------------------------- the calibration error, and what chance explains


def test_the_calibration_error_is_that_of_the_evaluation():
    from al_core.judging.evaluation import Evaluation, answers_of
    from al_core.learning.contract import LabeledImage

    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 200).astype(np.float32)
    images = [LabeledImage(f"{n:032x}", "", "abc"[n % 3]) for n in range(200)]
    evaluation = Evaluation(answers_of(images, probs, "abc"), {})
    found = calibration_error(evaluation.answers["confidence"].to_numpy(), evaluation.correct)
    assert found == pytest.approx(evaluation.point_metrics()["ece"], abs=1e-5)


@pytest.mark.parametrize("images", [20, 300, 3000])
def test_a_calibrated_model_stays_below_the_limit_and_a_boaster_does_not(images):
    rng = np.random.default_rng(images)
    confidence = rng.uniform(0.4, 1, images)
    limit = calibration_limit(confidence)
    passed = [calibration_error(confidence, rng.random(images) < confidence) <= limit for _ in range(200)]
    assert np.mean(passed) > 0.9
    assert calibration_error(confidence, rng.random(images) < confidence - 0.35) > limit


def standardised(features: torch.Tensor) -> torch.Tensor:
    return (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
