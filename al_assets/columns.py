"""The columns of what an asset holds, each with a sentence, for the pages of the UI."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

_IMAGE = {
    "image_id": "content id: a hash of the file's bytes",
    "image_hash": "near-duplicate hash: alike for pictures that look alike",
}

PREDICTIONS: dict[str, tuple[str, str]] = {
    "prediction_id": ("string", "sorts by time"),
    "image_id": ("string", _IMAGE["image_id"]),
    "image_key": ("int", "the first 60 bits of image_id: a narrow column to join on and to draw at random by"),
    "image_uri": ("string", "where the picture lies"),
    "image_hash": ("string", _IMAGE["image_hash"]),
    "model_name": ("string", "which model answered"),
    "model_version": ("int", "which version of it"),
    "predicted_label": ("string", "the likeliest class"),
    "confidence": ("float", "its probability"),
    "margin": ("float", "largest minus second largest probability: small where two classes compete"),
    "entropy": ("float", "of the probabilities, in nats: large where many classes compete"),
    "probs": ("list of float", "of all classes, in the model's order"),
    "embedding": (
        "list of float",
        "what the encoder made of the picture; null: none was kept, or `embeddings` has it",
    ),
    "source": ("string", "online, batch, simulation, or rescore: a newer model's answer that a batch was chosen on"),
    "latency_ms": ("float", "time the answer took; null in batch"),
    "logged_at": ("timestamp", "when it was answered, UTC"),
}
SELECTIONS: dict[str, tuple[str, str]] = {
    "round": ("int", "of the batch"),
    "image_id": ("string", _IMAGE["image_id"]),
    "image_uri": ("string", "where the picture lies"),
    "image_hash": ("string", _IMAGE["image_hash"]),
    "rank": ("int", "0 is the image that is wanted most"),
    "reason": ("string", "strategy, control (random), seed, duel, drift, search, or review of a doubtful label"),
    "strategy": ("string", "which query strategy chose it"),
    "score": ("float", "what the strategy ordered by; null for random draws"),
    "cluster": ("int", "of strategies that cluster"),
    "propensity": ("float", "probability of being drawn; null for a strategy's choice"),
    "prediction_id": ("string", "the prediction that the choice was made on; null for seeds"),
    "model_version": ("int", "which version asked; null for seeds"),
    "seed": ("int", "of the random draws: the same seed on the same log gives the same batch"),
    "selected_at": ("timestamp", "UTC"),
    "against_version": ("int", "of duels: the champion that model_version is compared with"),
    "challenger_answer": ("string", "of duels"),
    "champion_answer": ("string", "of duels"),
}
DATASET: dict[str, tuple[str, str]] = {
    "image_id": ("string", _IMAGE["image_id"]),
    "image_url": ("string", "where the picture lies"),
    "label": ("string", "the class that counts, of all answers"),
    "split": ("string", "train and validation teach; holdout and duel judge; excluded is left out"),
    "reason": ("string", "why people were asked, or why it may judge all the same"),
    "round": ("int", "in which it came in"),
    "image_hash": ("string", _IMAGE["image_hash"]),
    "note": ("string", "why it is left out, or follows a near-duplicate"),
}
EVALUATION: dict[str, tuple[str, str]] = {
    "image_id": ("string", "an image of the holdout: no version was trained on it"),
    "label": ("string", "what people say"),
    "predicted": ("string", "what the version says"),
    "confidence": ("float", "of the predicted class"),
    "true_probability": ("float", "of the labeled class"),
    "squared_error": ("float", "between the distribution and the truth, summed over the classes"),
}
DEPLOYMENTS: dict[str, tuple[str, str]] = {
    "deployment_id": ("string", "sorts by time"),
    "endpoint": ("string", "what answers requests"),
    "model_name": ("string", "which model"),
    "model_version": ("int", "who was to serve"),
    "previous_version": ("int", "who served before"),
    "outcome": ("string", "promoted, or rolled_back at the first trouble"),
    "reason": ("string", "why"),
    "round": ("int", "whose labels decided it"),
    "run_id": ("string", "the run of Dagster"),
    "deployed_at": ("timestamp", "UTC"),
}


def schema(columns: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """As Dagster shows it."""
    return dg.TableSchema([dg.TableColumn(name, type_, described) for name, (type_, described) in columns.items()])
