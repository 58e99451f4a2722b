"""What `--html` and `--png` write: the page and the picture of a result, in every command the same.

The page is one file that needs no network: of a lens result its report, of a generation the text
with the figures of its steps, of an attribution its figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_recipes.cli.common.outputs import note_truncated


def write_views(
    result: Any,
    html: Path | None,
    png: Path | None,
    *,
    prompt: int | None = None,
    figure: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    cdn: bool = False,
    beside: Sequence[Any] = (),
) -> None:
    """Write the page and the picture that were asked for, and note what a figure leaves out.

    Args:
        result: Any result.
        html: Where the page goes, if anywhere: a name in .html; of a generation also a folder.
        png: Where the picture goes, if anywhere: a name in .png or .svg.
        prompt: One of the prompts. None for all that the page has room for, and the first of them
            in a figure.
        figure: None for the page. Else it holds nothing but the figure with these options.
        options: Of the picture.
        cdn: Whether a page of one figure fetches plotly.js when it is opened.
        beside: Results of the same prompts under other lenses, for the page alone.
    """
    drawn: dict[str, Any] | None = None  # the options of a figure
    if html is not None and write_page(
        result, html, prompt=prompt, figure=figure, cdn=cdn, beside=beside
    ):
        drawn = figure or {}
    if png is not None:
        drawn = options or {}
        write_picture(best_figure(result, prompt, drawn), png)
    if drawn is not None:
        note_left_out(result, prompt, drawn)


def write_page(
    result: Any,
    path: Path,
    *,
    prompt: int | None = None,
    figure: dict[str, Any] | None = None,
    cdn: bool = False,
    beside: Sequence[Any] = (),
) -> bool:
    """Write a page as `write_views`, and return whether it is one figure or one prompt."""
    import lens_recipes as lr

    if figure is not None or cdn or isinstance(result, lr.Attribution):
        lr.write_html(best_figure(result, prompt, figure or {}), path, offline=not cdn)
        return True
    if result.tokens.generated.any():
        lr.write_generation(result, path, prompt=prompt or 0)
        return True
    lr.report(result, path, prompts=None if prompt is None else [prompt], beside=beside or None)
    return False


def write_picture(figure: Any, path: Path) -> None:
    """Write a figure in the format that the path ends in."""
    from lens_recipes.views.figures import export

    if path.suffix.lower() == ".png":
        export.save_png(figure, path)
    else:
        export.save_svg(figure, path)


def best_figure(result: Any, prompt: int | None, options: dict[str, Any]) -> Any:
    """Draw the one figure that says most about a result."""
    from lens_recipes import Attribution, generation_heatmap, heatmap

    if isinstance(result, Attribution):
        return attribution_figure(result, prompt=prompt)
    kind = heatmap_kind(result, prompt, options.get("kind"))
    if kind in ("image", "object"):
        return image_figure(result, prompt, options)
    options = {option: value for option, value in options.items() if option != "kind"}
    if kind == "prompts":
        return heatmap(result, kind="prompts", **options)
    draw = generation_heatmap if result.tokens.generated.any() else heatmap
    return draw(result, prompt=prompt or 0, **options)


def heatmap_kind(result: Any, prompt: int | None, kind: str | None) -> str:
    """Return which heatmap is drawn: the one that is asked for, or the one that says more."""
    from lens_recipes.arrays.batch.outcomes import is_batch

    if kind is not None:
        return str(kind)
    one_token_each = len(result.tokens) == len(result)
    if prompt is None and one_token_each and is_batch(result):
        return "prompts"
    return "tokens"


def image_figure(result: Any, prompt: int | None, options: dict[str, Any]) -> Any:
    """Draw the first image of a prompt: what is said at each patch, or where a token is.

    Args:
        result: A lens result of a prompt with images.
        prompt: Which prompt; None for the first.
        options: "kind" is "image" or "object"; perhaps "metric", "of" and "layer".

    Raises:
        ValueError: there is no image, or the token was not measured.
    """
    from lens_recipes import image_heatmap, object_map

    of = options.get("of")
    if options["kind"] == "image":
        shown = of
        if of is None:  # of --metric prob each patch's own top token
            shown = "entropy" if options.get("metric") == "entropy" else "top1"
        layer = options.get("layer", -1)
        return image_heatmap(result, shown, layer=layer, prompt=prompt or 0)
    single = result[prompt or 0]
    if of is None and single.target_ids.shape[1] == 0:
        raise ValueError("nothing says which token the map is of: name one with --of.")
    token = int(single.target_ids[0, 0]) if of is None else of
    return object_map(result, token, prompt=prompt or 0)


def attribution_figure(result: Any, *, prompt: int | None = None) -> Any:
    """Return the figure that suits the unit: bars, for heads a grid, for tokens a map.

    Without a prompt the bars are means over all prompts, and the others are of the first one.
    """
    from lens_recipes import attribution_bars, head_grid, source_map

    if result.unit == "head":
        return head_grid(result, prompt=prompt or 0)
    if result.unit == "token":
        return source_map(result, prompt=prompt or 0)
    return attribution_bars(result, prompt=prompt)


def note_left_out(result: Any, prompt: int | None, options: dict[str, Any]) -> None:
    """Note on stderr that a figure shows the first of several prompts or targets.

    Args:
        result: What it shows.
        prompt: The prompt that was asked for, if any.
        options: Of the figure.
    """
    from lens_recipes import Attribution

    if isinstance(result, Attribution):
        shows_all = result.unit in ("layer", "component")
        note_truncated(result.target_ids.shape[1], "targets")
    else:
        shows_all = heatmap_kind(result, prompt, options.get("kind")) == "prompts"
    if prompt is None and not shows_all:
        note_truncated(len(result), "prompts")
