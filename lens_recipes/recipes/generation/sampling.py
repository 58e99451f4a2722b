"""How a model is to generate: what the caller asks for, over what its checkpoint says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from transformers import GenerationConfig
from transformers.generation import GenerationMode, StopStringCriteria

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.handle import on_meta, tokenizer_of
from lens_recipes.models.loading.reading import read_generation_config

# What `generate` does where neither the caller nor the checkpoint says anything (transformers 5).
DEFAULTS = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "use_cache": True,
}
SAMPLER = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)

# What this recipe decides: `generate` returns nothing but ids, and each step is one plain call of
# the model.
DECIDED_HERE = {
    "max_length": None,
    "stop_strings": None,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "prefill_chunk_size": None,
    "disable_compile": True,
}

# Settings that look back at the ids, and the value that does not. Looking back at padding, a padded
# prompt would not
# give what it gives alone.
LOOK_BACK = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "min_length": 0,
    "watermarking_config": None,
}

# Settings that leave the scores as they are.
KEEP_SCORES = {
    *DECIDED_HERE,
    *SAMPLER,
    "max_new_tokens",
    "do_sample",
    "use_cache",
    "eos_token_id",
    "pad_token_id",
    "bos_token_id",
    "cache_implementation",
    "cache_config",
    "max_time",
    "num_beams",
    "num_return_sequences",
}

# What would make `generate` follow several texts, or call the model twice in a step, and the value
# that does not.
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
        """At most so many tokens are written after each prompt."""
        return self.options["max_new_tokens"]

    @property
    def pads_are_harmless(self) -> bool:
        """Whether a prompt padded on the left is penalised like the prompt alone."""
        return all(self.options.get(name) in (None, neutral) for name, neutral in LOOK_BACK.items())

    @property
    def changes_scores(self) -> bool:
        """Whether tokens may be sampled from other scores than the model's own logits."""
        if self.options.get("do_sample"):
            return True
        return any(
            value is not None and name not in KEEP_SCORES for name, value in self.options.items()
        )

    @property
    def used(self) -> dict[str, Any]:
        """What applies, as JSON can hold it: the sampler's settings only where it samples."""
        effective = dict(DEFAULTS)
        for option, value in self.options.items():
            if option not in DECIDED_HERE and value is not None:
                effective[option] = value
        shown: dict[str, Any] = {}
        for option, value in effective.items():
            if effective["do_sample"] or option not in SAMPLER:
                is_plain = isinstance(value, int | float | str | list)
                shown[option] = value if is_plain else str(value)
        return {**shown, "stop": self.stop, "seed": self.seed}

    def ending(self, tokenizer: Any, prompt: list[int], written: list[int]) -> tuple[int, str]:
        """Return how many of the tokens written after a prompt are its text, and why that ends.

        It is told by transformers' own criteria, after the fact.
        """
        eos = self.options.get("eos_token_id")
        eos_ids = {eos} if isinstance(eos, int) else {*(eos or [])}
        stops = StopStringCriteria(tokenizer, self.stop) if self.stop else None
        for n_tokens, token in enumerate(written, 1):
            if token in eos_ids:
                return n_tokens, "eos"
            if stops is not None:
                text_ids = torch.tensor([prompt + written[:n_tokens]], device="cpu")
                if bool(stops(text_ids, None)[0]):
                    return n_tokens, "stop"
        reason = "length" if len(written) >= self.max_new_tokens else "time"
        return len(written), reason


class Sampler(NamedTuple):
    """The sampler's settings that this recipe takes itself; None for those that are not given."""

    temperature: Any
    top_p: Any
    top_k: Any

    @property
    def given(self) -> dict[str, Any]:
        """Those that are given, by the names of `generate`."""
        return {name: value for name, value in self._asdict().items() if value is not None}


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
    """Return the caller's settings over `generation_config`, over the checkpoint's own.

    One thing is added: a temperature, `top_p` or `sample_top_k` asks for sampling, unless
    `do_sample` says otherwise.

    Raises:
        ValueError: settings that are out of range or contradict each other.
        LensError: a model that cannot generate.
    """
    refuse_no_generation(model._module)
    max_new_tokens, seed = as_python(max_new_tokens), as_python(seed)
    do_sample = as_flag(do_sample)
    sampler = Sampler(as_python(temperature), as_python(top_p), as_python(sample_top_k))
    check_counts(max_new_tokens, seed)
    check_sampler(sampler, do_sample)
    given = sampler.given
    if do_sample is not None:
        given["do_sample"] = do_sample
    elif given:
        given["do_sample"] = True
    options = of_checkpoint(model) | given_settings(as_config(generation_config)) | given
    if options.get("do_sample"):
        check_sampler(Sampler(*(options.get(parameter) for parameter in Sampler._fields)), True)
    else:
        # What the checkpoint says for sampling would only be warned of.
        options |= dict.fromkeys(SAMPLER)
    stops = stop_strings(stop if stop is not None else options.get("stop_strings"), model)
    options |= {**DECIDED_HERE, "max_new_tokens": max_new_tokens}
    if options.get("pad_token_id") is None:
        options["pad_token_id"] = filler_id(options.get("eos_token_id"))
    check_mode(options)
    return GenerationSettings(options, stops, seed)


def of_checkpoint(model: Envoy) -> dict[str, Any]:
    """Return what the checkpoint's own generation_config says."""
    return given_settings(checkpoint_config(model))


def filler_id(eos: Any) -> int:
    """Return the id that fills the rows that have ended; it enters no result."""
    first = eos[0] if isinstance(eos, list) else eos
    return first or 0


# -- checks ------------------------------------------------------------


def refuse_no_generation(module: Any) -> None:
    """Raise LensError if a model cannot generate."""
    can_generate = getattr(module, "can_generate", None)
    if not hasattr(module, "generate") or can_generate is None or not can_generate():
        raise LensError(
            f"{type(module).__name__} cannot generate: it has no generate() of Hugging Face's. "
            + say(python="logit_lens() reads it.", shell="lens-recipes logit-lens reads it.")
        )


def check_counts(max_new_tokens: Any, seed: Any) -> None:
    """Raise ValueError for a length or a seed that is none."""
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens!r} must be a whole number from 1.")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
        raise ValueError(f"seed={seed!r} must be a whole number from 0, or None.")


def check_sampler(sampler: Sampler, do_sample: Any) -> None:
    """Raise ValueError for settings that are out of range, or are given beside greedy decoding."""
    if do_sample is not None and type(do_sample) is not bool:
        raise ValueError(
            f"do_sample={do_sample!r} must be True, False, or None for what the checkpoint says."
        )
    temperature, top_p, top_k = sampler
    if temperature is not None and not (is_number(temperature) and 0 < temperature < math.inf):
        hint = " For greedy decoding pass do_sample=False." if temperature == 0 else ""
        raise ValueError(f"temperature={temperature!r} must be a number above 0.{hint}")
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p={top_p!r} must be a number above 0 and at most 1.")
    if top_k is not None and (type(top_k) is not int or top_k < 0):
        raise ValueError(
            f"sample_top_k={top_k!r} must be a whole number from 1, or 0 for no limit."
        )
    if do_sample is False and sampler.given:
        named = ", ".join(f"{parameter}={value}" for parameter, value in sampler.given.items())
        raise ValueError(
            "do_sample=False is greedy decoding, which has no use for "
            f"{named.replace('top_k', 'sample_top_k')}: leave one of the two out."
        )


def check_mode(options: dict[str, Any]) -> None:
    """Raise ValueError unless the settings follow one text at a time, greedily or sampled."""
    try:
        mode = GenerationConfig(**options).get_generation_mode()
    except ValueError as error:
        raise ValueError(
            f"these generation settings do not go together: {' '.join(str(error).split())}"
        ) from error
    asked = [option for option, off in ONE_TEXT.items() if options.get(option) not in (None, off)]
    if asked:
        option = asked[0]
        raise ValueError(
            several_texts(f"{option}={options[option]}", f"{{{option!r}: {ONE_TEXT[option]}}}")
        )
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(several_texts(mode.value, "one without it"))


def several_texts(asked: str, instead: str) -> str:
    """Return the message about settings that follow several texts."""
    return (
        f"the generation settings ask for {asked}; a lens follows one text at a time, greedy or "
        "sampled. Pass "
        f"generation_config={instead}."
    )


# -- what was given ----------------------------------------------------


def is_number(value: Any) -> bool:
    """Tell whether something is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_python(value: Any) -> Any:
    """Return a number of numpy's as Python's; anything else as it is."""
    if isinstance(value, np.integer):
        return int(value)
    return float(value) if isinstance(value, np.floating) else value


def as_flag(value: Any) -> Any:
    """Return 0, 1 or numpy's truth values as Python's; anything else as it is."""
    is_flag = type(value) in (int, np.bool_) and value in (0, 1)
    return bool(value) if is_flag else value


def as_config(generation_config: Any) -> GenerationConfig:
    """Return the caller's config, which may be a dict of its settings.

    Raises:
        ValueError: it is neither, or has an unknown setting.
    """
    if generation_config is None:
        return GenerationConfig()
    if isinstance(generation_config, GenerationConfig):
        return generation_config
    if not isinstance(generation_config, dict):
        raise ValueError(
            "generation_config must be a transformers GenerationConfig or a dict of its settings; "
            "received "
            f"{type(generation_config).__name__}."
        )
    known = GenerationConfig().to_dict()
    unknown = [setting for setting in generation_config if setting not in known]
    if unknown:
        raise ValueError(f"generation_config has no setting {', '.join(map(repr, unknown))}.")
    return GenerationConfig(**generation_config)


def checkpoint_config(model: Envoy) -> GenerationConfig:
    """Return what the checkpoint says.

    Of a skeleton, which was made from its config alone, what the hub says.
    """
    if on_meta(model):
        revision = getattr(model, "revision", None) or "main"
        try:
            return read_generation_config(model.repo_id, revision)
        except (OSError, AttributeError):
            pass  # it has none, or there is no hub
    return getattr(model._module, "generation_config", None) or GenerationConfig()


def given_settings(config: GenerationConfig) -> dict[str, Any]:
    """Return the settings that a config does not leave to the next in line."""
    settings = {}
    for setting in GenerationConfig().to_dict():
        value = getattr(config, setting, None)
        if value is not None and setting != "transformers_version" and not setting.startswith("_"):
            settings[setting] = value
    return settings


def stop_strings(stop: Any, model: Envoy) -> list[str]:
    """Return the strings that end a text, as a list.

    Raises:
        ValueError: one is empty or no string, or the model has no tokenizer.
    """
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    if not all(isinstance(text, str) and text for text in stops):
        raise ValueError(
            f"stop={stop!r} must be a string or a list of strings, none of them empty."
        )
    if stops and tokenizer_of(model) is None:
        raise ValueError(
            "stop strings need a tokenizer, and this model was loaded without: load(..., "
            "tokenizer=...)."
        )
    # transformers looks for stop strings in the tokens as a tokenizer has them inside.
    if stops and not hasattr(tokenizer_of(model), "_convert_id_to_token"):
        raise ValueError(
            f"stop={stops!r} cannot be looked for: transformers does not search the tokens of a "
            f"{type(tokenizer_of(model)).__name__}. Leave stop out, and cut the text afterwards."
        )
    return stops
