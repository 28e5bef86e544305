"""A map of images by their embeddings: thousands of points in a page that runs nothing and fetches nothing.

What a point's colour means (its label, how much the model doubts it, why it was asked for) is switched by radio buttons
and style rules alone, so that the page works where scripts are forbidden.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from al_core.shown_text import harmless

SIDE = 1_000  # units of the drawing
SHOWN_GROUPS = 12  # of labels and reasons; rarer ones share a colour
COMPONENTS = 50  # principal ones that UMAP begins with
NOT_LABELED, NOT_ASKED, NOT_SCORED, OTHERS = "not labeled", "not asked for", "not scored", "others"
GREY, DARK = "#c9ccd6", "#5b6070"
COLOURS = (
    "#3a6ea5", "#c1444b", "#3d8b5f", "#b5792b", "#7b4fa3", "#2aa0a4", "#d0679d", "#5c6b2f", "#e08e0b", "#1f4e79",
    "#8c564b", "#17806d",
)  # fmt: skip
# from sure to in doubt
DOUBTS = ("#2b3f8c", "#2f6fb0", "#35a0a0", "#6fc276", "#c9d24c", "#f2b134", "#ea7a2f", "#cc2f2f")
STYLE = """
.emap { margin: 1rem 0; } .emap svg { width: 100%; max-width: 46rem; height: auto; display: block; }
.emap svg { background: #fff; border: 1px solid #e3e5ec; border-radius: 8px; }
.emap circle[r="6"] { stroke: #20232f; stroke-width: 1.5; }
.emap label { margin-right: 1rem; cursor: pointer; } .emap .key { display: none; flex-wrap: wrap; gap: .2rem .9rem;
font-size: 13px; margin: .4rem 0; } .emap .key i { display: inline-block; width: .8em; height: .8em;
border-radius: 50%; margin-right: .35em; }"""


@dataclass(frozen=True)
class MapPoints:
    """What is known of each of N images."""

    image_ids: Sequence[str]
    embeddings: np.ndarray  # (N, d)
    labels: Sequence[str | None]
    doubts: np.ndarray  # (N,) one minus the margin; NaN where no model answered
    reasons: Sequence[str | None]  # why it was asked for


def projected(embeddings: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Places (N, 2) from 0 to 1 for embeddings (N, d), and what put them there: UMAP where installed, else PCA."""
    rows = np.asarray(embeddings, np.float32)
    if not len(rows) or not np.ptp(rows, axis=0).any():
        return np.full((len(rows), 2), 0.5), "nothing, for all are alike"
    if find_spec("umap") is not None and len(rows) > COMPONENTS:
        from umap import UMAP  # type: ignore[import-not-found,unused-ignore]

        narrow, _ = _principal_components(rows, COMPONENTS)
        places, how = UMAP(n_components=2, random_state=seed).fit_transform(narrow), "UMAP"
    else:
        places, held = _principal_components(rows, 2)
        how = f"the first two principal components, which hold {held:.0%} of the variance"
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    low, high = np.percentile(places, [0.5, 99.5], axis=0)
    return np.clip((places - low) / np.maximum(high - low, 1e-12), 0, 1), how


def _principal_components(rows: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Rows (N, d) along their `count` directions of largest variance, as far as there are so many; its share."""
    from scipy.linalg import eigh  # type: ignore[import-untyped]  # scikit-learn's PCA is imported for half a second, with pandas

    centred = rows - rows.mean(0)
    width = rows.shape[1]
    covariance = centred.T @ centred
    variances, directions = eigh(covariance, subset_by_index=[max(width - count, 0), width - 1])
    return centred @ directions[:, ::-1], float(variances.sum() / np.trace(covariance))


def drawn(points: MapPoints, name: str, caption: str, places: np.ndarray | None = None) -> str:
    """The map as a piece of HTML; `name` tells the maps of a page apart (letters and digits).

    `places` (N, 2) from 0 to 1 where several maps share them. Asked-for images lie on top and are larger.
    """
    how = ""
    if places is None:
        places, method = projected(points.embeddings)
        how = f" By {method}."
    views = {
        "label": _groups(points.labels, NOT_LABELED),
        "doubt": _doubts(points.doubts),
        "reason": _groups(points.reasons, NOT_ASKED),
    }
    rules, buttons, keys = [], [], []
    for place, (view, (_, key)) in enumerate(views.items()):
        chosen = f"#{name}-{view}:checked ~"
        rules += [f"{chosen} svg .{view[0]}{n}{{fill:{colour}}}" for n, (_, colour, _) in enumerate(key)]
        rules.append(f"{chosen} .key-{view}{{display:flex}}")
        buttons.append(
            f'<input type="radio" name="{name}" id="{name}-{view}"{" checked" if place == 0 else ""}>'
            f'<label for="{name}-{view}">{view}</label>'
        )
        entries = (
            f'<span><i style="background:{colour}"></i>{_escaped(text)} ({count:,})</span>'
            for text, colour, count in key
            if count or text != OTHERS
        )
        keys.append(f'<div class="key key-{view}">{"".join(entries)}</div>')
    circles = _circles(points, places, [numbers for numbers, _ in views.values()])
    return (
        f'<section class="emap"><style>{"".join(rules)}</style><p>{_escaped(caption + how)} Colour:</p>'
        f"{''.join(buttons)}{''.join(keys)}"
        f'<svg viewBox="-10 -10 {SIDE + 20} {SIDE + 20}" role="img" aria-label="{_escaped(caption)}">{circles}</svg>'
        "</section>"
    )


def page(title: str, *maps: str) -> str:
    """A whole page of maps."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_escaped(title)}</title><style>'
        f"body{{font:15px/1.55 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:2rem 1rem}}{STYLE}</style>"
        f"</head><body><h1>{_escaped(title)}</h1>{''.join(maps)}</body></html>\n"
    )


def _circles(points: MapPoints, places: np.ndarray, views: Sequence[np.ndarray]) -> str:
    asked = np.array([reason is not None for reason in points.reasons], bool)
    parts = []
    for n in np.argsort(asked, kind="stable").tolist():
        x, y = (SIDE * places[n, 0], SIDE * (1 - places[n, 1]))
        classes = " ".join(f"{letter}{numbers[n]}" for letter, numbers in zip("ldr", views, strict=True))
        doubt = NOT_SCORED if np.isnan(points.doubts[n]) else f"doubt {points.doubts[n]:.2f}"
        facts = (points.image_ids[n], points.labels[n] or NOT_LABELED, points.reasons[n] or NOT_ASKED, doubt)
        parts.append(
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{6 if asked[n] else 4}" class="{classes}">'
            f"<title>{_escaped(', '.join(facts))}</title></circle>"
        )
    return "".join(parts)


Key = list[tuple[str, str, int]]  # text, colour, how many


def _groups(values: Sequence[str | None], missing: str) -> tuple[np.ndarray, Key]:
    """Which colour each has, and what the colours stand for: the most common ones have their own."""
    counts = Counter(value for value in values if value is not None)
    own = [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_GROUPS]]
    number = {value: n for n, value in enumerate(sorted(own))}
    others, none = len(number), len(number) + 1
    placed = np.array([none if value is None else number.get(value, others) for value in values], np.int64)
    key = [(value, COLOURS[n], counts[value]) for value, n in number.items()]
    key += [(OTHERS, DARK, int((placed == others).sum())), (missing, GREY, int((placed == none).sum()))]
    return placed, key


def _doubts(doubts: np.ndarray) -> tuple[np.ndarray, Key]:
    """As `_groups`, in equal steps from sure to in doubt."""
    steps = len(DOUBTS)
    unknown = np.isnan(doubts)
    placed = np.clip((np.nan_to_num(doubts) * steps).astype(np.int64), 0, steps - 1)
    placed[unknown] = steps
    texts = [f"{n / steps:.2f} to {(n + 1) / steps:.2f}" for n in range(steps)]
    key = [(text, colour, int((placed == n).sum())) for n, (text, colour) in enumerate(zip(texts, DOUBTS, strict=True))]
    return placed, [*key, (NOT_SCORED, GREY, int(unknown.sum()))]


def _escaped(text: str) -> str:
    return html.escape(harmless(text))
