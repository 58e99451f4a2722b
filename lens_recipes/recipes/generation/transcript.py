"""The steps of a generation become results: one for each token as it comes, and one for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import Response, Site, Tokens
from lens_recipes.models.handle import load_seconds, tokenizer_of
from lens_recipes.models.vocabulary import prompt_text, token_texts
from lens_recipes.results import LensResult
from lens_recipes.run.assemble import all_ids, certificate_of, in_prompt_order, lens_result
from lens_recipes.trace.buffers import token_axis


def trim_finished_rows(
    arrays: Arrays,
    prompts: list[int],
    encoded: list[list[int]],
    ending: Callable[[list[int], list[int]], Any],
) -> GeneratedBatch:
    """What a server's run of a batch was: each row up to its own end, rows as prompts.

    `ending` says of a prompt and what was written after it how many tokens that is, and why it ends.
    """
    arrays = dict(arrays)
    seconds = [(float(model), float(lens)) for model, lens in arrays.pop("seconds")]
    row, written = arrays.pop("row"), arrays["generated"]
    keep, ends = ~written, {}
    for number, prompt in enumerate(prompts):
        own = (written & (row == number)).nonzero()[0]
        n, ends[prompt] = ending(encoded[prompt], arrays["next_id"][own].tolist())
        keep[own[:n]] = True
    found = {"prompt": row, **arrays}
    found = {name: value.compress(keep, token_axis(name)) for name, value in found.items()}
    return GeneratedBatch(
        {**found, "prompt": np.array(prompts)[found["prompt"]]}, ends, seconds, interrupted=False
    )


# What a run says of its tokens beside the arrays of `readout`, `[token]`.
_SPOTS = {
    "prompt": np.int32, "position": np.int32, "id": np.int32, "next_id": np.int32, "generated": np.bool_,
    "next_logprob": np.float32, "sampler_logprob": np.float32,
}  # fmt: skip

# What `decoding.Watch` keeps, of one step or of several, step after step; with prompts in place of rows.
Arrays = dict[str, np.ndarray]


@dataclass
class GeneratedBatch:
    """What one batch left behind.

    Attributes:
        arrays: Of all its steps; none if it was cut off before the first.
        ends: Why each prompt's text ended, "" if it was cut off.
        seconds: (model and sampler, lens) of each step.
        interrupted: Whether it was cut off.
    """

    arrays: Arrays
    ends: dict[int, str]
    seconds: list[tuple[float, float]]
    interrupted: bool


@dataclass
class GenerationAssembler:
    """What a result needs beside the numbers: sites, prompts and targets `[prompt]`, and where it all comes from."""

    model: Envoy
    sites: list[Site]
    encoded: list[list[int]]
    wanted: list[list[int]]
    record: dict[str, Any]

    def __post_init__(self) -> None:
        self.prompts = [prompt_text(tokenizer_of(self.model), ids) for ids in self.encoded]

    def parts(self, arrays: Arrays) -> Iterator[LensResult]:
        """One result for each token that was generated, step after step; its provenance names the prompt's number.

        Raises:
            LensError: the lens was not the model's own output.
        """
        for token in np.flatnonzero(arrays["generated"]):
            part = self._result(
                [{name: v.take([token], token_axis(name)) for name, v in arrays.items()}], {}
            )
            part.provenance["prompt"] = int(arrays["prompt"][token])
            yield part

    def whole(self, runs: list[GeneratedBatch], started: float, tokenise_s: float) -> LensResult:
        """All that was read, prompt after prompt; those that had not begun are left out.

        Raises:
            LensError: the lens was not the model's own output.
        """
        since = time.perf_counter()
        ends = {
            prompt: end or "interrupted"
            for run in runs
            if run.arrays
            for prompt, end in run.ends.items()
        }
        result = self._result([run.arrays for run in runs if run.arrays], ends)
        result.provenance["timings"] = {
            "load_s": load_seconds(self.model),
            "tokenise_s": tokenise_s,
            **_timings(runs),
            "text_s": time.perf_counter() - since,
            "input_tokens": sum(len(self.encoded[prompt]) for prompt in ends),
        }
        if left := [prompt for prompt in range(len(self.encoded)) if prompt not in ends]:
            result.provenance["not_begun"] = left
        result.provenance["seconds"] = round(time.perf_counter() - started, 3)
        return result

    def _result(self, runs: list[Arrays], ends: dict[int, str]) -> LensResult:
        """All that some runs read, as one certified result."""
        token_prompts = np.concatenate([run["prompt"] for run in runs]).tolist()
        numbers = in_prompt_order([dict(run) for run in runs], token_prompts)
        shown, numbers["prompt"] = np.unique(numbers["prompt"], return_inverse=True)
        spots: dict[str, Any] = {
            name: numbers.pop(name).astype(dtype) for name, dtype in _SPOTS.items()
        }
        wanted = [self.wanted[prompt] for prompt in shown]
        texts = token_texts(
            tokenizer_of(self.model), all_ids(numbers, [spots["id"], spots["next_id"]], wanted)
        )
        certificate = certificate_of(numbers, self.model)
        certificate.check()
        return lens_result(
            numbers,
            self.sites,
            Tokens(**spots, text=[texts[int(i)] for i in spots["id"]]),
            [self.prompts[prompt] for prompt in shown],
            wanted,
            texts,
            certificate,
            {**self.record, "dtype": certificate.dtype},
            [Response(self._text(spots, n), ends[int(prompt)]) for n, prompt in enumerate(shown)]
            if ends
            else [],
        )

    def _text(self, spots: dict[str, np.ndarray], number: int) -> str:
        """What was written after one prompt, without special tokens."""
        ids = spots["next_id"][spots["generated"] & (spots["prompt"] == number)].tolist()
        return prompt_text(tokenizer_of(self.model), ids, special=False)


def _timings(runs: list[GeneratedBatch]) -> dict[str, float | None]:
    """Seconds of model and lens; the first step of each run is its prefill."""
    prefill = sum(run.seconds[0][0] for run in runs if run.seconds)
    decode = sum(model for run in runs for model, _ in run.seconds[1:])
    lens = sum(lens for run in runs for _, lens in run.seconds)
    begun = [run for run in runs if run.arrays]
    tokens = sum(int(run.arrays["generated"].sum()) for run in begun)
    first = sum(len(run.ends) for run in begun)  # one token of each prompt
    return {
        "prefill_s": prefill,
        "decode_s": decode,
        "decode_per_token_s": decode / (tokens - first) if tokens > first else None,
        "lens_s": lens,
        "output_tokens": tokens,
        "tokens_per_second": tokens / total if (total := prefill + decode + lens) else None,
    }
