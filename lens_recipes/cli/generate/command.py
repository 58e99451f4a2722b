"""`lens-recipes generate`: the text as it comes, then every step layer by layer, timing and statistics."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.options import (
    EXIT_STATUS,
    FALLBACK,
    MAX_LENGTH,
    Components,
    Followed,
    Json,
    Model,
    Precision,
    Remote,
    check_outputs,
    loaded,
    names,
    note_written,
    output,
    write_json,
)

KEPT = 5  # predictions per layer in the result, if fewer are shown

DEFAULTS = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in FALLBACK.items())

GENERATE_EXAMPLES = f"""
Examples:

  lens-recipes generate "The capital of France is" --greedy --max-new-tokens 8

  lens-recipes generate "Name three colours." --chat --model ./Llama-3.2-1B-Instruct --seed 0 --html steps.html

  lens-recipes generate "Once upon a time" --temperature 0.7 --top-p 0.95 --top-k 5 --max-length 1000 --json story.json

  lens-recipes generate "One, two," --greedy --stop "." --json - | jq .responses

A setting that is not given comes from the checkpoint's generation_config, else it is: sampling with {DEFAULTS}, up
to --max-length {MAX_LENGTH} or the model's context. The first line on stderr says what is used and where it comes from
(on a terminal, after what is shown while the model is loaded);
(given) is from the command line. Ctrl-C ends the text: what there is of it is shown and written.

{EXIT_STATUS}
"""


def _temperature(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(
            f"{value:g} must be above 0.{' For greedy decoding: --greedy.' if value == 0 else ''}"
        )
    return value


def _top_p(value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value:g} must be above 0 and at most 1.")
    return value


def _stops(values: list[str] | None) -> list[str] | None:
    if values and "" in values:
        raise typer.BadParameter("a stop string must not be empty.")
    return values


def generate_command(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the model goes on from.")],
    model: Model = "smollm2",
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="PROMPT is what a user says: answer it, through the chat template."
        ),
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Of the sampler, above 0.", callback=_temperature)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the likeliest tokens that together have this probability.",
            callback=_top_p,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Sample from this many likeliest tokens; 0 for all.")
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="The likeliest token each time, no sampling.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the sampler; drawn and said where not given."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Most tokens, those of the prompt included.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens after the prompt. With --max-length, what is reached first counts.",
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Text that ends the response, and is part of it; give it again for more.",
            callback=_stops,
        ),
    ] = None,
    target: Followed = None,
    components: Components = "resid_post",
    show_top: Annotated[int, typer.Option(min=1, help="Predictions shown per layer.")] = 3,
    html: Annotated[
        Path | None,
        typer.Option(help="Write figures of all steps here: one file in .html, else a folder."),
    ] = None,
    json_path: Json = None,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Let the model write, and show at which layer each token was decided."""
    check_outputs(html, json_path, folder=True)
    sampler = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    unused = ", ".join(
        f"--{name.replace('_', '-')}" for name, value in sampler.items() if value is not None
    )
    if greedy and unused:
        raise typer.BadParameter(
            f"greedy decoding has no use for {unused}: leave one out.", param_hint="--greedy"
        )

    from lens_recipes.cli.generate.stream import Stream
    from lens_recipes.cli.generate.stream import defer_stderr as held_back

    with held_back() as say:
        from lens_recipes import generate_lens
        from lens_recipes.cli.generate.settings import plan
        from lens_recipes.models.handle import text_config, tokenizer_of

        lm = loaded(model, remote, dtype)
        prompts: Any = [{"role": "user", "content": prompt}] if chat else prompt
        options, line = plan(
            lm, prompts, sampler=sampler, greedy=greedy, seed=seed, stop=stop, max_length=max_length,
            max_new_tokens=max_new_tokens,
        )  # fmt: skip
        if show_top > (vocabulary := getattr(text_config(lm), "vocab_size", None) or show_top):
            raise typer.BadParameter(
                f"this model has {vocabulary} tokens, not {show_top}.", param_hint="--show-top"
            )
        say(line)
    console = None if json_path == "-" else output()
    with Stream(tokenizer_of(lm), console, options["max_new_tokens"]) as stream:
        result = generate_lens(
            lm, prompts, **options, targets=target, components=names(components), top_k=max(KEPT, show_top),
            on_step=stream,
        )  # fmt: skip
    interrupted = result.responses[0].finish == "interrupted"
    if interrupted:
        n = len(result.tokens)
        print(f"interrupted after {n} token{'' if n == 1 else 's'}", file=sys.stderr)
    write_json(result, json_path)  # before the long table, which may be cut off
    if html is not None:
        from lens_recipes.views.pages.generation import write_generation

        write_generation(result, html)
    note_written((html, json_path))
    if console is not None:
        from lens_recipes.views.tables.generation.report import generation_report

        generation_report(result, console, show_top=show_top, written=True)
    if interrupted:
        raise typer.Exit(130)
