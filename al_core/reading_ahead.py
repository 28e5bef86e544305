"""Reading ahead: the next item of a stream is made while one is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, one of them fetched ahead in a thread of its own; an error comes where its item would have."""
    stream, nothing = iter(items), object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, stream, nothing)
        while (item := coming.result()) is not nothing:
            coming = reader.submit(next, stream, nothing)
            yield item  # type: ignore[misc]
