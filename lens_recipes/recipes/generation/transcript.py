"""The steps of a generation become results: one for each token as it comes, and one for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lens_recipes.arrays.axes import TOKEN_DTYPES, Response, Site, Tokens
from lens_recipes.arrays.images import NO_PLACE
from lens_recipes.models.handle import load_seconds
from lens_recipes.models.tokens.vocabulary import prompt_text, token_texts
from lens_recipes.models.weights.quantised import cause_in_quantisation
from lens_recipes.results import LensResult
from lens_recipes.run.assemble import (
    all_ids,
    certificate_of,
    columns_of_places,
    in_prompt_order,
    lens_result,
)
from lens_recipes.run.request.images.shown import shown_prompts
from lens_recipes.run.request.request import Request
from lens_recipes.trace.generation.recorder import StepSeconds
from lens_recipes.trace.plan import StreamLinks
from lens_recipes.trace.readout.buffers import token_axis

# What a `GenerationRecorder` keeps of one step or of several, with prompts in place of rows.
Arrays = dict[str, np.ndarray]


@dataclass
class GeneratedBatch:
    """What one batch wrote.

    Attributes:
        arrays: Of all its steps; none if it was cut off before the first.
        finish_reasons: Why the text of each prompt ended, "" if it was cut off.
        seconds: Of each step.
        interrupted: Whether it was cut off.
    """

    arrays: Arrays
    finish_reasons: dict[int, str]
    seconds: list[StepSeconds]
    interrupted: bool


def trim_finished_rows(
    arrays: Arrays,
    prompts: list[int],
    token_ids: list[list[int]],
    ending: Callable[[list[int], list[int]], tuple[int, str]],
) -> GeneratedBatch:
    """Return what a server wrote: each row up to its own end, with prompts in place of rows.

    Args:
        arrays: As they came.
        prompts: The number of each row's prompt.
        token_ids: Of all prompts.
        ending: Says of a prompt and what was written after it how many tokens that is, and why it
            ends.
    """
    arrays = dict(arrays)
    seconds = [StepSeconds(float(model), float(lens)) for model, lens in arrays.pop("seconds")]
    rows, is_written = arrays.pop("row"), arrays["generated"]
    keeps = ~is_written
    finish_reasons = {}
    for row, prompt in enumerate(prompts):
        written = (is_written & (rows == row)).nonzero()[0]
        written_ids = arrays["next_id"][written].tolist()
        n_tokens, finish_reasons[prompt] = ending(token_ids[prompt], written_ids)
        keeps[written[:n_tokens]] = True
    kept = {"prompt": np.array(prompts)[rows][keeps]}
    for array_name, value in arrays.items():
        kept[array_name] = value.compress(keeps, token_axis(array_name))
    return GeneratedBatch(kept, finish_reasons, seconds, interrupted=False)


class GenerationAssembler:
    """Makes results of what was written."""

    def __init__(
        self,
        request: Request,
        sites: list[Site],
        links: StreamLinks,
        provenance: dict[str, Any],
    ) -> None:
        """Keep what a result needs beside the arrays."""
        self.request = request
        self.sites = sites
        self.links = links
        self.provenance = provenance
        self.prompts = shown_prompts(request.tokenizer, request.token_ids, request.places)

    def steps(self, arrays: Arrays) -> Iterator[LensResult]:
        """Yield one result for each token that was generated.

        Its provenance names the prompt's number.

        Raises:
            LensError: the lens was not the model's own output.
        """
        for token in np.flatnonzero(arrays["generated"]):
            of_token = {
                name: value.take([token], token_axis(name)) for name, value in arrays.items()
            }
            result = self.assemble([of_token], {})
            result.provenance["prompt"] = int(arrays["prompt"][token])
            yield result

    def result(self, batches: list[GeneratedBatch]) -> LensResult:
        """Return all that was read, prompt after prompt; those that had not begun are left out.

        Raises:
            LensError: the lens was not the model's own output.
        """
        started = time.perf_counter()
        begun = [batch for batch in batches if batch.arrays]
        finish_reasons = {}
        for batch in begun:
            for prompt, reason in batch.finish_reasons.items():
                finish_reasons[prompt] = reason or "interrupted"
        result = self.assemble([batch.arrays for batch in begun], finish_reasons)
        token_ids = self.request.token_ids
        result.provenance["timings"] = {
            "load_s": load_seconds(self.request.model),
            "tokenise_s": self.request.encode_seconds,
            **step_timings(batches),
            "text_s": time.perf_counter() - started,
            "input_tokens": sum(len(token_ids[prompt]) for prompt in finish_reasons),
        }
        not_begun = [prompt for prompt in range(len(token_ids)) if prompt not in finish_reasons]
        if not_begun:
            result.provenance["not_begun"] = not_begun
        result.provenance["seconds"] = round(self.request.seconds, 3)
        return result

    def assemble(self, batches: list[Arrays], finish_reasons: dict[int, str]) -> LensResult:
        """Return all that some batches read as one certified result.

        Without reasons for the ends of texts it has no responses.
        """
        request = self.request
        token_prompts = np.concatenate([arrays["prompt"] for arrays in batches]).tolist()
        numbers = in_prompt_order([dict(arrays) for arrays in batches], token_prompts)
        begun, numbers["prompt"] = np.unique(numbers["prompt"], return_inverse=True)
        columns: dict[str, Any] = {}
        for column, dtype in TOKEN_DTYPES.items():
            if column in numbers:
                columns[column] = numbers.pop(column).astype(dtype)
        columns |= self.image_columns(begun[columns["prompt"]], columns["position"])
        target_ids = [request.target_ids[prompt] for prompt in begun]
        shown_ids = all_ids(numbers, [columns["id"], columns["next_id"]], target_ids)
        texts = token_texts(request.tokenizer, shown_ids)
        tokens = Tokens(**columns, text=[texts[int(token)] for token in columns["id"]])
        certificate = certificate_of(
            numbers, request.model, self.links, request.anatomy, tokens.is_image
        )
        certificate.check(partial(cause_in_quantisation, self.request.model))
        responses = []
        if finish_reasons:
            for number, prompt in enumerate(begun):
                text = self.written_text(tokens, number)
                responses.append(Response(text, finish_reasons[int(prompt)]))
        return lens_result(
            numbers,
            self.sites,
            tokens,
            [self.prompts[prompt] for prompt in begun],
            target_ids,
            texts,
            certificate,
            {**self.provenance, "dtype": certificate.dtype},
            responses,
            [request.inputs[prompt] for prompt in begun],
            [request.pictures[prompt] for prompt in begun if request.pictures],
        )

    def image_columns(self, prompts: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return where tokens are in the images of their prompts; nothing without images.

        What was written is in none.
        """
        places = self.request.places
        if not places:
            return {}
        found = []
        for prompt, position in zip(prompts.tolist(), positions.tolist(), strict=True):
            of_prompt = places[prompt]
            found.append(of_prompt[position] if position < len(of_prompt) else NO_PLACE)
        return columns_of_places(found)

    def written_text(self, tokens: Tokens, prompt: int) -> str:
        """Return what was written after one prompt, without special tokens."""
        written = tokens.next_id[tokens.generated & (tokens.prompt == prompt)]
        return prompt_text(self.request.tokenizer, written.tolist(), special=False)


def step_timings(batches: list[GeneratedBatch]) -> dict[str, float | None]:
    """Return the seconds of model and lens; the first step of each batch is its prefill."""
    prefill = decode = lens = 0.0
    for batch in batches:
        for number, step in enumerate(batch.seconds):
            lens += step.lens
            if number == 0:
                prefill += step.model
            else:
                decode += step.model
    begun = [batch for batch in batches if batch.arrays]
    n_written = sum(int(batch.arrays["generated"].sum()) for batch in begun)
    n_first = sum(len(batch.finish_reasons) for batch in begun)  # one token of each prompt
    n_later = n_written - n_first
    total = prefill + decode + lens
    return {
        "prefill_s": prefill,
        "decode_s": decode,
        "decode_per_token_s": decode / n_later if n_later > 0 else None,
        "lens_s": lens,
        "output_tokens": n_written,
        "tokens_per_second": n_written / total if total else None,
    }
