"""Measure what comes before the first result: the import, the command line, a second `load`, the first lens of a model.

    python benchmarks/starting.py    # JSON on stdout, one line each

Each beside the least that it could be, in turn; seconds are those of the processor, as these are short:

- `import lens_recipes` beside a Python that imports nothing;
- `lens-recipes --help` beside a Python that imports typer and rich, which write it, and numpy;
- a second `load` of smollm2 beside `from_pretrained` of the same folder and its tokenizer;
- the first lens of a loaded model, of 16 tokens, beside its second.

What profiling found.

- The import takes neither torch, transformers nor nnsight: names are resolved when they are first used.
- `--help` imports no model code. What is above typer, rich and numpy are the commands, which must be there to be listed.
- `load` reads the checkpoint as `from_pretrained` does, by memory map. What is added is a look at the header of the
  weights and nnsight's wrapping of the modules.
- The first lens runs the model on a few tokens, to find its blocks and what lies between the last one and the logits
  (`lr.anatomy`). That is the proof that the model is read right, so it cannot go; it is kept with the model, and done
  once. Beside a lens of 16 tokens it is less than half of one.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

IMPORT = "import lens_recipes"
NOTHING = "pass"
HELP = "import sys; sys.argv = ['lens-recipes', '--help']; from lens_recipes.cli.app import main; main()"
TYPER = "import typer, rich.console, rich.table, rich.panel, numpy"


def seconds_of_python(code: str) -> float:
    """Return the processor's seconds of a new Python that runs some code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_of(run: Callable[[], object]) -> float:
    """Return the processor's seconds of a call, without those of the garbage collector, which comes now and then."""
    gc.collect()
    gc.disable()
    started = time.process_time()
    run()
    seconds = time.process_time() - started
    gc.enable()
    return seconds


def in_turn(start: str, beside: str, turn: Callable[[], tuple[float, float]], repeat: int) -> None:
    """Print a start beside its floor, turn by turn, after one turn that warms up."""
    turn()
    pairs = [turn() for _ in range(repeat)]
    line = {
        "start": start,
        "beside": beside,
        "seconds": [round(ours, 3) for ours, _ in pairs],
        "ratios": [round(ours / floor, 3) for ours, floor in pairs],
    }
    print(json.dumps(line), flush=True)


def of_processes(repeat: int) -> None:
    """Print what starts a process."""
    in_turn(
        "import lens_recipes",
        "a Python that imports nothing",
        lambda: (seconds_of_python(IMPORT), seconds_of_python(NOTHING)),
        repeat,
    )
    in_turn(
        "lens-recipes --help",
        "typer, rich and numpy imported",
        lambda: (seconds_of_python(HELP), seconds_of_python(TYPER)),
        repeat,
    )


def of_models(repeat: int) -> None:
    """Print what a model takes before its first result."""
    import transformers

    import lens_recipes as lr
    from lens_recipes.models import smollm2

    folder = smollm2.folder()

    def by_hand() -> None:
        transformers.AutoModelForCausalLM.from_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(folder)

    def loading() -> tuple[float, float]:
        return seconds_of(lambda: lr.load("smollm2")), seconds_of(by_hand)

    prompt = list(range(1000, 1016))

    def first() -> tuple[float, float]:
        model = lr.load("smollm2")

        def read() -> object:
            return lr.logit_lens(model, [prompt])

        return seconds_of(read), seconds_of(read)

    in_turn("load, the second time", "from_pretrained by hand", loading, repeat)
    in_turn("the first lens", "the second", first, repeat)


def main() -> None:
    """Print one line of JSON for each start."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    of_processes(options.repeat)
    of_models(options.repeat)


if __name__ == "__main__":
    main()
