"""Which keys the large files of a ledger hold, so that an insert looks at what could be the same, not at the history.

A data file never changes, so the sorted hashes of the keys in it are computed once, and lie beside the table:
`_keys/<data file>.<columns>.npy`. An insert searches them; only a file with a hit is read. They can be deleted at any
time. The hash is the same on every machine, as a home may be moved: one that misses a key would let a row in twice.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from al_resources.durable import write_file
from al_resources.ledgers.kept_rows import scan

FOLDER = "_keys"


def that_may_hold(files: Sequence[Path], table: Path, keys: pl.DataFrame) -> list[Path]:
    """Which data files of the table hold one of these keys; a file too many once in 2^64 / (rows of the file)."""
    wanted = np.unique(_hashed(keys)) if files else None
    return [file for file in files if wanted is not None and _meet(_hashes_of(file, table, keys), wanted)]


def forget_deleted(table: Path) -> None:
    """Delete the hashes of files that are gone."""
    for hashes in (table / FOLDER).glob("*.npy"):
        if not (table / hashes.name.partition(".parquet.")[0]).with_suffix(".parquet").exists():
            hashes.unlink(missing_ok=True)


def _meet(known: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> bool:
    """Whether two sorted lists have a value in common, in time that hardly grows with the first."""
    if not len(known):
        return False
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return bool((known[places] == wanted).any())


def _hashes_of(file: Path, table: Path, keys: pl.DataFrame) -> npt.NDArray[np.uint64]:
    """The sorted hashes of a file's keys; computed by the first that asks."""
    kept = table / FOLDER / f"{file.name}.{'-'.join(keys.columns)}.npy"
    try:
        return np.load(kept, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        hashes = np.sort(_hashed(scan([file], keys.schema).collect()))
    content = io.BytesIO()
    np.save(content, hashes, allow_pickle=False)
    write_file(kept, content.getvalue())
    return hashes


def _hashed(keys: pl.DataFrame) -> npt.NDArray[np.uint64]:
    """64 bits of each row; no two different rows look alike before they are hashed."""
    digests = (blake2b(repr(key).encode(errors="surrogatepass"), digest_size=8).digest() for key in keys.iter_rows())
    return np.frombuffer(b"".join(digests), "<u8")
