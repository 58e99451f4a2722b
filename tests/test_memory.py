"""Memory that runs out: a sentence with what to ask for less of, and a model that can be used again."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from slow import others_slow

import lens_recipes as lr
from lens_recipes.models.weights.memory import is_out_of_memory, memory_errors_in_words

# A run in a process that may take so many MB more than it has.
LIMITED = """
import re, resource, sys
import torch
import lens_recipes as lr

def allow(megabytes):
    taken = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, -1))

def told(call):
    try:
        call()
    except lr.LensError as error:
        assert type(error).__name__ == "OutOfMemory", error
        print(error)
    else:
        sys.exit("it had memory enough")

torch.set_num_threads(1)
"""
RUN = """
model = lr.load("smollm2")
before = lr.logit_lens(model, "The capital")
allow(20)
prompts = [[5] * 1500] * 2
told(lambda: lr.logit_lens(model, prompts, max_bytes=2**30))
told(lambda: lr.attribution(model, prompts, 7, unit="head", positions=None))
told(lambda: lr.generate_lens(model, prompts, max_new_tokens=2))
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
after = lr.logit_lens(model, "The capital")
assert (after.top_ids == before.top_ids).all()
"""
LOAD = """
lr.load("smollm2")
allow({allowed})
told(lambda: lr.load("smollm2", dtype=torch.float64))
"""


def in_a_process(script):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_a_run_says_what_to_ask_for_less_of(smollm2):
    lens, parts, text = in_a_process(RUN)
    for line in (lens, parts, text):
        assert line.startswith("memory ran out")
        assert "pass fewer prompts" in line
    assert "max_bytes" in lens
    assert "max_new_tokens" in text
    assert "max_bytes" not in text


@pytest.mark.parametrize("allowed", others_slow([100, 700], 100))
def test_loading_says_what_takes_less(smollm2, allowed):
    (line,) = in_a_process(LOAD.format(allowed=allowed))
    assert line.startswith("memory ran out")
    assert "dtype=torch.bfloat16" in line
    assert "damaged" not in line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory ran out. Ask for less."),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has"),
            "memory ran out, when 3.00 GiB more were asked for. Ask for less.",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: allocate 314572800 bytes."),
            "memory ran out, when 300 MiB more were asked for. Ask for less.",
        ),
        (OSError(12, "Cannot allocate memory"), "memory ran out. Ask for less."),
    ],
)
def test_each_library_says_it_in_its_own_words(error, words):
    with pytest.raises(lr.LensError) as told, memory_errors_in_words("Ask for less"):
        raise error
    assert str(told.value) == words
    assert told.value.__cause__ is error


def test_another_error_stays_as_it_is():
    for error in (RuntimeError("a shape"), ValueError("x"), lr.LensError("MemoryError is a word")):
        with pytest.raises(type(error)) as told, memory_errors_in_words("Ask for less"):
            raise error
        assert told.value is error
    assert not is_out_of_memory(OSError(2, "No such file or directory"))
