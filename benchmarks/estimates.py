"""Print what `lr.estimate` says of Llama-3.1-70B from shapes alone, and how far it is from what truly happens.

    python benchmarks/estimates.py                # the table of the 70B, no download: JSON lines
    python benchmarks/estimates.py --measured     # beside what models that fit here send, take and need (2 minutes)
    python benchmarks/estimates.py --server       # beside what a real server was sent (make test-ndif installs it)

Measured, each with its ratio of estimated to measured:

- bytes: on paper (a config alone), beside a job that was packed and its packed result, of the loaded model;
- memory: the most that a rehearsal on a server (`remote="local"`) grows by in a fresh process, beyond what one of two
  tokens does;
- time: of a rehearsal and of a run in this process, by a `Machine` whose speed is that of one measured forward pass
  with logits, whose memory is that of a measured copy, and whose jobs and passes take beside their work what the
  smallest job and a written token take. Seconds are those of one thread on its processor.
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
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
import zstandard
from side_by_side import each_alone, peak_beyond

import lens_recipes as lr
from lens_recipes.run.registry import prepare_run
from lens_recipes.run.remote.wire import serialize_job
from lens_recipes.run.remote.work import model_size
from lens_recipes.trace.pack import pack_arrays

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ndif"))

PROMPT = 20  # tokens of a prompt of a survey or a patch map
Case = tuple[Callable[..., Any], dict[str, Any]]


def ids(n_tokens: int, seed: int = 0, vocab_size: int = 4096) -> list[int]:
    """Make token ids at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, vocab_size, (n_tokens,), generator=generator).tolist()


def items(n_items: int) -> list[dict[str, Any]]:
    """Make items of a survey, of 12 to 20 tokens."""
    found = []
    for number in range(n_items):
        prompt = ids(12 + number % 9, seed=number)
        found.append({"prompt": prompt, "target": 200 + number % 997, "against": 5000})
    return found


# -- on paper ----------------------------------------------------------


def llama_70b() -> torch.nn.Module:
    """Build Llama-3.1-70B as its config describes it, without a number in its weights."""
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=False, rms_norm_eps=1e-5,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def cases_of_70b() -> dict[str, Case]:
    """Return what is asked of it."""
    prompt, pair = ids(128), (ids(PROMPT, 1), ids(PROMPT, 2))
    rows = [ids(128, seed) for seed in range(160)]
    return {
        "logit lens, 128 tokens": (lr.logit_lens, {"prompts": [prompt]}),
        "logit lens, last of 128 tokens": (lr.logit_lens, {"prompts": [prompt], "positions": -1}),
        "linear lens, last of 128 tokens": (
            lr.logit_lens, {"prompts": [prompt], "positions": -1, "lens": "linear"},
        ),
        "linear lens at 4 layers, 128 tokens": (
            lr.logit_lens, {"prompts": [prompt], "lens": "linear", "layers": [19, 39, 59, 79]},
        ),
        "Jacobian lens, last of 128 tokens": (
            lr.logit_lens, {"prompts": [prompt], "positions": -1, "lens": "jacobian"},
        ),
        "Jacobian lens at 4 layers, 128 tokens": (
            lr.logit_lens, {"prompts": [prompt], "lens": "jacobian", "layers": [19, 39, 59, 79]},
        ),
        "generation, 64 tokens after 128": (
            lr.generate_lens, {"prompts": [prompt], "max_new_tokens": 64, "do_sample": False},
        ),
        "survey of 1,000 prompts": (lr.survey, {"items": items(1000)}),
        "patch map, 20 tokens, all layers": (
            lr.patch_map, {"clean": [pair[0]], "corrupt": [pair[1]], "target": 7, "against": 9},
        ),
        "fit of a linear lens, 20,000 tokens": (
            lr.fit_lens, {"texts": rows, "tokens": 20_000, "quality_tokens": 0},
        ),
        "fit of a Jacobian lens, 100 rows": (
            lr.fit_lens, {"texts": rows[:107], "kind": "jacobian", "quality_tokens": 0},
        ),
    }  # fmt: skip


def on_paper() -> None:
    """Print what is said of the 70B."""
    model = llama_70b()
    for name, (recipe, arguments) in cases_of_70b().items():
        said = lr.estimate(recipe, model, **arguments)
        row = {
            "estimate": name,
            "model": "Llama-3.1-70B in bfloat16",
            "weights_gb": round(said.weight_bytes / 1e9, 1),
            "jobs": said.jobs,
            "tokens": said.tokens,
            "up_mb": round(said.bytes_up / 1e6, 3),
            "back_mb": round(said.bytes_back / 1e6, 3),
            "server_memory_mb": round(said.server_bytes / 1e6, 1),
            "tflop": round((said.flops or 0) / 1e12, 1),
            "work_s": None if said.flops is None else round(said.seconds_of_work(), 2),
            "way_s": round(said.seconds_on_the_way(), 1),
            "assuming": str(lr.Machine()),
        }
        print(json.dumps(row), flush=True)


# -- beside models that run here ---------------------------------------


def small_random() -> torch.nn.Module:
    """Build a small random Llama with a vocabulary as large as SmolLM2's."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=8,
        num_key_value_heads=4, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def models() -> dict[str, Callable[[], Any]]:
    """Return the models that run here, with a tokenizer: without one there is no rehearsal."""
    return {
        "SmolLM2": lambda: lr.load("smollm2"),
        "small random": lambda: lr.load(small_random(), tokenizer=lr.load("smollm2").tokenizer),
    }


def some_lens(model: Any) -> lr.Lens:
    """Make a lens as large as a fitted one, and near to the logit lens, as fitted ones are at late layers."""
    from lens_recipes.trace.transport import Affine

    parts = lr.anatomy(model)
    width = parts.d_model
    generator = torch.Generator().manual_seed(0)
    transports = {}
    for layer in range(-1, parts.n_layers - 1):
        noise = torch.randn(width, width, generator=generator) / width
        bias = torch.randn(width, generator=generator) / width
        transports[layer] = Affine(torch.eye(width) + noise, bias)
    return lr.Lens("linear", transports)


CASES: dict[str, Callable[[], Case]] = {
    "128 tokens": lambda: (lr.logit_lens, {"prompts": [ids(128)]}),
    "128 tokens, linear lens": lambda: (lr.logit_lens, {"prompts": [ids(128)], "lens": "linear"}),
    "last of 512 tokens": lambda: (lr.logit_lens, {"prompts": [ids(512)], "positions": -1}),
    "64 prompts of 16, last": lambda: (
        lr.logit_lens, {"prompts": [ids(16, seed) for seed in range(64)], "positions": -1},
    ),
    "survey of 128": lambda: (lr.survey, {"items": items(128), "bootstrap": 100}),
    "patch map of 12 tokens": lambda: (
        lr.patch_map,
        {"clean": [ids(12, 1)], "corrupt": [ids(12, 2)], "target": 777, "against": 999, "keep_all": True, "layers": list(range(6))},
    ),
    "24 tokens after 64": lambda: (
        lr.generate_lens, {"prompts": [ids(64)], "max_new_tokens": 24, "do_sample": False},
    ),
}  # fmt: skip


def with_lens(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a case, with a lens in place of its name."""
    if "lens" not in arguments:
        return arguments
    return {**arguments, "lens": some_lens(model)}


def packed_sizes(model: Any, recipe: Any, arguments: dict[str, Any]) -> tuple[int, int]:
    """Return the bytes of what is sent and of what comes back, of a run as one job."""
    run = prepare_run(recipe, model, **arguments, remote="local")
    up = len(serialize_job(run, range(len(run.batches))))
    found = [pack_arrays(run.traced(model, run.plan, batch)) for batch in run.batches]
    file = io.BytesIO()
    torch.save({"found": found}, file)
    return up, len(zstandard.ZstdCompressor().compress(file.getvalue()))


def measured_bytes(name: str, make: Callable[[], Any]) -> None:
    """Print bytes on paper beside those of what is truly packed."""
    model = make()
    config = model._module.config
    for case, of_case in CASES.items():
        recipe, arguments = of_case()
        if recipe is lr.survey or recipe is lr.patch_map:
            continue  # of several jobs, or of the same sort
        said = lr.estimate(recipe, config, **arguments)
        up, back = packed_sizes(model, recipe, with_lens(model, arguments))
        row = {"bytes": case, "model": name, "up": up, "back": back}
        row["ratio_up"] = round(said.bytes_up / up, 3)
        row["ratio_back"] = round(said.bytes_back / back, 3)
        print(json.dumps(row), flush=True)


def median_seconds(run: Callable[[], Any], repeat: int) -> float:
    """Return the median of some times, of one thread on its processor, after one that warms up."""
    run()
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def this_machine(model: Any, repeat: int, of_any: dict[str, float]) -> lr.Machine:
    """Measure its speed at one forward pass of 128 tokens with all logits, and at copying memory.

    Args:
        model: The model.
        repeat: How often each is measured.
        of_any: What any job and any pass takes, as `beside_work` measures it.
    """
    tokens = torch.tensor([ids(128)])

    def forward() -> None:
        with torch.inference_mode():
            model._module(input_ids=tokens, use_cache=False)

    run = prepare_run(lr.logit_lens, model, [ids(128)], remote="local")
    size = model_size(run)
    flops = 128 * size.flops_per_token + 128**2 * size.flops_per_pair + 128 * size.flops_per_logits
    speed = flops / median_seconds(forward, repeat)
    source = torch.zeros(2**24)
    target = torch.ones(2**24)
    copying = median_seconds(lambda: target.copy_(source), repeat)
    return lr.Machine(
        flop_per_s=speed,
        float32_flop_per_s=speed,
        bytes_per_s=2 * 2**26 / copying,
        line_bytes_per_s=1e12,
        seconds_per_job=of_any["seconds_per_job"],
        # A written token also reads all weights.
        seconds_per_pass=max(0.0, of_any["seconds_per_pass"] - size.weight_bytes * copying / 2**27),
    )


def beside_work(model: Any, repeat: int) -> dict[str, float]:
    """Measure what a job takes beside its work: one of two tokens there, less the same here; and a pass: one written token."""
    smallest = {"prompts": [ids(2)], "positions": -1, "layers": -1}
    there = median_seconds(partial(lr.logit_lens, model, **smallest, remote="local"), repeat)
    here = median_seconds(partial(lr.logit_lens, model, **smallest), repeat)
    written = {"prompts": [ids(8)], "do_sample": False, "layers": -1}
    two, ten = (
        median_seconds(partial(lr.generate_lens, model, **written, max_new_tokens=n), repeat)
        for n in (2, 10)
    )
    return {"seconds_per_job": max(0.0, there - here), "seconds_per_pass": max(0.0, (ten - two) / 8)}  # fmt: skip


def measured_time(name: str, make: Callable[[], Any], repeat: int, cases: Any = None) -> None:
    """Print estimated seconds beside those of a rehearsal, and of a run in this process."""
    torch.set_num_threads(1)
    model = make()
    of_any = beside_work(model, repeat)
    for case in cases or CASES:
        recipe, arguments = CASES[case]()
        machine = this_machine(model, repeat, of_any)  # anew beside each: a speed drifts
        said = lr.estimate(recipe, model, **arguments)
        given = with_lens(model, arguments)
        there = median_seconds(partial(recipe, model, **given, remote="local"), repeat)
        here = median_seconds(partial(recipe, model, **given), repeat)
        work = said.seconds_of_work(machine)
        whole = work + said.jobs * machine.seconds_per_job
        row = {
            "time": case,
            "model": name,
            "work_s": round(work, 3),
            "with_jobs_s": round(whole, 3),
            "there_s": round(there, 3),
            "here_s": round(here, 3),
            "ratio_there": round(whole / there, 3),
            "ratio_here": round(work / here, 3),
            "gflop_per_s": round(machine.flop_per_s / 1e9, 1),
            "gb_per_s": round(machine.bytes_per_s / 1e9, 1),
            "s_per_job": round(machine.seconds_per_job, 3),
            "s_per_pass": round(machine.seconds_per_pass, 3),
        }
        print(json.dumps(row), flush=True)


MEMORY = {
    f"{model}: {case}": (model, of_case)
    for model in ("SmolLM2", "small random")
    for case, of_case in CASES.items()
    if case in ("128 tokens", "128 tokens, linear lens", "last of 512 tokens", "64 prompts of 16, last")
}  # fmt: skip


def memory_of(name: str) -> dict[str, Any]:
    """Measure how much a rehearsal grows this process by, beside what was said of it."""
    model_name, of_case = MEMORY[name]
    model = models()[model_name]()
    recipe, arguments = of_case()
    smallest = {"prompts": [ids(2)], "positions": -1, "layers": -1}
    recipe(model, **smallest, remote="local")  # what is imported and found out at first
    said = lr.estimate(recipe, model._module.config, **arguments)
    given = with_lens(model, arguments)
    of_any_job = peak_beyond(lambda: recipe(model, **smallest, remote="local"))["grown_mb"]
    sizes = peak_beyond(lambda: recipe(model, **given, remote="local"))
    estimated = said.server_bytes / 2**20
    ratio = estimated / max(1, sizes["grown_mb"] - of_any_job)
    return {**sizes, "of_any_job_mb": of_any_job, "estimated_mb": round(estimated), "ratio": round(ratio, 2)}  # fmt: skip


def measured(repeat: int, timed: list[str]) -> None:
    """Print all that is measured here; times of some of the models."""
    for name, make in models().items():
        measured_bytes(name, make)
    each_alone(__file__, MEMORY)
    for name in timed:
        measured_time(name, models()[name], repeat)


# -- beside a server ---------------------------------------------------


def on_server() -> None:
    """Print bytes on paper beside those that a real server was sent, and gave."""
    import huggingface_hub.constants
    import nnsight.modeling.huggingface
    from server import SMOLLM2, NdifServer
    from server import models as served

    with served() as home, NdifServer(home) as server:
        huggingface_hub.constants.HF_HUB_CACHE = str(home / "hub")
        nnsight.modeling.huggingface._ID_CACHE[SMOLLM2] = SMOLLM2
        model = lr.load(SMOLLM2, remote=server.url)
        for case, of_case in CASES.items():
            recipe, arguments = of_case()
            if recipe is lr.survey:
                continue
            said = lr.estimate(recipe, model._module.config, **arguments)
            found = recipe(model, **with_lens(model, arguments))
            used = found.provenance["jobs"]
            row = {"server": case, "model": "SmolLM2", "jobs": used["jobs"]}
            row |= {"up": used["bytes_up"], "back": used["bytes_back"]}
            row["ratio_up"] = round(said.bytes_up / used["bytes_up"], 3)
            row["ratio_back"] = round(said.bytes_back / used["bytes_back"], 3)
            print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", action="store_true")
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["bytes", "memory", "time"], help="a part of --measured")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="of --only time")
    parser.add_argument("--models", nargs="+", choices=list(models()), default=list(models()))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
    elif options.only == "bytes":
        for name, make in models().items():
            measured_bytes(name, make)
    elif options.only == "memory":
        each_alone(__file__, MEMORY)
    elif options.only == "time":
        for name in options.models:
            measured_time(name, models()[name], options.repeat, options.cases)
    elif options.measured:
        measured(options.repeat, options.models)
    elif options.server:
        on_server()
    else:
        on_paper()


if __name__ == "__main__":
    main()
