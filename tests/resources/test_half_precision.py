"""Embeddings in files: 16 bits a number, nothing else changed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from al_core.records import half_precision
from al_resources.half_precision import packed, unpacked

LISTS = pa.list_(pa.float32())
halves = st.floats(width=16, allow_nan=False)


@given(st.lists(st.none() | st.lists(halves, max_size=5), max_size=8), st.integers(0, 3), st.integers(1, 4))
def test_what_fits_16_bits_comes_back_from_any_slice_and_any_chunks(rows, start, size):
    whole = pa.chunked_array([rows[at : at + size] for at in range(0, len(rows), size)], LISTS)
    part = whole.slice(start)
    stored = pa.chunked_array([packed(part)])
    assert unpacked(stored).to_pylist() == part.to_pylist()
    assert unpacked(stored.slice(1)).to_pylist() == part.slice(1).to_pylist()


def test_the_largest_half_stands_for_finite_numbers_beyond_it():
    values = half_precision(np.array([1e6, -1e6, np.inf, np.nan, 0.1], np.float32))
    assert values[:3].tolist() == [65504.0, -65504.0, np.inf]
    assert np.isnan(values[3])
    assert abs(values[4] - 0.1) < 1e-4
