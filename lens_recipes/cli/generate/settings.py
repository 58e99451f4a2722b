"""The settings of `lens-recipes generate`: the command line, over the checkpoint, over defaults."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from lens_recipes.cli.generate.arguments import (
    MAX_LENGTH,
    SAMPLER_DEFAULTS,
    GivenSettings,
    option_name,
)
from lens_recipes.models.handle import context_length, resolve_remote, tokenizer_of
from lens_recipes.recipes.generation.sampling import ONE_TEXT, generation_settings, of_checkpoint
from lens_recipes.run.request.images.prompts import read_image_prompts
from lens_recipes.run.request.prompts import encode

# Settings that `describe` names in a way of its own, or not at all.
DESCRIBED = {*SAMPLER_DEFAULTS, "do_sample", "use_cache", "max_new_tokens", "stop", "seed"}


class Plan(NamedTuple):
    """Keyword arguments for `generate_lens`, and a line that says where each setting is from."""

    options: dict[str, Any]
    line: str


class TokenLimit(NamedTuple):
    """The most new tokens, and the words that say why."""

    max_new_tokens: int
    words: str


class Bound(NamedTuple):
    """A bound on the new tokens, and the setting that it follows from."""

    max_new_tokens: int
    setting: str
    value: int
    source: str


def plan_generation(
    model: Any,
    prompt: Any,
    given: GivenSettings,
    *,
    add_special_tokens: bool = True,
    images: Any = None,
) -> Plan:
    """Choose every setting, and say where it is from.

    Args:
        model: What `load()` returns.
        prompt: A string or a chat.
        given: The settings of the command line.
        add_special_tokens: As in the tokenizer.
        images: Those of the prompt, as for `generate_lens`.

    Raises:
        ValueError: There is no room for a new token, or settings do not go together.
        LensError: The model cannot generate.
    """
    checkpoint = of_checkpoint(model)
    n_prompt = prompt_length(model, prompt, images, add_special_tokens=add_special_tokens)
    limit = token_limit(n_prompt, context_length(model), checkpoint, given)
    do_sample = checkpoint.get("do_sample", True)
    if given.greedy or given.sampler:
        do_sample = not given.greedy
    defaults: dict[str, float] = {}
    if do_sample:
        missing = [setting for setting in SAMPLER_DEFAULTS if setting not in checkpoint]
        defaults = {setting: SAMPLER_DEFAULTS[setting] for setting in missing}
    sampler = defaults | given.sampler
    seed = given.seed
    if seed is None and do_sample and not resolve_remote(model, None):  # a server may not take one
        seed = secrets.randbelow(2**32)
    options = {
        "max_new_tokens": limit.max_new_tokens,
        "do_sample": do_sample,
        "temperature": sampler.get("temperature"),
        "top_p": sampler.get("top_p"),
        "sample_top_k": sampler.get("top_k"),
        "seed": seed,
        "stop": given.stop or None,
    }
    overridden = settings_of_several_texts(checkpoint)
    if overridden:
        options["generation_config"] = {setting: ONE_TEXT[setting] for setting in overridden}
    used = generation_settings(model, **options).used
    words = [
        sampling_words(do_sample, given, checkpoint),
        *sampler_words(used, do_sample, defaults, given),
        limit.words,
        *seed_and_stop_words(used, do_sample, given),
        *checkpoint_words(used, overridden, checkpoint),
    ]
    return Plan(options, f"settings: {', '.join(words)}")


def prompt_length(model: Any, prompt: Any, images: Any, *, add_special_tokens: bool) -> int:
    """Return how many tokens a prompt has, those of its images included."""
    tokenizer = tokenizer_of(model)
    if images is None:
        return len(encode(prompt, tokenizer, add_special_tokens=add_special_tokens)[0])
    (read,) = read_image_prompts(
        model, prompt, images, tokenizer, add_special_tokens=add_special_tokens
    )
    return len(read.token_ids)


def settings_of_several_texts(checkpoint: dict[str, Any]) -> list[str]:
    """Return the checkpoint's settings that ask for several texts: only one can be followed."""
    settings = []
    for setting, neutral in ONE_TEXT.items():
        if checkpoint.get(setting) not in (None, neutral):
            settings.append(setting)
    return settings


# -- the length --------------------------------------------------------


def token_limit(
    n_prompt: int, context: int | None, checkpoint: dict[str, Any], given: GivenSettings
) -> TokenLimit:
    """Return how many new tokens there may be; a given length is refused rather than cut.

    Args:
        n_prompt: Tokens of the prompt.
        context: Tokens that the model can read, None for any number.
        checkpoint: What the checkpoint says.
        given: The settings of the command line.

    Raises:
        ValueError: There is no room for a new token, or not for as many as were given.
    """
    if context is not None and n_prompt >= context:
        raise ValueError(
            f"the prompt is {n_prompt} tokens long, and this model's context holds {context}: "
            "there is no room for a new token. Shorten it."
        )
    bound = nearest_bound(n_prompt, checkpoint, given)
    setting = f"{bound.setting} {bound.value}"
    if bound.max_new_tokens < 1:
        raise ValueError(
            f"the prompt is {n_prompt} tokens long, and --{setting} ({bound.source}) counts them: "
            "there is no room for a new token. Give a larger --max-length, or --max-new-tokens, "
            "which does not count the prompt."
        )
    if context is None or bound.max_new_tokens <= context - n_prompt:
        return TokenLimit(bound.max_new_tokens, f"{setting} ({bound.source})")
    if bound.source == "given":
        raise ValueError(
            f"--{setting} goes beyond this model's context, which holds {context} tokens. The "
            f"prompt takes {n_prompt}: --max-new-tokens can be at most {context - n_prompt}."
        )
    words = f"max-length {context} (the model's context; {bound.source}: {setting})"
    return TokenLimit(context - n_prompt, words)


def nearest_bound(n_prompt: int, checkpoint: dict[str, Any], given: GivenSettings) -> Bound:
    """Return the bound that is reached first."""
    max_length, max_new_tokens, source = given.max_length, given.max_new_tokens, "given"
    if max_length is None and max_new_tokens is None:
        max_new_tokens, source = checkpoint.get("max_new_tokens"), "checkpoint"
        if max_new_tokens is None:  # which goes before max_length, as in Hugging Face
            max_length = checkpoint.get("max_length")
    if max_length is None and max_new_tokens is None:
        max_length, source = MAX_LENGTH, "default"
    bounds = []
    if max_new_tokens is not None:
        bounds.append(Bound(max_new_tokens, "max-new-tokens", max_new_tokens, source))
    if max_length is not None:
        bounds.append(Bound(max_length - n_prompt, "max-length", max_length, source))
    return min(bounds)


# -- the line that says where each setting is from ---------------------


def sampling_words(do_sample: bool, given: GivenSettings, checkpoint: dict[str, Any]) -> str:
    """Say whether tokens are sampled, and who says it."""
    if given.greedy or given.sampler:
        source = "given"
    elif "do_sample" in checkpoint:
        source = "checkpoint"
    else:
        source = "default"
    return f"sampling ({source})" if do_sample else f"greedy ({source})"


def sampler_words(
    used: dict[str, Any], do_sample: bool, defaults: dict[str, float], given: GivenSettings
) -> list[str]:
    """Say how tokens are sampled, if they are."""
    if not do_sample:
        return []
    words = []
    for setting in SAMPLER_DEFAULTS:
        if setting in given.sampler:
            source = "given"
        elif setting in defaults:
            source = "default"
        else:
            source = "checkpoint"
        words.append(f"{option_name(setting)} {used[setting]} ({source})")
    return words


def seed_and_stop_words(used: dict[str, Any], do_sample: bool, given: GivenSettings) -> list[str]:
    """Say the seed of the sampler, if there is one, and the strings that end the text."""
    words = []
    if do_sample and used["seed"] is not None:
        source = "drawn" if given.seed is None else "given"
        words.append(f"seed {used['seed']} ({source})")
    if used["stop"]:
        source = "given" if given.stop else "checkpoint"
        words.append(f"stop {', '.join(map(repr, used['stop']))} ({source})")
    return words


def checkpoint_words(
    used: dict[str, Any], overridden: list[str], checkpoint: dict[str, Any]
) -> list[str]:
    """Say what else the checkpoint sets, and what of it had to be overridden."""
    words = []
    for setting, value in used.items():
        described = setting in DESCRIBED or setting in ONE_TEXT or setting.endswith("token_id")
        if not described:
            words.append(f"{setting} {value} (checkpoint)")
    for setting in overridden:
        reason = f"the checkpoint's {checkpoint[setting]} is not one text"
        words.append(f"{setting} {ONE_TEXT[setting]} ({reason})")
    return words
