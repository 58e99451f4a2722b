"""`lens-recipes logit-lens`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.metrics.followed import ROLES
from lens_recipes.cli.options import (
    EXIT_STATUS,
    Components,
    FollowedTokens,
    JsonPath,
    ModelName,
    NoSpecialTokens,
    Offline,
    Positions,
    Precision,
    Prompts,
    Remote,
    load_model,
    parse_indices,
    parse_names,
)
from lens_recipes.cli.outputs import (
    STDOUT,
    check_distinct,
    check_outputs,
    check_writable,
    note_written,
    stdout_console,
    write_outputs,
)

# What the colours of the heatmap show.
Metric = StrEnum(  # type: ignore[misc]
    "Metric", {name: name for name, metric in METRICS.items() if metric.in_shell}
)
PROBABILITY = Metric("prob")


def logit_lens_command(
    prompts: Prompts,
    model: ModelName = "smollm2",
    target: FollowedTokens = None,
    positions: Positions = "all",
    layers: Annotated[
        str, typer.Option(help='Layers: "all", or for example -1, 0,3,-1 or 2:5.')
    ] = "all",
    components: Components = "resid_post",
    heads: Annotated[
        str, typer.Option(help='With --components head_out: "all", or for example 0,3.')
    ] = "all",
    show_top: Annotated[int, typer.Option(min=1, help="Predictions shown per layer.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write an interactive heatmap here.")] = None,
    metric: Annotated[Metric, typer.Option(help="What colours the heatmap.")] = PROBABILITY,
    of: Annotated[
        str | None, typer.Option(help='Whose metric: "next", "final", "target" or one --target.')
    ] = None,
    offline: Offline = False,
    page: Annotated[
        Path | None,
        typer.Option("--report", help="Write a page to click through here; it needs no network."),
    ] = None,
    json_path: JsonPath = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Read the stream without the final norm.")
    ] = False,
    no_special_tokens: NoSpecialTokens = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Decode the residual stream after every layer, or what is added to it."""
    check_outputs(html, json_path)
    if page is not None:
        check_writable(page, "--report")
        check_distinct({"--html": html, "--report": page, "--json": json_path})
    check_metric(metric, of, target or [])
    chosen_positions = parse_indices(positions, "--positions")
    chosen_layers = parse_indices(layers, "--layers")
    chosen_heads = parse_indices(heads, "--heads")
    chosen_components = parse_names(components)

    from lens_recipes import heatmap, logit_lens

    result = logit_lens(
        load_model(model, remote, dtype),
        prompts,
        targets=target,
        top_k=show_top,
        apply_norm=not raw,
        positions=chosen_positions,
        add_special_tokens=not no_special_tokens,
        layers=chosen_layers,
        heads=chosen_heads,
        components=chosen_components,
    )
    if json_path != STDOUT:
        from lens_recipes.arrays.batch.outcomes import is_batch
        from lens_recipes.views.tables.table import render

        # Several components stand side by side, each with its top prediction. Several prompts have
        # a row each, which has room for one.
        has_layers = len(chosen_components) == 1 and not is_batch(result)
        render(result, stdout_console(), show_top=show_top if has_layers else None)
    figure = None
    if html is not None:
        figure = heatmap(result, metric=metric.value, of=of)
    write_outputs(result, figure, html, json_path, offline=offline, n_prompts=len(result))
    if page is not None:
        from lens_recipes import report

        report(result, page)
        note_written([page])


def check_metric(metric: str, of: str | None, targets: list[str]) -> None:
    """Refuse an `--of` that is nobody's, or that does not go with the metric."""
    if of == "target" and not targets:
        raise typer.BadParameter(
            '"target" is the prompt\'s own target: add --target.', param_hint="--of"
        )
    if of not in (None, *ROLES, *targets):
        raise typer.BadParameter(
            f'{of!r} is neither "next" nor "final" nor "target" nor a --target.', param_hint="--of"
        )
    about = METRICS[metric].about
    if about == "token" and of is None:
        raise typer.BadParameter(
            'this metric needs --of: "next", "final", "target", or a --target.',
            param_hint="--metric",
        )
    if about == "all" and of is not None:
        raise typer.BadParameter(
            "this metric is about all tokens at once: leave --of out.", param_hint="--metric"
        )


LOGIT_LENS_EXAMPLES = f"""
Examples:

  lens-recipes logit-lens "The capital of France is" --target " Paris"

  lens-recipes logit-lens "2 + 2 =" --model Qwen/Qwen3-0.6B --positions -1 --html lens.html

  lens-recipes logit-lens --positions -1 -- "-5 + 5 ="

  lens-recipes logit-lens "The capital of France is" --components attn_out,mlp_out --positions -1

  lens-recipes logit-lens "Hello" --layers 10:20 --json - | jq .texts

  lens-recipes logit-lens "The Eiffel Tower is in" --model meta-llama/Llama-3.1-70B --remote \
--positions -1

{EXIT_STATUS}
"""
