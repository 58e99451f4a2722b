"""The browser that draws a figure: started for one image, and ended whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import plotly.graph_objects as go

# Longer than any working browser takes on a busy machine.
SECONDS_TO_START = 60.0

# Kaleido itself gives a page 90 seconds; this is for a browser that no longer answers at all.
SECONDS_TO_DRAW = 120.0

# How long a browser may take to end in its own way. After that it is killed.
SECONDS_TO_END = 10.0


def draw_image(figure: go.Figure, options: dict[str, str | float | None]) -> bytes:
    """Return a figure as the bytes of an image, drawn by a browser that is started and ended here.

    This is `kaleido.calc_fig_sync` with an ending. Kaleido leaves a browser that fails while it
    starts half open. The thread that reads what the browser says then waits forever, and keeps
    the user's process alive with it. A browser that starts and never answers is waited for without
    a limit.

    Args:
        figure: Any plotly figure.
        options: What kaleido calls a layout: format, width, height and scale.

    Raises:
        ImportError: kaleido is missing.
        kaleido.errors.ChromeNotFoundError: there is no browser.
        kaleido.errors.BrowserFailedError: the browser ends as soon as it is started.
        TimeoutError: the browser does not answer.
        Exception: whatever kaleido raises where a browser fails.
    """
    return _run_apart(_draw(figure, options))


async def _draw(figure: go.Figure, options: dict[str, str | float | None]) -> bytes:
    from choreographer.channels import ChannelClosedError
    from kaleido import Kaleido
    from kaleido.errors import BrowserFailedError

    # It reports what is left in the pipe of a browser that was told to end.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
    browser = Kaleido(n=1, mathjax=False)
    try:
        await _within(SECONDS_TO_START, browser.open())
        return await _within(SECONDS_TO_DRAW, browser.calc_fig(figure, opts=options))
    except ChannelClosedError as error:
        # It ended, and its pipe was looked at before that was noticed.
        raise BrowserFailedError("the browser ended") from error
    finally:
        # Also where it failed to open. A second call does nothing.
        await _close(browser)


async def _within(seconds: float, step: Coroutine[Any, Any, Any]) -> Any:
    """Return what a step of the browser returns, or raise TimeoutError when its time is up.

    `asyncio.wait_for` would do, if kaleido did not answer its cancellation with its own error.
    """
    task = asyncio.ensure_future(step)
    done, _ = await asyncio.wait([task], timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # asyncio complains about errors that nobody has looked at
    raise TimeoutError(f"it did not answer within {seconds:g} s")


async def _close(browser: Any) -> None:
    """End the browser, by force where it does not end by itself.

    Cancelled, kaleido stops waiting for an answer, closes its pipes and kills the browser.
    """
    task = asyncio.ensure_future(browser.close())
    done, _ = await asyncio.wait([task], timeout=SECONDS_TO_END)
    if not done:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _run_apart(work: Coroutine[Any, Any, bytes]) -> bytes:
    """Return what a coroutine returns, run in a thread of its own.

    In a notebook, the thread of the caller already runs an event loop.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
