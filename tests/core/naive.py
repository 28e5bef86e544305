"""What is measured against: query strategies as their papers state them, in plain loops; nothing saved or clever."""

from __future__ import annotations

import numpy as np


def hamming_distance(one: str, other: str) -> int:
    """In how many bits two near-duplicate hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs, by subtraction."""
    differences = one[:, None, :].astype(np.float64) - other[None, :, :].astype(np.float64)
    return np.sqrt((differences**2).sum(axis=2))


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def k_center(rows: np.ndarray, labeled: np.ndarray, count: int) -> list[int]:
    picks: list[int] = []
    for _ in range(count):
        if not len(labeled) and not picks:
            picks.append(int(np.linalg.norm(rows - rows.mean(axis=0, dtype=np.float64), axis=1).argmin()))
            continue
        centres = np.concatenate([labeled, rows[picks]])
        nearest = distances(rows, centres).min(axis=1)
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return picks


def gradients(probs: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Last-layer gradients, (N, C d), formed one by one."""
    rows = []
    for p, v in zip(probs.astype(np.float64), embeddings.astype(np.float64), strict=True):
        error = p - np.eye(len(p))[p.argmax()]
        rows.append(np.outer(error, v).ravel())
    return np.array(rows)


def sequences(rows: np.ndarray, count: int, first: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence that k-means++ can draw."""
    square = distances(rows, rows) ** 2
    found = {(first,): 1.0}
    for _ in range(count - 1):
        longer = {}
        for sequence, probability in found.items():
            weights = square[:, list(sequence)].min(axis=1)
            for row, share in enumerate(weights / weights.sum()):
                if share > 0:
                    longer[(*sequence, row)] = probability * share
        found = longer
    return found


def typical(
    rows: np.ndarray, clusters: np.ndarray, labeled_clusters: np.ndarray, count: int
) -> tuple[list[int], list[float]]:
    members = {cluster: np.flatnonzero(clusters == cluster).tolist() for cluster in np.unique(clusters)}

    def density(row: int, cluster: int) -> float:
        others = [other for other in members[cluster] if other != row]
        if not others:
            return 0.0
        near = np.sort(distances(rows[[row]], rows[others])[0])[: min(20, len(members[cluster]) // 2)]
        return float(1 / (near.mean() + 1e-5))

    by_density = {
        cluster: sorted(rows_, key=lambda row, cluster=cluster: (-density(row, cluster), row))
        for cluster, rows_ in members.items()
    }
    queue = sorted(members, key=lambda one: ((labeled_clusters == one).sum(), -len(members[one])))
    picks: list[int] = []
    for small in (False, True):
        served = [cluster for cluster in queue if (len(members[cluster]) < 5) == small]
        while any(by_density[cluster] for cluster in served):
            for cluster in served:
                if by_density[cluster]:
                    picks.append(by_density[cluster].pop(0))
    return picks[:count], [density(row, int(clusters[row])) for row in picks[:count]]


def cover(rows: np.ndarray, labeled: np.ndarray, radius: float, count: int) -> tuple[list[int], list[int]]:
    graph = distances(rows, rows) <= radius
    covered = (distances(rows, labeled) <= radius).any(axis=1) if len(labeled) else np.zeros(len(rows), bool)
    picks: list[int] = []
    gains: list[int] = []
    while len(picks) < count:
        degrees = (graph & ~covered[None, :]).sum(axis=1)
        degrees[picks] = -1
        if degrees.max() <= 0:
            break
        pick = int(degrees.argmax())
        picks.append(pick)
        gains.append(int(degrees[pick]))
        covered |= graph[pick]
    return picks, gains


def herding(
    rows: np.ndarray, labeled: np.ndarray, bandwidth: float, count: int, weights: np.ndarray | float = 1.0
) -> tuple[list[int], list[float]]:
    """Picks and gains, up to where two candidates are as good within rounding."""

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.exp(-(distances(one, other) ** 2) / (2 * bandwidth**2))

    covered = kernel(labeled, rows).max(axis=0) if len(labeled) else np.zeros(len(rows))
    picks: list[int] = []
    gains: list[float] = []
    for _ in range(count):
        rises = (np.maximum(kernel(rows, rows) - covered, 0) * weights).mean(axis=1)
        rises[picks] = -1
        if len(rows) > 1 and np.diff(np.sort(rises)[-2:])[0] < 1e-6:
            break
        picks.append(int(rises.argmax()))
        gains.append(float(rises.max()))
        covered = np.maximum(covered, kernel(rows[picks[-1:]], rows)[0])
    return picks, gains


def in_turns(queues: list[list[int]], count: int) -> list[int]:
    """Every queue in turn hands in its first item that nobody handed in before."""
    picks: list[int] = []
    while len(picks) < count:
        for queue in queues:
            while queue and queue[0] in picks:
                queue.pop(0)
            if queue and len(picks) < count:
                picks.append(queue.pop(0))
    return picks


def entropy(probs: np.ndarray) -> float:
    return -sum(float(p) * float(np.log(p)) for p in probs if p > 0)
