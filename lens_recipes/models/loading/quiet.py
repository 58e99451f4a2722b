"""Loading a model without other libraries' talk, which would stand before the user's result."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

# Notices that say nothing to the user: a logger, and a text that they hold. transformers
# imports torchao wherever it is installed. torchao then warns of each of its kernels that was built
# for another machine, and torch warns of how torchao registers its types.
_NOTICES = (
    ("torchao", "Failed to load "),
    ("torchao", "Skipping import of cpp extensions"),
    ("torch.utils._pytree", "register_constant() on Enum subclasses is deprecated"),
    # A list of two hundred classes, where the text side of a multimodal model is loaded.
    ("transformers.pipelines.base", "is not supported for text-generation"),
)

_LOG = logging.getLogger("lens_recipes")


class _Demote(logging.Filter):
    """A filter that hands notices which hold a text to this package's log, at debug level."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record goes its own way."""
        message = record.getMessage()
        if self.text not in message:
            return True
        _LOG.debug("%s: %s", record.name, message)
        return False


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep other libraries' notices, and progress bars that are full, off the terminal.

    Errors and all other warnings are shown. What is held back is logged by `lens_recipes` at debug
    level. Afterwards the other libraries' logs and bars are as they were.
    """
    with _demoted_notices(), _passing_bars(), _passing_bar_of_gguf():
        yield


@contextlib.contextmanager
def _demoted_notices() -> Iterator[None]:
    with contextlib.ExitStack() as restore:
        for logger_name, text in _NOTICES:
            logger, demote = logging.getLogger(logger_name), _Demote(text)
            logger.addFilter(demote)
            restore.callback(logger.removeFilter, demote)
        yield


def _passing_bar(bar: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return a tqdm bar that goes away when it is full, and is not drawn into files and pipes."""
    return bar(*args, **{"leave": False, "disable": None} | kwargs)


@contextlib.contextmanager
def _passing_bars() -> Iterator[None]:
    """Make the bars of transformers pass, unless the user's program has changed them itself."""
    from transformers.utils import logging as transformers_logging

    set_hook = getattr(transformers_logging, "set_tqdm_hook", None)
    if set_hook is None:  # no release that is supported lacks it; a coming one may
        yield
        return

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _passing_bar(bar, *args, **kwargs)

    before = set_hook(hook)
    if before is not None:
        set_hook(before)
    try:
        yield
    finally:
        set_hook(before)


@contextlib.contextmanager
def _passing_bar_of_gguf() -> Iterator[None]:
    """Make the bar pass that transformers shows while it reads a GGUF file: no hook reaches it."""
    try:
        from transformers import modeling_gguf_pytorch_utils as gguf

        before = gguf.tqdm
    except (ImportError, AttributeError):  # a coming release may show it in another way
        yield
        return

    def tqdm(*args: Any, **kwargs: Any) -> Any:
        return _passing_bar(before, *args, **kwargs)

    gguf.tqdm = tqdm
    try:
        yield
    finally:
        gguf.tqdm = before
