"""A figure as a file: a page, a bitmap or a vector drawing; complete, or not written at all."""

from __future__ import annotations

import html
import math
import os
import re
from pathlib import Path

import plotly.graph_objects as go

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.views.figures.browser import draw_image
from lens_recipes.views.files.atomic import atomic_file, write_text
from lens_recipes.views.plotly_js.bundle import PlotlyScripts, plotly_for
from lens_recipes.views.policy import content_policy, hashes_of_scripts

# In a page that plotly writes, what names its encoding, what holds the figure, and where plotly.js
# comes from.
CHARSET = '<meta charset="utf-8" />'
FIGURE = 'class="plotly-graph-div"'
MARKUP = re.compile(r"<[^<>]*>")
CDN_SCRIPT = re.compile(r'<script[^>]* src="(https://cdn\.plot\.ly/[^"]*)"')


def write_html(figure: go.Figure, path: str | os.PathLike[str], *, offline: bool = False) -> None:
    """Write a figure as one HTML file.

    By its policy nothing runs on the page but plotly and the figure, and nothing else is loaded: no
    picture, map or font from elsewhere. Where the figure is not seen, its title stands for it, with
    the lines below it.

    Args:
        figure: Any plotly figure.
        path: Where to.
        offline: True puts plotly.js into the file: 0.7 MB, and 4.8 MB for a map, a solid or WebGL.
            Otherwise it comes from a CDN when the page is opened.

    Raises:
        LensError: the path cannot be written.
    """
    page = figure.to_html(
        include_plotlyjs=False if offline else "cdn", full_html=True, auto_play=False
    )
    page = _with_policy(page, plotly_for(figure) if offline else None)
    write_text(path, _with_alternative(page, figure))


def _with_policy(page: str, plotly: PlotlyScripts | None) -> str:
    """Return a page that plotly wrote with a policy that lets the scripts in it run, and no other.

    Args:
        page: The page.
        plotly: What is added to it of plotly.js; None where the page names the script of a CDN,
            which the policy then names by its address.
    """
    sources = hashes_of_scripts(page)
    scripts = ""
    if plotly is None:
        sources += CDN_SCRIPT.findall(page)
    else:
        scripts = plotly.html
        sources += plotly.hashes
    meta = f'<meta http-equiv="Content-Security-Policy" content="{content_policy(sources)}">'
    return page.replace(CHARSET, f"{CHARSET}{meta}{scripts}", 1)


def _with_alternative(page: str, figure: go.Figure) -> str:
    """Return a page that plotly wrote with words for those who do not see the figure.

    The figure has no words of its own but in a script, where quotation marks are escaped: what
    holds it is the last place that is called so.
    """
    words = _in_words(figure)
    if not words or FIGURE not in page:
        return page
    before, found, after = page.rpartition(FIGURE)
    return f'{before}{found} role="img" aria-label="{html.escape(words)}"{after}'


def _in_words(figure: go.Figure) -> str:
    """Return the title of a figure and the lines below it, as they are read aloud."""
    title = figure.layout.title
    texts = [title.text, title.subtitle.text]
    plain = [html.unescape(MARKUP.sub(" ", text)) for text in texts if text]
    return ". ".join(" ".join(text.split()) for text in plain)


def save_png(
    figure: go.Figure,
    path: str | os.PathLike[str],
    *,
    width: int | None = None,
    height: int | None = None,
    scale: float = 2.0,
) -> None:
    """Write a figure as a bitmap of (width × scale) × (height × scale) pixels.

    A browser draws it, without a network: the extra `png` and Chrome or Chromium must be installed.
    TeX is not typeset.

    Args:
        figure: Any plotly figure.
        path: Where to, `.png`.
        width, height: Of the layout, in pixels. None: the figure's own, or 700 × 500 where it has
            none.
        scale: Pixels of the file for each pixel of the layout; 2 is sharp on a printed page.

    Raises:
        ValueError: another suffix, or a size that is not a number above 0.
        LensError: kaleido or a browser is missing, the browser fails, or the path cannot be
            written.

    Example:
        >>> save_png(heatmap(result), "lens.png", scale=3)
    """
    _save(figure, path, "png", {"width": width, "height": height, "scale": scale})


def save_svg(
    figure: go.Figure,
    path: str | os.PathLike[str],
    *,
    width: int | None = None,
    height: int | None = None,
) -> None:
    """Write a figure as a vector drawing, sharp at any size; otherwise as `save_png`.

    Args:
        figure: Any plotly figure.
        path: Where to, `.svg`.
        width, height: Of the layout, in pixels. None: the figure's own, or 700 × 500 where it has
            none.

    Raises:
        ValueError: another suffix, or a size that is not a number above 0.
        LensError: kaleido or a browser is missing, the browser fails, or the path cannot be
            written.

    Example:
        >>> save_svg(trajectory(result), "paris.svg")
    """
    _save(figure, path, "svg", {"width": width, "height": height})


def _save(
    figure: go.Figure, path: str | os.PathLike[str], kind: str, sizes: dict[str, float | None]
) -> None:
    """Check the arguments of `save_png` or `save_svg`, draw the figure and write it.

    Args:
        figure: Any plotly figure.
        path: Where to.
        kind: "png" or "svg".
        sizes: The arguments about size, by name; None for the default.
    """
    if Path(path).suffix.lower() != f".{kind}":
        raise ValueError(f"save_{kind} writes a .{kind} file; received {str(path)!r}.")
    for argument, size in sizes.items():
        if size is not None and not (isinstance(size, int | float) and 0 < size < math.inf):
            raise ValueError(f"{argument}={size!r} must be a number above 0.")
    # The file is opened first, so that a missing folder is reported before a browser starts.
    with atomic_file(path) as scratch:
        scratch.write_bytes(_drawn(figure, {"format": kind} | sizes))


def _drawn(figure: go.Figure, options: dict[str, str | float | None]) -> bytes:
    """Return a figure as the bytes of an image.

    Not `figure.to_image`: it has the page wait for MathJax from a CDN, and says of all faults that
    they are a `RuntimeError`.

    Raises:
        LensError: kaleido or a browser is missing, or the browser fails.
    """
    try:
        import kaleido.errors
    except ImportError:  # or older than 1, which is another program
        raise LensError(
            "an image of a figure is drawn by kaleido 1 or newer, which is not installed: "
            f"pip install 'lens-recipes[png]', or {a_page_instead()}."
        ) from None
    # What it names goes before the PATH, and before the usual places.
    named = os.environ.get("BROWSER_PATH")
    try:
        return draw_image(figure, options)
    except kaleido.errors.ChromeNotFoundError:
        raise _no_browser(named) from None
    except kaleido.errors.BrowserFailedError as error:
        if named and not Path(named).is_file():  # kaleido before 1.3 does not look
            raise _no_browser(named) from None
        # Each release of kaleido guesses at another reason.
        which = f" (BROWSER_PATH={named!r})" if named else ""
        raise LensError(
            f"the browser{which} ended as soon as it was started to draw the figure: start it in a "
            f"shell to see why, name another in BROWSER_PATH, or {a_page_instead()}."
        ) from error
    except Exception as error:  # a browser hangs or refuses: all of kaleido's sorts
        reason = " ".join(map(str, error.args)) or "it said no more"
        raise LensError(
            f"the browser did not draw the figure: {type(error).__name__}: {reason}"
        ) from error


def _no_browser(named: str | None) -> LensError:
    """Return the error for a machine without a browser; `named` is what BROWSER_PATH says."""
    searched = f" (BROWSER_PATH={named!r} names no file)" if named else ""
    return LensError(
        "an image of a figure is drawn by Chrome or Chromium, and none was found"
        f"{searched}: install one (the command plotly_get_chrome, or Debian's package "
        f"chromium), name one in BROWSER_PATH, or {a_page_instead()}."
    )


def a_page_instead() -> str:
    """Return how to show a figure where it cannot be drawn as an image."""
    return "write a page with " + say(python="write_html", shell="--html")
