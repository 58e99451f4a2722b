"""Ctrl-C at every line of a run's bookkeeping: model, files and jobs stay whole and usable.

By tracing, not by chance: one pass notes which lines run, and then each of them is interrupted once,
where it is first reached. A line that only says `try:` is left out: Python looks for signals where it
calls or loops. Each line is taken of `logit_lens` and `save`, of longer runs every third to 24th
and each of the modules that hold something for a while (`CROWDED`).
"""

from __future__ import annotations

import gc
import linecache
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import filelock
import numpy as np
import pytest
import torch

import lens_recipes as lr
from lens_recipes.models.handle import attention_configs, exclusive
from lens_recipes.models.structure import known

pytest_plugins = ["loopback"]

PACKAGE = Path(lr.__file__).parent
BOOKKEEPING = (
    *("run/", "recipes/", "views/files/", "models/handle.py", "models/structure/known.py"),
    *("models/structure/fingerprint.py", "models/structure/anatomy.py"),
    *("models/structure/record/probe.py", "models/structure/block/blocks.py"),
)
# What holds something for a while: a lock, a switched model, a file, what arrived.
CROWDED = {
    "attention": ("run/recipe.py", "attribution/attribution.py"),
    "generation": ("run/recipe.py", "generation/generate.py"),
    "sending": ("jobs/job.py", "jobs/file.py"),
    "waiting": ("jobs/job.py", "jobs/waiting.py", "http/answers.py"),
    "examining": ("structure/known.py", "run/recipe.py"),
    "": (),
}
PROMPTS = ["one prompt", "another prompt"]
N_PARTS = 4  # of the lines of a run, so that several processes share them

each_part = pytest.mark.parametrize("part", range(N_PARTS))


class Line(NamedTuple):
    """A line of this package."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{Path(self.file).relative_to(PACKAGE)}:{self.number}"


# -- tracing -----------------------------------------------------------

WATCHED: dict[str, bool] = {}


def is_watched(file: str) -> bool:
    """Whether a file is one of the bookkeeping."""
    if file not in WATCHED:
        path = Path(file)
        inside = path.is_relative_to(PACKAGE) and path.suffix == ".py"
        WATCHED[file] = inside and path.relative_to(PACKAGE).as_posix().startswith(BOOKKEEPING)
    return WATCHED[file]


class Traced:
    """Calls `at` with each line of the bookkeeping that this thread reaches."""

    def __init__(self, at: Callable[[Line], None]) -> None:
        self.at = at

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self.enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def enter(self, frame: FrameType, _event: str, _value: Any) -> Any:
        return self.line if is_watched(frame.f_code.co_filename) else None

    def line(self, frame: FrameType, event: str, _value: Any) -> Any:
        if event == "line":
            self.at(Line(frame.f_code.co_filename, frame.f_lineno))
        return self.line


def lines_of(call: Callable[[], Any]) -> list[Line]:
    """The lines that a call reaches, in the order in which it reaches them first."""
    found: dict[Line, None] = {}
    with Traced(lambda line: found.setdefault(line)):
        call()
    return [line for line in found if linecache.getline(*line).strip() != "try:"]


def interrupt(call: Callable[[], Any], where: Line) -> Any:
    """Interrupt a call at a line; return what it returns all the same, or None.

    The line may not be reached: what an earlier call has found out is not asked again.
    """
    hits = []

    def at(line: Line) -> None:
        if line == where and not hits:
            hits.append(line)
            raise KeyboardInterrupt

    try:
        with Traced(at):
            return call()
    except KeyboardInterrupt:
        assert hits
    return None


def chosen(lines: list[Line], part: int, step: int, crowded: str = "") -> list[Line]:
    """The lines of one part, of which every `step`-th is taken, and each that is crowded."""
    taken = [
        line
        for number, line in enumerate(lines)
        if number % step == 0 or (crowded and line.file.endswith(CROWDED[crowded]))
    ]
    assert len(taken) > 80
    return taken[part::N_PARTS]


# -- what must be as before --------------------------------------------


def state_of(model: Any) -> dict[str, Any]:
    """What a run may switch for a while, of a model and of this process."""
    module = model._module
    hooks = [
        (name, len(child._forward_hooks), len(child._forward_pre_hooks), child.training)
        for name, child in module.named_modules()
    ]
    return {
        "hooks": hooks,
        "attention": [implementation for _, implementation in attention_configs(module)],
        "grad": [weight.requires_grad for weight in module.parameters()],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.random.get_rng_state().tolist(),
        "interleaving": model.interleaver.interleaving,
        "weights": sum(float(weight.sum()) for weight in module.parameters()),
    }


def arrays_of(result: Any) -> dict[str, np.ndarray]:
    """All numbers of a result."""
    arrays = {name: value for name, value in vars(result).items() if isinstance(value, np.ndarray)}
    for name, value in vars(result.tokens).items():
        arrays[f"tokens.{name}"] = np.asarray(value)
    return arrays


def check_same(result: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Two results are of the same numbers."""
    found, wanted = arrays_of(result), arrays_of(expected)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        if array.dtype.kind == "f" and tolerance:
            np.testing.assert_allclose(found[name], array, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)


TARGET = {"prompts": PROMPTS, "targets": 260}
WRITING = {"prompts": PROMPTS, "max_new_tokens": 2}
RUNS = {
    "logit_lens": (partial(lr.logit_lens, prompts=PROMPTS), 1, ""),
    "by component": (partial(lr.attribution, unit="component", **TARGET), 3, ""),
    "by token": (partial(lr.attribution, unit="token", **TARGET), 5, "attention"),
    "greedy": (partial(lr.generate_lens, do_sample=False, **WRITING), 6, "generation"),
    "sampled": (partial(lr.generate_lens, temperature=1.5, seed=3, **WRITING), 8, ""),
}


@each_part
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_interrupted_leaves_the_model_as_it_was(llama, name, part):
    recipe, step, crowded = RUNS[name]
    run = partial(recipe, llama)
    expected = run()
    before = state_of(llama)
    for line in chosen(lines_of(run), part, step, crowded):
        result = interrupt(run, line)
        try:
            if result is not None:
                assert isinstance(result, lr.LensResult)
                assert result.responses
                assert result.summary()
            assert state_of(llama) == before
            check_same(run(), expected)
        except BaseException as error:
            error.add_note(f"after an interrupt at {line}")
            raise
    with exclusive(llama):
        pass


@each_part
def test_a_model_that_is_interrupted_while_it_is_examined_is_examined_again(llama, part):
    def run() -> Any:
        known._known_models.pop(llama._module, None)
        return lr.logit_lens(llama, PROMPTS)

    expected = run()
    before = state_of(llama)
    for line in chosen(lines_of(run), part, 8, "examining"):
        interrupt(run, line)
        try:
            assert state_of(llama) == before
            check_same(lr.logit_lens(llama, PROMPTS), expected)
        except BaseException as error:
            error.add_note(f"after an interrupt at {line}")
            raise


# -- files -------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_file_is_the_old_one_or_the_new_one(llama, tmp_path, suffix):
    old, new = lr.logit_lens(llama, PROMPTS[:1]), lr.logit_lens(llama, PROMPTS)
    path = tmp_path / f"a{suffix}"
    old.save(path)
    save = partial(new.save, path)
    lines = lines_of(save)
    assert len(lines) > 40
    for line in lines:
        old.save(path)
        interrupt(save, line)
        try:
            assert [found.name for found in tmp_path.iterdir()] == [path.name]
            read = lr.LensResult.load(path)
            check_same(read, old if len(read.prompts) == 1 else new)
            save()
            assert len(lr.LensResult.load(path).prompts) == 2
        except BaseException as error:
            error.add_note(f"after an interrupt at {line}")
            raise


# -- jobs --------------------------------------------------------------


@pytest.fixture
def twice(settings):
    """Each prompt is a job of its own."""
    settings(tokens_per_job=1)


def check_lock(path: Path) -> None:
    """No lock of a job's file is held; another process could take it."""
    gc.collect()  # of what the traceback of the interrupt held
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    with lock:
        pass


def go_on(job: Any) -> Any:
    """The result of a job that was interrupted, which may have to be told to send again."""
    try:
        return job.result()
    except lr.RemoteLensError as error:
        if "was being sent when the connection or the process ended" not in str(error):
            raise
        return job.send(again=True).result()


def check_left(folder: Path) -> None:
    """Beside a job's file there is its lock at most."""
    left = {found.name for found in folder.iterdir()}
    assert left <= {"a.job", ".a.job.lock"}


@each_part
def test_a_job_that_is_interrupted_while_it_is_sent(client, server, clock, tmp_path, part):
    path = tmp_path / "a.job"

    def submit() -> Any:
        path.unlink(missing_ok=True)
        server.reset()
        return lr.submit(lr.logit_lens, client, PROMPTS, path=path)

    expected = submit().result()
    for line in chosen(lines_of(submit), part, 24, "sending"):
        path.unlink(missing_ok=True)
        interrupt(submit, line)
        try:
            check_left(tmp_path)
            if path.exists():
                check_lock(path)
                check_same(go_on(lr.Job.load(path, client)), expected, 1e-5)
            else:
                check_same(submit().result(), expected, 1e-5)
        except BaseException as error:
            error.add_note(f"after an interrupt at {line}")
            raise


@each_part
def test_a_job_that_is_interrupted_while_it_is_waited_for(
    client, server, twice, clock, tmp_path, part
):
    """It goes on here or from its file, after one line and the next in turn."""
    path = tmp_path / "a.job"
    jobs: list[Any] = []

    def submit() -> None:
        path.unlink(missing_ok=True)
        server.reset()
        jobs[:] = [lr.submit(lr.logit_lens, client, PROMPTS, path=path)]

    submit()
    expected = jobs[0].result()
    submit()
    lines = chosen(lines_of(lambda: jobs[0].result()), part, 24, "waiting")
    for number, line in enumerate(lines):
        submit()
        interrupt(jobs[0].result, line)
        try:
            check_left(tmp_path)
            check_lock(path)
            job = jobs[0] if number % 2 else lr.Job.load(path, client)
            check_same(go_on(job), expected, 1e-5)
            assert server.posts == len(PROMPTS)  # nothing is computed twice
        except BaseException as error:
            error.add_note(f"after an interrupt at {line}")
            raise
