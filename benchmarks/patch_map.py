"""What does a patch map cost on SmolLM2, beside one forward pass for each cell, and beside TransformerLens?

    python benchmarks/patch_map.py            # 30 layers × 10 positions; `make test-peers` installs TransformerLens

Ours and the floor are measured in one process, in turn; TransformerLens in its own, right after.
Seconds are those of the processor, so that others on the machine count less.

What profiling found (SmolLM2-135M, float32, one thread). A forward pass of 10 tokens reads all weights for 10 rows of
products; 30 of them in a batch cost 48 ms each in place of 170 ms. Cells of one position share the tokens before it,
which run once: that halves what is left. In all 0.2 × one pass per cell, and 0.14 × TransformerLens.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import lens_recipes as lr
from lens_recipes.models import smollm2

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
CLEAN = "I have been to Paris, the capital of France"
CORRUPT = "I have been to Paris, the capital of Spain"
TURNS = 1


def floor(module, ids: torch.Tensor, n_cells: int) -> None:
    """One forward pass of the plain model for each cell."""
    with torch.no_grad():
        for _ in range(n_cells):
            module(ids)


def seconds_of(run) -> float:
    """Seconds of this process's processor time that a call takes."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    """Print seconds and ratios."""
    model = lr.load("smollm2")
    clean, corrupt = (model.tokenizer(text).input_ids for text in (CLEAN, CORRUPT))
    clean, corrupt = clean[-10:], corrupt[-10:]
    target, against = (model.tokenizer(word).input_ids[0] for word in (",", "."))
    found = []

    def ours() -> None:
        found.append(
            lr.patch_map(model, clean, corrupt, target, against, unit="resid_pre", keep_all=True)
        )

    ours()
    n_cells = found[0].mean.size
    ids = torch.tensor([corrupt])
    mine, plain = [], []
    for _ in range(TURNS):
        mine.append(seconds_of(ours))
        plain.append(seconds_of(lambda: floor(model._module, ids, n_cells)))
    print(f"{n_cells} cells of {len(corrupt)} tokens, {torch.get_num_threads()} threads")
    print(f"patch_map: {min(mine):.1f} s; one pass per cell: {min(plain):.1f} s")
    print(f"patch_map is {min(mine) / min(plain):.2f} × one pass per cell")
    if not PEERS.exists():
        print("no TransformerLens: make test-peers installs it")
        return
    task = {
        "model": str(smollm2.folder()),
        "clean": clean,
        "corrupt": corrupt,
        "target": target,
        "against": against,
        "units": ["resid_pre"],
    }
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "task.pt"), Path(folder, "answer.pt")
        torch.save({"smollm2": task}, given)
        script = ROOT / "tests" / "peers" / "side_of_patching.py"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([PEERS, script, given, answer], check=True, env=environment)
        theirs = torch.load(answer, weights_only=True)["smollm2"]
    seconds = theirs["seconds"]["resid_pre"]
    print(f"TransformerLens: {seconds:.1f} s; ours {min(mine) / seconds:.2f} ×")
    difference = np.abs(theirs["diffs"]["resid_pre"].numpy() - found[0].logit_diffs[0]).max()
    print(f"largest difference: {difference:.1e} logits")


if __name__ == "__main__":
    main()
