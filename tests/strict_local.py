"""nnsight's `remote="local"` made as strict as a server: named packages cannot be imported, only saved values return.

nnsight's own simulation leaves this package importable while the block runs, and takes results from
the caller's frame; a real NDIF server does neither. What is sent must be source, too.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import linecache
import sys
import weakref
from collections.abc import Iterator

import pytest
from cloudpickle import cloudpickle
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import _saves, dec, inc, save
from nnsight.tracing.util import push

running: list[bool] = []  # while a block runs as on a server


class _Absent(importlib.abc.MetaPathFinder):
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def absent(*packages: str) -> Iterator[None]:
    """Make packages unimportable, also the ones that are already imported."""
    hidden = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in packages
    }
    finder = _Absent(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(hidden)


@contextlib.contextmanager
def strange_classes() -> Iterator[None]:
    """A class that arrives is a new one.

    As it came from this process, pickle would give the one that is here the functions that arrived,
    which belong to no module: to send them again takes seconds, as each is looked for in all modules.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", weakref.WeakValueDictionary())
        patch.setattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", weakref.WeakKeyDictionary())
        yield


def install(monkeypatch, *packages: str) -> None:
    """For one test: every `remote="local"` run is sent, loaded and run where `packages` do not exist."""

    def run(backend, tracer) -> None:
        pull_env()
        sent = RequestModel.serialize(tracer, compress=False)
        # Of another minor version of Python, a server reads source alone.
        assert b"CodeType" not in sent, "bytecode travels"
        objects = backend.model._remoteable_persistent_objects()
        file = tracer.info.frame.f_code.co_filename
        source = linecache.cache.get(file)
        with absent(*packages), strange_classes():
            try:
                arrived = RequestModel.deserialize(sent, objects, compress=False)
            finally:
                linecache.cache.pop(file, None)
                if source is not None:
                    linecache.cache[file] = source
            inc()
            running.append(True)
            try:
                arrived.execute(arrived.info.code)
                saved = {
                    name: value
                    for name, value in arrived.info.frame.f_locals.items()
                    if id(value) in _saves()
                }
            finally:
                running.pop()
                dec()
        for value in saved.values():
            save(value)
        push(tracer.info.frame, saved)

    monkeypatch.setattr(LocalSimulationBackend, "__call__", run)
