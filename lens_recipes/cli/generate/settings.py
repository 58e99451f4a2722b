"""How `lens-recipes generate` is to generate: the command line over the checkpoint over the command's own values."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from lens_recipes.cli.options import FALLBACK, MAX_LENGTH
from lens_recipes.models.handle import context_length, resolve_remote, tokenizer_of
from lens_recipes.recipes.generation.sampling import ONE_TEXT, generation_settings, of_checkpoint
from lens_recipes.run.request.prompts import encode


class Plan(NamedTuple):
    """Keyword arguments for `generate_lens`, and a line that says where each setting comes from."""

    options: dict[str, Any]
    line: str


def plan(
    model: Any,
    prompt: Any,
    *,
    sampler: dict[str, Any],
    greedy: bool = False,
    seed: int | None = None,
    stop: list[str] | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
) -> Plan:
    """What is used, and where it comes from.

    Args:
        model: What `load()` returns.
        prompt: A string or a chat.
        sampler: "temperature", "top_p" and "top_k" as they were given, None where they were not.
        greedy, seed, stop, max_length, max_new_tokens: As they were given.

    Raises:
        ValueError: no room for a new token, or settings that do not go together.
        LensError: a model that cannot generate.
    """
    said = of_checkpoint(model)
    given = {name: value for name, value in sampler.items() if value is not None}
    n_prompt = len(encode(prompt, tokenizer_of(model))[0])
    new, bound = _length(n_prompt, context_length(model), said, max_length, max_new_tokens)
    if greedy or given:
        sampling, why = not greedy, "given"
    else:
        sampling, why = (
            said.get("do_sample", True),
            "checkpoint" if "do_sample" in said else "default",
        )
    filled = {
        name: value for name, value in FALLBACK.items() if sampling and name not in said
    } | given
    drawn = (
        seed is None and sampling and not resolve_remote(model, None)
    )  # a server may not take one
    options = {
        "max_new_tokens": new,
        "do_sample": sampling,
        "temperature": filled.get("temperature"),
        "top_p": filled.get("top_p"),
        "sample_top_k": filled.get("top_k"),
        "seed": secrets.randbelow(2**32) if drawn else seed,
        "stop": stop or None,
    }
    # The text of one row is what can be followed, whatever the checkpoint says.
    several = {name: off for name, off in ONE_TEXT.items() if said.get(name) not in (None, off)}
    if several:
        options["generation_config"] = several
    used = generation_settings(model, **options).used
    words = [f"sampling ({why})" if sampling else f"greedy ({why})"]
    for name in FALLBACK if sampling else ():
        source = "given" if name in given else "default" if name in filled else "checkpoint"
        words.append(f"{_option(name)} {used[name]} ({source})")
    words.append(bound)
    if sampling and options["seed"] is not None:
        words.append(f"seed {used['seed']} ({'drawn' if drawn else 'given'})")
    if used["stop"]:
        words.append(
            f"stop {', '.join(map(repr, used['stop']))} ({'given' if stop else 'checkpoint'})"
        )
    known = {*FALLBACK, "do_sample", "use_cache", "max_new_tokens", "stop", "seed"}
    others = [
        name for name in used if name not in {*known, *ONE_TEXT} and not name.endswith("token_id")
    ]
    words += [f"{name} {used[name]} (checkpoint)" for name in others]
    words += [
        f"{name} {off} (the checkpoint's {said[name]} is not one text)"
        for name, off in several.items()
    ]
    return Plan(options, f"settings: {', '.join(words)}")


def _option(name: str) -> str:
    return name.replace("_", "-")


def _length(
    n_prompt: int,
    context: int | None,
    said: dict[str, Any],
    max_length: int | None,
    max_new_tokens: int | None,
) -> tuple[int, str]:
    """How many new tokens there may be, and the bound that says so. What was given is not cut, but refused."""
    room = None if context is None else context - n_prompt
    if room is not None and room < 1:
        raise ValueError(
            f"the prompt is {n_prompt} tokens long, and this model's context holds {context}: there is no room for a "
            "new token. Shorten it."
        )
    given = max_length is not None or max_new_tokens is not None
    source = "given"
    if not given:
        max_length, max_new_tokens, source = (
            said.get("max_length"),
            said.get("max_new_tokens"),
            "checkpoint",
        )
        if max_new_tokens is not None:
            max_length = None  # as in Hugging Face, it goes before
        elif max_length is None:
            max_length, source = MAX_LENGTH, "default"
    bounds = []
    if max_new_tokens is not None:
        bounds.append((max_new_tokens, "max-new-tokens", max_new_tokens))
    if max_length is not None:
        bounds.append((max_length - n_prompt, "max-length", max_length))
    new, name, value = min(bounds)
    if new < 1:
        raise ValueError(
            f"the prompt is {n_prompt} tokens long, and --{name} {value} ({source}) counts them: there is no room for "
            "a new token. Give a larger --max-length, or --max-new-tokens, which does not count the prompt."
        )
    if room is None or new <= room:
        return new, f"{name} {value} ({source})"
    if given:
        raise ValueError(
            f"--{name} {value} goes beyond this model's context, which holds {context} tokens. The prompt takes "
            f"{n_prompt}: --max-new-tokens can be at most {room}."
        )
    return room, f"max-length {context} (the model's context; {source}: {name} {value})"
