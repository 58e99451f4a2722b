"""What a lens on a server costs, beside the plain recipe that saves full probabilities; and what results weigh.

    python benchmarks/remote.py            # starts the test server (make test-ndif installs it), SmolLM2
    python benchmarks/remote.py --sizes    # no server: bytes of results, beside their estimate

The plain recipe is what tutorials show: norm and unembedding of every layer's output, probabilities saved, the top 5
taken here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import nnsight
import torch
import transformers
import zstandard
from nnsight.intervention.backends.remote import RemoteBackend

import lens_recipes as lr
from lens_recipes.run.remote.estimate import bytes_back, server_bytes
from lens_recipes.run.remote.wire import model_key
from lens_recipes.trace.pack import pack_arrays

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ndif"))

TEXT = " ".join(topics["assert"].split())
CASES = {
    "last position": {"positions": -1, "track": None},
    "last position, tracked": {"positions": -1},
    "all positions": {"track": None},
    "all positions, tracked": {},
}


def sizes() -> None:
    """Bytes of results as they travel, of SmolLM2 and of 80 random layers with Llama 3's vocabulary, 100 tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=64, intermediate_size=128, num_hidden_layers=80, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    small = lr.load("smollm2")
    ids = small.tokenizer(TEXT)["input_ids"][:100]
    for name, model in (
        ("SmolLM2", small),
        ("80 layers", lr.load(transformers.LlamaForCausalLM(config).eval())),
    ):
        for case, options in CASES.items():
            run = lr.logit_lens.prepare(model, ids, **options)
            found = [
                pack_arrays(run.traced(model, run.plan, batch, **run.local))
                for batch in run.batches
            ]
            blob = io.BytesIO()
            torch.save({"found": found}, blob)
            there = len(zstandard.ZstdCompressor().compress(blob.getvalue()))
            print(
                json.dumps(
                    {"model": name, "case": case, "bytes_back": there, "estimated": bytes_back(run, 1),
                     "server_mb_estimated": round(server_bytes(run) / 1e6, 1)}
                )
            )  # fmt: skip


class Counting(RemoteBackend):
    """nnsight's own client, that remembers how much came back."""

    received = 0

    def finalize(self, content: bytes) -> object:
        self.received = len(content)
        return super().finalize(content)


def plain(model: object, host: str, ids: list[int]) -> int:
    """The recipe of the tutorials; bytes that came back."""
    backend = Counting(model_key(model), host=host)
    with model.trace(torch.tensor([ids]), backend=backend):
        probs = nnsight.save([])
        for layer in model.model.layers:
            probs.append(model.lm_head(model.model.norm(layer.output)).softmax(-1).cpu())
    for layer in probs:
        layer.topk(5)
    return backend.received


def lens(model: object, ids: list[int], options: dict) -> int:
    """The recipe; bytes that came back."""
    return lr.logit_lens(model, ids, **options).provenance["jobs"]["bytes_back"]


def against_plain(repeat: int) -> None:
    """Seconds and bytes of the lens and of the plain recipe, in turn."""
    from server import SMOLLM2, NdifServer, models

    with models() as home, NdifServer(home) as server:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_CACHE = str(home / "hub")
        model = lr.load(SMOLLM2, remote=server.url)
        nnsight.CONFIG.APP.REMOTE_LOGGING = False
        ids = model.tokenizer(TEXT)["input_ids"]
        for n in (16, 100):
            runs: dict[str, Callable[[], int]] = {
                case: lambda options=options, n=n: lens(model, ids[:n], options)
                for case, options in CASES.items()
            }
            runs["plain"] = lambda n=n: plain(model, server.url, ids[:n])
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            came: dict[str, int] = {}
            for turn in range(repeat + 1):
                for name, run in runs.items():
                    started = time.perf_counter()
                    came[name] = run()
                    if turn:
                        seconds[name].append(time.perf_counter() - started)
            for name, values in seconds.items():
                row = {
                    "tokens": n,
                    "case": name,
                    "seconds": round(statistics.median(values), 2),
                    "bytes_back": came[name],
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--sizes", action="store_true")
    options.add_argument("--repeat", type=int, default=3)
    chosen = options.parse_args()
    sizes() if chosen.sizes else against_plain(chosen.repeat)
