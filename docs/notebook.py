"""Runs the tutorial and keeps in it what it shows: python docs/notebook.py (needs the extra `docs` and Chromium)."""

from __future__ import annotations

import base64
import copy
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import plotly.graph_objects as go
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "examples" / "tutorial.ipynb"
FIGURE = "application/vnd.plotly.v1+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of a run in `folder`, by the Python and the package that run this.

    What is of the machine and not of the results is left out: times, versions, and what was said on stderr (progress
    bars, libraries that find no GPU).
    """
    notebook = copy.deepcopy(notebook)
    python = AsyncKernelManager(
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )  # no kernel that is installed
    client = NotebookClient(
        notebook,
        python,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    # One thread: the same numbers, to the last digit, on any number of cores.
    alike = {"PYTHONPATH": str(ROOT), "PLOTLY_RENDERER": "plotly_mimetype", "OMP_NUM_THREADS": "1"}
    client.execute(env={**os.environ, **alike}, cleanup_kc=True)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def keep_pictures(notebook: nbformat.NotebookNode) -> None:
    """A picture in the place of each figure: plotly's data is larger, and GitHub and other pages do not draw it."""
    import lens_recipes as lr

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if FIGURE not in output.get("data", {}):
            continue
        drawn = output.data.pop(FIGURE)
        figure = go.Figure(drawn["data"], drawn["layout"])
        with tempfile.TemporaryDirectory() as folder:
            lr.save_png(figure, Path(folder) / "figure.png", scale=1.5)
            output.data["image/png"] = base64.b64encode(
                few_colours(Path(folder) / "figure.png")
            ).decode()
        output.metadata["image/png"] = {
            "width": figure.layout.width,
            "height": figure.layout.height,
        }


def few_colours(path: Path) -> bytes:
    """A PNG with a palette, a quarter of the size; of all palettes, the one in which no colour moves far."""
    import PIL.Image as pillow

    small, whole = io.BytesIO(), pillow.open(path).convert("RGB")
    whole.quantize(256, pillow.Quantize.MAXCOVERAGE, kmeans=3, dither=pillow.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(nbformat.read(TUTORIAL, as_version=4), Path(folder))
    keep_pictures(notebook)
    nbformat.write(notebook, TUTORIAL)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the package beside this file, whatever is installed
    main()
