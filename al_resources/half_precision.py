"""Embeddings as they lie in files: one binary value per image, the little-endian half-precision numbers in a row.

A Delta table knows no 16-bit numbers, and a list of numbers takes its reader several times as long as the bytes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from al_core.records import half_precision

_ITEM = 2  # bytes


def packed(lists: pa.ChunkedArray) -> pa.Array:
    """list<float32> -> binary; null stays null."""
    column = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.nulls(0, lists.type)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    values = half_precision(column.flatten().to_numpy(zero_copy_only=False)).astype("<f2")
    offsets = np.concatenate([[0], np.cumsum(lengths * _ITEM)]).astype(np.int64)
    validity = column.is_valid().buffers()[1] if column.null_count else None
    buffers = [validity, pa.py_buffer(offsets.tobytes()), pa.py_buffer(values.tobytes())]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(column), buffers)


def unpacked(binaries: pa.ChunkedArray) -> pa.Array:
    """binary -> list<float32>, the inverse of `packed`."""
    column = pa.concat_arrays(binaries.cast(pa.large_binary()).chunks or [pa.nulls(0, pa.large_binary())])
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    data = column.buffers()[2]
    values = np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]].view("<f2").astype(np.float32)
    starts = pa.array(((offsets - offsets[0]) // _ITEM).astype(np.int32))
    return pa.ListArray.from_arrays(starts, pa.array(values), mask=column.is_null() if column.null_count else None)
