"""`lens-recipes generate`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.common.edits import EDIT_SHORT, EditOptions, edits_argument, parse_edits
from lens_recipes.cli.common.images import (
    Images,
    check_images,
    image_files,
    images_argument,
    with_images,
)
from lens_recipes.cli.common.lenses import named_lens, only_lens
from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    AllLayers,
    Chat,
    Components,
    FollowedTokens,
    JsonPath,
    LensSource,
    ModelName,
    NoSpecialTokens,
    Offline,
    Png,
    Precision,
    Remote,
    load_model,
    parse_names,
)
from lens_recipes.cli.common.outputs import (
    STDOUT,
    check_distinct,
    check_outputs,
    check_picture,
    note_written,
    stdout_console,
    write_json,
)
from lens_recipes.cli.common.pages import write_views
from lens_recipes.cli.common.tables import print_doubts
from lens_recipes.cli.generate.arguments import (
    MAX_LENGTH,
    SAMPLER_DEFAULTS,
    GivenSettings,
    option_name,
)

PREDICTIONS_SHOWN = 3  # per layer, unless --show-top says more
MIN_TOP_K = 5  # predictions per layer in the result, if fewer are shown


def generate_command(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    model: ModelName = "smollm2",
    chat: Chat = False,
    image: Images = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Temperature of the sampler, above 0.",
            callback=check_temperature,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the likeliest tokens that together have this probability.",
            callback=check_top_p,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Sample from this many likeliest tokens; 0 for all.")
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Take the likeliest token each time; no sampling.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**63 - 1, help="Seed of the sampler; default: one is drawn, and printed."
        ),
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
            help="Text that ends the response, and is part of it; repeat the option for more.",
            callback=check_stops,
        ),
    ] = None,
    target: FollowedTokens = None,
    components: Components = "resid_post",
    all_layers: AllLayers = False,
    show_top: Annotated[
        int | None,
        typer.Option(min=1, help="With --all-layers: predictions shown per layer; default: 3."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write an interactive page of the result here; needs no network. A name without "
            "an ending is a folder with a page for each step."
        ),
    ] = None,
    png: Png = None,
    offline: Offline = False,
    json_path: JsonPath = None,
    no_special_tokens: NoSpecialTokens = False,
    lens: LensSource = None,
    edit: EditOptions = None,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Let the model write, and show at which layer each token was decided."""
    source = only_lens(lens)
    edits = parse_edits(edit)
    check_outputs(html, json_path, folder=True)
    check_picture(png)
    check_distinct({**image_files(image), "--html": html, "--png": png, "--json": json_path})
    check_images(image, [prompt])
    given = GivenSettings(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        greedy=greedy,
        seed=seed,
        stop=stop,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
    )
    check_greedy(given)

    from lens_recipes.cli.generate.stream import Stream, defer_stderr

    with defer_stderr() as print_first:
        from lens_recipes import generate_lens
        from lens_recipes.cli.generate.settings import plan_generation
        from lens_recipes.models.handle import text_config, tokenizer_of

        language_model = load_model(model, remote, dtype)
        text = with_images(prompt, image, chat=chat)
        plan = plan_generation(
            language_model,
            text,
            given,
            add_special_tokens=not no_special_tokens,
            **images_argument(image),
        )
        n_shown = show_top or PREDICTIONS_SHOWN
        check_show_top(n_shown, getattr(text_config(language_model), "vocab_size", None))
        print_first(plan.line)
    console = None
    if json_path != STDOUT:
        console = stdout_console()
    with Stream(tokenizer_of(language_model), console, plan.options["max_new_tokens"]) as stream:
        result = generate_lens(
            language_model,
            text,
            **plan.options,
            targets=target,
            components=parse_names(components),
            lens=named_lens(source, language_model),
            **images_argument(image),
            **edits_argument(edits, language_model),
            add_special_tokens=not no_special_tokens,
            top_k=max(MIN_TOP_K, n_shown),
            on_step=stream,
        )
    interrupted = result.responses[0].finish == "interrupted"
    if interrupted:
        note_interrupt(len(result.tokens))
    write_json(result, json_path)  # before the long table, which may be cut off
    write_views(result, html, png)
    note_written([html, png, json_path])
    if console is not None:
        print_result(result, console, all_layers or show_top is not None, n_shown)
        print_doubts(result)
    if interrupted:
        raise typer.Exit(130)


def print_result(result: Any, console: Any, all_layers: bool, n_shown: int) -> None:
    """Print a line for each step, or every layer of each, below the text that was printed."""
    from lens_recipes.views.tables.generation.report import generation_report, generation_table

    if all_layers:
        generation_report(result, console, show_top=n_shown, written=True)
    else:
        generation_table(result, console, written=True)


def check_temperature(value: float | None) -> float | None:
    """Refuse a temperature that is not above 0."""
    if value is not None and not 0 < value < math.inf:
        hint = " For greedy decoding: --greedy." if value == 0 else ""
        raise typer.BadParameter(f"{value:g} must be above 0.{hint}")
    return value


def check_top_p(value: float | None) -> float | None:
    """Refuse what is no probability above 0."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value:g} must be above 0 and at most 1.")
    return value


def check_stops(values: list[str] | None) -> list[str] | None:
    """Refuse an empty stop string, which every text holds."""
    if values and "" in values:
        raise typer.BadParameter("a stop string must not be empty.")
    return values


def check_greedy(given: GivenSettings) -> None:
    """Refuse settings of the sampler beside `--greedy`."""
    if given.greedy and given.sampler:
        unused = ", ".join(f"--{option_name(setting)}" for setting in given.sampler)
        raise typer.BadParameter(
            f"greedy decoding has no use for {unused}: leave one out.", param_hint="--greedy"
        )


def check_show_top(show_top: int, vocab_size: int | None) -> None:
    """Refuse to show more predictions than there are tokens."""
    if vocab_size is not None and show_top > vocab_size:
        raise typer.BadParameter(
            f"this model has {vocab_size} tokens, not {show_top}.", param_hint="--show-top"
        )


def note_interrupt(n_tokens: int) -> None:
    """Note on stderr after how many tokens the text was interrupted."""
    tokens = "token" if n_tokens == 1 else "tokens"
    print(f"interrupted after {n_tokens} {tokens}", file=sys.stderr)


DEFAULT_OPTIONS = ", ".join(
    f"--{option_name(setting)} {value}" for setting, value in SAMPLER_DEFAULTS.items()
)

GENERATE_EXAMPLES = f"""
Examples:

  lens-recipes generate "The capital of France is" --greedy --max-new-tokens 8

  lens-recipes generate "Name three colours." --chat --model ./Llama-3.2-1B-Instruct --seed 0 \
--html steps.html

  lens-recipes generate "What is this?" --chat --image dog.jpg --model Qwen/Qwen2.5-VL-3B-Instruct \
--greedy

  lens-recipes generate "The capital of France is" --greedy --max-new-tokens 8 --all-layers

  lens-recipes generate "Once upon a time" --temperature 0.7 --top-p 0.95 --top-k 5 \
--max-length 1000 --json story.json

  lens-recipes generate "One, two," --greedy --stop "." --json - | jq .responses

A setting that is not given comes from the checkpoint's generation_config; failing that, the command
samples with {DEFAULT_OPTIONS}, up to --max-length {MAX_LENGTH} or the model's context. The first
line on stderr names each setting and its source; (given) means the command line. (On a terminal,
what libraries print while the model is loaded comes before it.) Ctrl-C ends the text: what was
written until then is shown and saved.

{EDIT_SHORT}

{EXIT_STATUS}
"""
