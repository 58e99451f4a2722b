"""How a model is to generate: what the caller asked for, over what its checkpoint says, checked before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from transformers import GenerationConfig
from transformers.generation import GenerationMode, StopStringCriteria

from lens_recipes.errors import LensError
from lens_recipes.models.handle import on_meta, tokenizer_of

# What `generate` does where neither the caller nor the checkpoint says anything (transformers 5).
DEFAULTS = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "use_cache": True}

SAMPLER = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")

# What this recipe decides itself: `generate` is to return nothing, and every step is one call of the model as it is.
_OURS = {
    "max_length": None, "stop_strings": None, "return_dict_in_generate": False, "output_scores": False,
    "output_logits": False, "output_attentions": False, "output_hidden_states": False, "prefill_chunk_size": None,
    "disable_compile": True,
}  # fmt: skip

# Settings that look back at the ids, padding included, so that a padded prompt would not give what it gives alone.
_LOOK_BACK = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "sequence_bias": None, "min_length": 0,
    "watermarking_config": None,
}  # fmt: skip

# Settings that leave the scores as they are.
_NO_SCORES = {
    *_OURS, *SAMPLER, "max_new_tokens", "do_sample", "use_cache", "eos_token_id", "pad_token_id", "bos_token_id",
    "cache_implementation", "cache_config", "max_time", "num_beams", "num_return_sequences",
}  # fmt: skip

# What would make `generate` follow several texts, or call the model twice in a step, and the value that does not.
ONE_TEXT = {"num_beams": 1, "num_return_sequences": 1, "guidance_scale": 1, "penalty_alpha": 0}


@dataclass(frozen=True)
class GenerationSettings:
    """How a model is to generate.

    Attributes:
        options: Keyword arguments of Hugging Face's `generate`, all that are not its own defaults.
        stop: Strings that end a row, the stop string included.
        seed: For the sampler; None leaves the generator as it is.
    """

    options: dict[str, Any]
    stop: list[str]
    seed: int | None

    @property
    def max_new_tokens(self) -> int:
        return self.options["max_new_tokens"]

    @property
    def pads_are_harmless(self) -> bool:
        """Whether a prompt padded on the left is penalised like the prompt alone."""
        return all(
            self.options.get(name) in (None, neutral) for name, neutral in _LOOK_BACK.items()
        )

    @property
    def changes_scores(self) -> bool:
        """Whether what is sampled from may not be the model's own logits."""
        return bool(self.options.get("do_sample")) or any(
            value is not None for key, value in self.options.items() if key not in _NO_SCORES
        )

    def ending(self, tokenizer: Any, prompt: list[int], written: list[int]) -> tuple[int, str]:
        """How many of the tokens written after a prompt are its text, and why that ends, by transformers' criteria."""
        eos = self.options.get("eos_token_id")
        ends = {eos} if isinstance(eos, int) else {*(eos or [])}
        stops = StopStringCriteria(tokenizer, self.stop) if self.stop else None
        for n, token in enumerate(written, 1):
            if token in ends:
                return n, "eos"
            if stops is not None and bool(stops(torch.tensor([prompt + written[:n]]), None)[0]):
                return n, "stop"
        return len(written), "length" if len(written) >= self.max_new_tokens else "time"

    @property
    def used(self) -> dict[str, Any]:
        """What applies, as JSON can hold it: the sampler's settings only where it samples."""
        given = {
            key: value
            for key, value in self.options.items()
            if key not in _OURS and value is not None
        }
        effective = DEFAULTS | given
        if not effective["do_sample"]:
            effective = {key: value for key, value in effective.items() if key not in SAMPLER}
        plain = {
            key: v if isinstance(v, int | float | str | list) else str(v)
            for key, v in effective.items()
        }
        return {**plain, "stop": self.stop, "seed": self.seed}


def generation_settings(
    model: Envoy,
    max_new_tokens: Any,
    *,
    generation_config: Any = None,
    temperature: Any = None,
    top_p: Any = None,
    sample_top_k: Any = None,
    do_sample: Any = None,
    seed: Any = None,
    stop: Any = None,
) -> GenerationSettings:
    """The caller's settings over those of `generation_config`, over the checkpoint's own, as in Hugging Face.

    One thing is added: a temperature, `top_p` or `sample_top_k` asks for sampling, unless `do_sample` says otherwise.

    Raises:
        ValueError: settings that are out of range or contradict each other.
        LensError: a model that cannot generate.
    """
    module: Any = model._module
    if not (hasattr(module, "generate") and getattr(module, "can_generate", bool)()):
        raise LensError(
            f"{type(module).__name__} cannot generate: it has no generate() of Hugging Face's. logit_lens() reads it."
        )
    max_new_tokens, seed, sample_top_k = map(_whole, (max_new_tokens, seed, sample_top_k))
    temperature, top_p = map(_real, (temperature, top_p))
    do_sample = (
        bool(do_sample) if type(do_sample) in (int, np.bool_) and do_sample in (0, 1) else do_sample
    )
    sampler = {"temperature": temperature, "top_p": top_p, "top_k": sample_top_k}
    _check_ours(max_new_tokens, seed)
    _check_sampler(sampler, do_sample)
    given = {
        key: value
        for key, value in {**sampler, "do_sample": do_sample}.items()
        if value is not None
    }
    if do_sample is None and any(key in given for key in sampler):
        given["do_sample"] = True
    options = of_checkpoint(model) | _said(_config(generation_config)) | given
    if options.get("do_sample"):
        _check_sampler({name: options.get(name) for name in sampler}, True)
    else:
        options |= dict.fromkeys(
            SAMPLER
        )  # what the checkpoint says for sampling would only be warned of
    stops = _stops(stop if stop is not None else options.get("stop_strings"), model)
    options |= {**_OURS, "max_new_tokens": max_new_tokens}
    if options.get("pad_token_id") is None:  # what fills the rows that have ended enters no result
        eos = options.get("eos_token_id")
        options["pad_token_id"] = (eos[0] if isinstance(eos, list) else eos) or 0
    _check_mode(options)
    return GenerationSettings(options, stops, seed)


def of_checkpoint(model: Envoy) -> dict[str, Any]:
    """What the checkpoint's own generation_config says."""
    return _said(_checkpoint(model))


def _check_ours(max_new_tokens: Any, seed: Any) -> None:
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens!r} must be a whole number from 1.")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
        raise ValueError(f"seed={seed!r} must be a whole number from 0, or None.")


def _check_sampler(sampler: dict[str, Any], do_sample: Any) -> None:
    if do_sample is not None and type(do_sample) is not bool:
        raise ValueError(
            f"do_sample={do_sample!r} must be True, False, or None for what the checkpoint says."
        )
    temperature, top_p, top_k = sampler.values()
    if temperature is not None and not (_is_number(temperature) and 0 < temperature < math.inf):
        hint = " For greedy decoding pass do_sample=False." if temperature == 0 else ""
        raise ValueError(f"temperature={temperature!r} must be a number above 0.{hint}")
    if top_p is not None and not (_is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p={top_p!r} must be a number above 0 and at most 1.")
    if top_k is not None and (type(top_k) is not int or top_k < 0):
        raise ValueError(
            f"sample_top_k={top_k!r} must be a whole number from 1, or 0 for no limit."
        )
    said = ", ".join(f"{name}={value}" for name, value in sampler.items() if value is not None)
    if do_sample is False and said:
        raise ValueError(
            f"do_sample=False is greedy decoding, which has no use for {said.replace('top_k', 'sample_top_k')}: leave "
            "one of the two out."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    """A whole number of any kind as an int; anything else as it is."""
    return int(value) if isinstance(value, np.integer) else value


def _real(value: Any) -> Any:
    return float(value) if isinstance(value, np.floating) else value


def _config(generation_config: Any) -> GenerationConfig:
    if generation_config is None or isinstance(generation_config, GenerationConfig):
        return generation_config or GenerationConfig()
    if isinstance(generation_config, dict):
        known = GenerationConfig().to_dict()
        unknown = [key for key in generation_config if key not in known]
        if unknown:
            raise ValueError(f"generation_config has no setting {', '.join(map(repr, unknown))}.")
        return GenerationConfig(**generation_config)
    raise ValueError(
        f"generation_config must be a transformers GenerationConfig or a dict of its settings; received "
        f"{type(generation_config).__name__}."
    )


def _checkpoint(model: Envoy) -> GenerationConfig:
    """What the checkpoint says; of a skeleton, which was made from its config alone, what is on the hub."""
    if on_meta(model):
        try:
            return GenerationConfig.from_pretrained(
                model.repo_id, revision=getattr(model, "revision", None) or "main"
            )
        except (OSError, AttributeError):
            pass
    return getattr(model._module, "generation_config", None) or GenerationConfig()


def _said(config: GenerationConfig) -> dict[str, Any]:
    """The settings that are not left to the next in line."""
    known = GenerationConfig().to_dict()
    found = {key: getattr(config, key, None) for key in known if not key.startswith("_")}
    return {
        key: value
        for key, value in found.items()
        if value is not None and key != "transformers_version"
    }


def _stops(stop: Any, model: Envoy) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    if not all(isinstance(text, str) and text for text in stops):
        raise ValueError(
            f"stop={stop!r} must be a string or a list of strings, none of them empty."
        )
    if stops and tokenizer_of(model) is None:
        raise ValueError(
            "stop strings need a tokenizer, and this model was loaded without: load(..., tokenizer=...)."
        )
    return stops


def _check_mode(options: dict[str, Any]) -> None:
    try:
        mode = GenerationConfig(**options).get_generation_mode()
    except ValueError as error:
        raise ValueError(
            f"these generation settings do not go together: {' '.join(str(error).split())}"
        ) from error
    asked = next(
        (name for name, off in ONE_TEXT.items() if options.get(name) not in (None, off)), None
    )
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) or asked:
        what = f"{asked}={options[asked]}" if asked else mode.value
        instead = f"{{{asked!r}: {ONE_TEXT[asked]}}}" if asked else "one without it"
        raise ValueError(
            f"the generation settings ask for {what}; a lens follows one text at a time, greedy or sampled. Pass "
            f"generation_config={instead}."
        )
