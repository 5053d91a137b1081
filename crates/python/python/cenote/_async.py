"""Helpers for asyncio, which is imported on first use: that takes longer than the rest of `import cenote`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


async def in_thread(
    work: Callable[Parameters, Answer], *arguments: Parameters.args, **options: Parameters.kwargs
) -> Answer:
    """Runs `work` in a thread beside the event loop, and returns its answer."""
    import asyncio

    return await asyncio.to_thread(work, *arguments, **options)


async def pause(seconds: float) -> None:
    """Waits for a number of seconds."""
    import asyncio

    await asyncio.sleep(seconds)
