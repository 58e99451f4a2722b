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
from rich.console import Console

app = typer.Typer(
    name="lens-recipes",
    help="What a language model predicts at every layer, with proof that it was read right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXAMPLES = """
Examples:

  lens-recipes logit-lens "The capital of France is" --target " Paris"

  lens-recipes logit-lens "2 + 2 =" --model Qwen/Qwen3-0.6B --positions -1 --html lens.html

  lens-recipes logit-lens --positions -1 -- "-5 + 5 ="

  lens-recipes logit-lens "Hello" --layers 10:20 --json - | jq .texts

  lens-recipes logit-lens "The Eiffel Tower is in" --model meta-llama/Llama-3.1-70B --remote --positions -1

Exit status: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted.
"""


class Metric(StrEnum):
    prob = "prob"
    rank = "rank"
    entropy = "entropy"
    kl = "kl"
    logit = "logit"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[
    str, typer.Option("--model", "-m", help='Hub id, checkpoint folder, or "smollm2" (comes in a Python package).')
]
Remote = Annotated[bool, typer.Option("--remote", help="Run on an NDIF server; downloads no weights.")]


@app.callback()
def _root() -> None:
    """Keeps `logit-lens` a subcommand while there are few of them."""


@app.command("logit-lens", epilog=EXAMPLES)
def logit_lens_command(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One or several prompts.")],
    model: Model = "smollm2",
    target: Annotated[
        list[str] | None, typer.Option(help="A token to follow through the layers; give it again for more.")
    ] = None,
    positions: Annotated[str, typer.Option(help='"all", or like -1 or 0,3,-1 or 2:5, in each prompt.')] = "all",
    layers: Annotated[str, typer.Option(help="The same, for layers.")] = "all",
    show_top: Annotated[int, typer.Option(min=1, help="Predictions shown per layer.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write an interactive heatmap here.")] = None,
    metric: Annotated[Metric, typer.Option(help="What colours the heatmap.")] = Metric.prob,
    of: Annotated[str | None, typer.Option(help='Whose: "next", "final" or a target.')] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Put plotly.js into the HTML file (4.5 MB).")] = False,
    json_path: Annotated[
        str | None, typer.Option("--json", help="Write the whole result here; - for stdout, instead of the table.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Read the stream without the final norm.")] = False,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Precision of the weights; default: the checkpoint's own.")
    ] = None,
    remote: Remote = False,
) -> None:
    """Decode the residual stream after every layer."""
    _check_outputs(html, json_path)
    if of not in (None, "next", "final", *(target or [])):
        raise typer.BadParameter(f'{of!r} is neither "next" nor "final" nor a --target.', param_hint="--of")
    if metric in (Metric.rank, Metric.logit) and of is None:
        raise typer.BadParameter('this metric needs --of: "next", "final", or a --target.', param_hint="--metric")
    chosen = {"positions": _index(positions, "--positions"), "layers": _index(layers, "--layers")}

    from . import heatmap, load, logit_lens, write_html

    _quiet()
    lm = load(model, remote=remote, **({"dtype": dtype.value} if dtype else {}))
    result = logit_lens(lm, prompts, targets=target, top_k=show_top, apply_norm=not raw, **chosen)
    if json_path == "-":
        from .files import as_json

        print(as_json(result))
    else:
        from ._table import render

        render(result, Console(width=None if sys.stdout.isatty() else 250), show_top=show_top)
        if json_path is not None:
            result.save(json_path)
    if html is not None:
        write_html(heatmap(result, metric=metric.value, of=of), html, offline=offline)
        if len(result) > 1:
            print(f"the heatmap shows the first of {len(result)} prompts", file=sys.stderr)
    for path in (html, None if json_path == "-" else json_path):
        if path is not None:
            print(f"wrote {path}", file=sys.stderr)


@app.command("anatomy")
def anatomy_command(model: Model = "smollm2", remote: Remote = False) -> None:
    """Show where a model keeps blocks, norm and unembedding, and what it applies after it."""
    from . import anatomy, load

    _quiet()
    print(anatomy(load(model, remote=remote)))


def _quiet() -> None:
    """transformers' progress bars are for a terminal; in a log they are one long line."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def _index(text: str, option: str) -> Any:
    """ "all", "-1", "0,3,-1" or "2:5" as what the recipes take."""
    if text == "all":
        return None
    try:
        if ":" in text:
            bounds = slice(*(int(part) if part.strip() else None for part in text.split(":")))
            range(0)[bounds]  # a step of 0 is none
            return bounds
        numbers = [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        raise typer.BadParameter(
            f'{text!r} is not "all", a number, numbers like 0,3,-1, or a range like 2:5.', param_hint=option
        ) from None
    return numbers


def _check_outputs(html: Path | None, json_path: str | None) -> None:
    """Refuse a path that could not be written before the model is loaded."""
    if html is not None and not html.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(html.parent)!r}.", param_hint="--html")
    if json_path not in (None, "-"):
        path = Path(str(json_path))
        if path.suffix not in (".json", ".npz"):
            raise typer.BadParameter(
                f"{json_path!r} must end in .json or .npz, or be - for stdout.", param_hint="--json"
            )
        if not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {str(path.parent)!r}.", param_hint="--json")


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
    except KeyboardInterrupt:
        print("lens-recipes: interrupted", file=sys.stderr)
        sys.exit(130)
