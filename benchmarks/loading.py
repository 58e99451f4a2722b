"""How fast is a large saved result read, beside the least that it could cost?

    python benchmarks/loading.py            # both sorts of file, 50 MB; JSON on stdout
    python benchmarks/loading.py --megabytes 10

Measured side by side in one process, interleaved, medians:

- `floor`: the file's bytes as JSON and arrays, or as the members of a zip, and nothing looked at;
- `load`: `LensResult.load`, which holds every field, number and relation against what a run writes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import side_by_side

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES

SITES, TOP_K, VOCAB = 30, 5, 49_152
BYTES_PER_TOKEN = {".json": SITES * 420, ".npz": SITES * 95}  # about, as files


def made_up(n_tokens: int) -> lr.LensResult:
    """A result as large as that of a long text: numbers drawn at random, each one that a run can give."""
    draw = np.random.default_rng(0)
    lengths = {"site": SITES, "token": n_tokens, "k": TOP_K, "prompt": 1, "target": 2, "m": 8}
    arrays: dict[str, Any] = {}
    for name, axes in AXES.items():
        shape = [lengths[axis] for axis in axes]
        if name.endswith(("_ids", "_ranks")):
            arrays[name] = draw.integers(0, VOCAB, shape, dtype=np.int32)
        elif name in ("entropy", "kl_to_final", "logsumexp", "target_logits"):
            arrays[name] = draw.uniform(0, 20, shape).astype(np.float32)
        else:
            arrays[name] = -draw.uniform(0, 20, shape).astype(np.float32)
    ids = draw.integers(0, VOCAB, n_tokens, dtype=np.int32)
    tokens = lr.Tokens(
        prompt=np.zeros(n_tokens, dtype=np.int32),
        position=np.arange(n_tokens, dtype=np.int32),
        id=ids,
        next_id=np.roll(ids, -1),
        generated=np.zeros(n_tokens, dtype=bool),
        text=[f" {token}" for token in ids],
    )
    return lr.LensResult(
        sites=[lr.Site(layer, "resid_post") for layer in range(SITES)],
        tokens=tokens,
        prompts=["a text"],
        texts={token: f" {token}" for token in range(VOCAB)},
        certificate=None,
        provenance={"model": "made up", "vocab_size": VOCAB},
        **arrays,
    )


def read_bare(path: Path) -> Any:
    """What the file holds, unchecked."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: np.array(values) for name, values in content["arrays"].items()}


def main() -> None:
    """Print the medians of each sort of file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=50, help="size of the file, about")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for suffix, per_token in BYTES_PER_TOKEN.items():
            path = Path(folder) / f"a{suffix}"
            made_up(options.megabytes * 2**20 // per_token).save(path)
            runs = {
                "floor": lambda path=path: read_bare(path),
                "load": lambda path=path: lr.LensResult.load(path),
            }
            measured = side_by_side(runs, options.repeat)
            size = round(path.stat().st_size / 2**20, 1)
            print(json.dumps({"file": suffix, "megabytes": size, **measured}), flush=True)


if __name__ == "__main__":
    main()
