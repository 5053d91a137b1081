"""What asyncio is used for. It is imported with the first use: it takes longer than the rest of `import cenote`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


async def in_thread(
    work: Callable[Parameters, Answer], *arguments: Parameters.args, **options: Parameters.kwargs
) -> Answer:
    """What `work` answers, called in a thread beside the event loop."""
    import asyncio

    return await asyncio.to_thread(work, *arguments, **options)


async def pause(seconds: float) -> None:
    """Waits."""
    import asyncio

    await asyncio.sleep(seconds)
