"""The head on a frozen encoder: the minimum of torch's own loss, whatever the scale of the features."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from al_core.learning.softmax_regression import fit_linear_head


def problem(seed: int, *, count: int = 60, width: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator)
    return centres[targets] + torch.randn(count, width, generator=generator), targets


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), smoothing=st.sampled_from([0.0, 0.1]), decay=st.sampled_from([1e-3, 1e-2, 0.1]))
def test_it_is_the_minimum_of_torchs_weighted_and_smoothed_loss(seed, smoothing, decay):
    features, targets = problem(seed)
    features = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    class_weights = torch.tensor([0.5, 1.0, 2.0])
    head = fit_linear_head(features, targets, class_weights, label_smoothing=smoothing, weight_decay=decay)
    weight, bias = head.weight.requires_grad_(), head.bias.requires_grad_()
    loss = functional.cross_entropy(features @ weight.T + bias, targets, class_weights, label_smoothing=smoothing)
    loss = loss + decay / 2 * weight.square().sum()
    loss.backward()
    assert loss.item() == pytest.approx(head.loss, rel=1e-4)
    assert max(weight.grad.abs().max().item(), bias.grad.abs().max().item()) < 5e-4  # convex: flat is the bottom


def test_it_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    features, targets = problem(1)
    features = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    decay = 0.01
    peer = LogisticRegression(C=1 / (decay * len(targets)), tol=1e-6, max_iter=1000).fit(features, targets)
    head = fit_linear_head(features, targets, torch.ones(3), label_smoothing=0.0, weight_decay=decay)
    ours = torch.softmax(features @ head.weight.T + head.bias, dim=1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(features), atol=2e-3)


def test_scale_and_offset_of_the_features_do_not_matter():
    features, targets = problem(2)
    stretched = features * torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0]) + torch.tensor([0.0, 50.0, 0.0, -7.0, 0.0])
    one, other = (
        fit_linear_head(x, targets, torch.ones(3), label_smoothing=0.0, weight_decay=0.01)
        for x in (features, stretched)
    )
    plain = features @ one.weight.T + one.bias
    assert torch.allclose(plain, stretched @ other.weight.T + other.bias, atol=2e-2)


def test_a_feature_that_never_changes_does_no_harm():
    features, targets = problem(3)
    features[:, 0] = 4.0
    head = fit_linear_head(features, targets, torch.ones(3), label_smoothing=0.0, weight_decay=0.01)
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head.bias).all()


def test_embeddings_that_are_not_finite_are_named():
    features, targets = problem(4)
    features[0, 0] = float("nan")
    with pytest.raises(ValueError, match="embeddings of the frozen encoder are not finite"):
        fit_linear_head(features, targets, torch.ones(3), label_smoothing=0.0, weight_decay=0.01)
