"""`lens-recipes logit-lens`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.options import (
    EXIT_STATUS,
    Components,
    Followed,
    Json,
    Model,
    Offline,
    Precision,
    Prompts,
    Remote,
    check_apart,
    check_outputs,
    check_place,
    index,
    loaded,
    names,
    note_written,
    output,
    write_outputs,
)

LOGIT_LENS_EXAMPLES = f"""
Examples:

  lens-recipes logit-lens "The capital of France is" --target " Paris"

  lens-recipes logit-lens "2 + 2 =" --model Qwen/Qwen3-0.6B --positions -1 --html lens.html

  lens-recipes logit-lens --positions -1 -- "-5 + 5 ="

  lens-recipes logit-lens "The capital of France is" --components attn_out,mlp_out --positions -1

  lens-recipes logit-lens "Hello" --layers 10:20 --json - | jq .texts

  lens-recipes logit-lens "The Eiffel Tower is in" --model meta-llama/Llama-3.1-70B --remote --positions -1

{EXIT_STATUS}
"""


class Metric(StrEnum):
    prob = "prob"
    rank = "rank"
    entropy = "entropy"
    kl = "kl"
    logit = "logit"


def logit_lens_command(
    prompts: Prompts,
    model: Model = "smollm2",
    target: Followed = None,
    positions: Annotated[
        str, typer.Option(help='"all", or like -1 or 0,3,-1 or 2:5, in each prompt.')
    ] = "all",
    layers: Annotated[str, typer.Option(help="The same, for layers.")] = "all",
    components: Components = "resid_post",
    heads: Annotated[
        str, typer.Option(help='With --components head_out: "all", or like 0,3.')
    ] = "all",
    show_top: Annotated[int, typer.Option(min=1, help="Predictions shown per layer.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write an interactive heatmap here.")] = None,
    metric: Annotated[Metric, typer.Option(help="What colours the heatmap.")] = Metric.prob,
    of: Annotated[str | None, typer.Option(help='Whose: "next", "final" or a target.')] = None,
    offline: Offline = False,
    page: Annotated[
        Path | None,
        typer.Option("--report", help="Write a page to click through here; it needs no network."),
    ] = None,
    json_path: Json = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Read the stream without the final norm.")
    ] = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Decode the residual stream after every layer, or what is added to it."""
    check_outputs(html, json_path)
    if page is not None:
        check_place(page, "--report")
        check_apart({"--html": html, "--report": page, "--json": json_path})
    if of not in (None, "next", "final", *(target or [])):
        raise typer.BadParameter(
            f'{of!r} is neither "next" nor "final" nor a --target.', param_hint="--of"
        )
    if metric in (Metric.rank, Metric.logit) and of is None:
        raise typer.BadParameter(
            'this metric needs --of: "next", "final", or a --target.', param_hint="--metric"
        )
    if metric in (Metric.entropy, Metric.kl) and of is not None:
        raise typer.BadParameter(
            "this metric is about all tokens at once: leave --of out.", param_hint="--metric"
        )
    chosen = {
        "positions": index(positions, "--positions"), "layers": index(layers, "--layers"),
        "heads": index(heads, "--heads"),
        "components": names(components),
    }  # fmt: skip

    from lens_recipes import heatmap, logit_lens

    lm = loaded(model, remote, dtype)
    result = logit_lens(lm, prompts, targets=target, top_k=show_top, apply_norm=not raw, **chosen)
    if json_path != "-":
        from lens_recipes.views.tables.table import render

        several = len(chosen["components"]) > 1
        render(result, output(), show_top=None if several else show_top)
    figure = None if html is None else heatmap(result, metric=metric.value, of=of)
    write_outputs(result, figure, html, json_path, offline)
    if page is not None:
        from lens_recipes import report

        report(result, page)
        note_written((page,))
