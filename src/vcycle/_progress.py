"""Progress bars on standard error: work says how far it is, and whoever started it whether that is shown."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
DELAY = 1.0
"""Seconds before a bar appears: short work shows none."""
_shown = ContextVar("shown", default=False)


@contextmanager
def shown(*, progress: bool) -> Iterator[None]:
    """Show the bars of what is done in this block; ``False`` leaves it to the blocks around."""
    before = _shown.set(progress or _shown.get())
    try:
        yield
    finally:
        _shown.reset(before)


@contextmanager
def bar(what: str, total: int, *, done: int = 0, unit: str = "sample") -> Iterator[Callable[[int], object]]:
    """Open a bar, ``done`` units of which were there before, and give what moves it on by a number of units."""
    from tqdm import tqdm

    settings = {"total": total, "initial": done, "unit": unit, "file": sys.stderr, "delay": DELAY}
    with tqdm(desc=what, disable=not _shown.get(), **settings) as opened:
        yield opened.update


def track(items: Sequence[Item], what: str, *, unit: str) -> Iterator[Item]:
    """Yield items behind a bar that counts them."""
    with bar(what, len(items), unit=unit) as advance:
        for item in items:
            yield item
            advance(1)
