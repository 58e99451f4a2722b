"""The recipes from a shell: results on stdout, everything else on stderr.

Nothing here imports torch until a recipe runs, so `--help` answers at once.
"""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_doctor import DOCTOR_EXAMPLES, doctor_command
from .cli_generate import GENERATE_EXAMPLES, generate_command
from .cli_options import (
    EXIT_STATUS,
    Components,
    Followed,
    Json,
    Model,
    Offline,
    Precision,
    Prompts,
    Remote,
    attribution_figure,
    check_apart,
    check_outputs,
    check_place,
    index,
    loaded,
    names,
    output,
    say_first,
    say_written,
    write_json,
)
from .cli_paste import PASTE_EXAMPLES, paste_command
from .cli_show import SHOW_EXAMPLES, show_command

app = typer.Typer(
    name="lens-recipes",
    help="What a language model predicts at every layer, with proof that it was read right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXAMPLES = f"""
Examples:

  lens-recipes logit-lens "The capital of France is" --target " Paris"

  lens-recipes logit-lens "2 + 2 =" --model Qwen/Qwen3-0.6B --positions -1 --html lens.html

  lens-recipes logit-lens --positions -1 -- "-5 + 5 ="

  lens-recipes logit-lens "The capital of France is" --components attn_out,mlp_out --positions -1

  lens-recipes logit-lens "Hello" --layers 10:20 --json - | jq .texts

  lens-recipes logit-lens "The Eiffel Tower is in" --model meta-llama/Llama-3.1-70B --remote --positions -1

{EXIT_STATUS}
"""


ATTRIBUTE_EXAMPLES = f"""
Examples:

  lens-recipes attribute "The capital of France is" --target " Paris" --against " London"

  lens-recipes attribute "The capital of France is" --target " Paris" --unit head --html heads.html --json heads.json

{EXIT_STATUS}
"""


class Unit(StrEnum):
    layer = "layer"
    component = "component"
    head = "head"
    token = "token"


class Metric(StrEnum):
    prob = "prob"
    rank = "rank"
    entropy = "entropy"
    kl = "kl"
    logit = "logit"


@app.callback()
def _root() -> None:
    """What stands before every subcommand: nothing yet."""


@app.command("logit-lens", epilog=EXAMPLES)
def logit_lens_command(
    prompts: Prompts,
    model: Model = "smollm2",
    target: Followed = None,
    positions: Annotated[str, typer.Option(help='"all", or like -1 or 0,3,-1 or 2:5, in each prompt.')] = "all",
    layers: Annotated[str, typer.Option(help="The same, for layers.")] = "all",
    components: Components = "resid_post",
    heads: Annotated[str, typer.Option(help='With --components head_out: "all", or like 0,3.')] = "all",
    show_top: Annotated[int, typer.Option(min=1, help="Predictions shown per layer.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write an interactive heatmap here.")] = None,
    metric: Annotated[Metric, typer.Option(help="What colours the heatmap.")] = Metric.prob,
    of: Annotated[str | None, typer.Option(help='Whose: "next", "final" or a target.')] = None,
    offline: Offline = False,
    page: Annotated[
        Path | None, typer.Option("--report", help="Write a page to click through here; it needs no network.")
    ] = None,
    json_path: Json = None,
    raw: Annotated[bool, typer.Option("--raw", help="Read the stream without the final norm.")] = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Decode the residual stream after every layer, or what is added to it."""
    check_outputs(html, json_path)
    if page is not None:
        check_place(page, "--report")
        check_apart({"--html": html, "--report": page, "--json": json_path})
    if of not in (None, "next", "final", *(target or [])):
        raise typer.BadParameter(f'{of!r} is neither "next" nor "final" nor a --target.', param_hint="--of")
    if metric in (Metric.rank, Metric.logit) and of is None:
        raise typer.BadParameter('this metric needs --of: "next", "final", or a --target.', param_hint="--metric")
    if metric in (Metric.entropy, Metric.kl) and of is not None:
        raise typer.BadParameter("this metric is about all tokens at once: leave --of out.", param_hint="--metric")
    chosen = {
        "positions": index(positions, "--positions"), "layers": index(layers, "--layers"),
        "heads": index(heads, "--heads"),
        "components": names(components),
    }  # fmt: skip

    from . import heatmap, logit_lens

    lm = loaded(model, remote, dtype)
    result = logit_lens(lm, prompts, targets=target, top_k=show_top, apply_norm=not raw, **chosen)
    if json_path != "-":
        from ._table import render

        several = len(chosen["components"]) > 1
        render(result, output(), show_top=None if several else show_top)
    figure = None if html is None else heatmap(result, metric=metric.value, of=of)
    _write(result, figure, html, json_path, offline)
    if page is not None:
        from . import report

        report(result, page)
        say_written((page,))


@app.command("attribute", epilog=ATTRIBUTE_EXAMPLES)
def attribute_command(
    prompts: Prompts,
    target: Annotated[list[str], typer.Option(help="The token whose logit is explained; give it again for more.")],
    model: Model = "smollm2",
    against: Annotated[
        str | None, typer.Option(help='Also subtract the same for this token, or "mean" for the mean of all tokens.')
    ] = None,
    unit: Annotated[Unit, typer.Option(help="What the logit is split into.")] = Unit.layer,
    at_layer: Annotated[int | None, typer.Option(help="Explain the lens's logit after this layer.")] = None,
    positions: Annotated[str, typer.Option(help='"all", or like -1 or 0,3,-1 or 2:5, in each prompt.')] = "-1",
    show_top: Annotated[int, typer.Option(min=1, help="Parts shown per target.")] = 10,
    html: Annotated[
        Path | None, typer.Option(help="Write a figure here: bars, for heads a grid, for tokens a map.")
    ] = None,
    offline: Offline = False,
    json_path: Json = None,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Which part of the network wrote a token: its logit as a sum over layers, components, heads or tokens read."""
    check_outputs(html, json_path)
    where = index(positions, "--positions")

    from . import attribution

    lm = loaded(model, remote, dtype)
    result = attribution(lm, prompts, target, against=against, unit=unit.value, at_layer=at_layer, positions=where)
    if json_path != "-":
        from ._table import render

        render(result, output(), show_top=show_top)
    figure = None if html is None else attribution_figure(result)
    _write(result, figure, html, json_path, offline, targets=result.target_ids.shape[1])


app.command("generate", epilog=GENERATE_EXAMPLES)(generate_command)
app.command("paste", epilog=PASTE_EXAMPLES)(paste_command)
app.command("show", epilog=SHOW_EXAMPLES)(show_command)
app.command("doctor", epilog=DOCTOR_EXAMPLES)(doctor_command)


@app.command("anatomy")
def anatomy_command(model: Model = "smollm2", remote: Remote = False) -> None:
    """Show where a model keeps blocks, norm and unembedding, and what it applies after it."""
    from . import anatomy

    print(anatomy(loaded(model, remote, None)))


def _write(result: Any, figure: Any, html: Path | None, json_path: str | None, offline: bool, targets: int = 1) -> None:
    """The files that were asked for; what was written, and what a figure of one of `targets` leaves out, on stderr."""
    from . import write_html

    write_json(result, json_path)
    if html is not None:
        write_html(figure, html, offline=offline)
        say_first(len(result), "prompts")
        say_first(targets, "targets")
    say_written((html, json_path))


def main() -> None:
    """Run the command line; a user's mistake is a sentence on stderr, never a traceback."""
    from .errors import LensError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        app()
    except (LensError, ValueError) as error:
        print(f"lens-recipes: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except OSError as error:  # stdout cannot be written to, for one
        print(f"lens-recipes: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("lens-recipes: interrupted", file=sys.stderr)
        sys.exit(130)
