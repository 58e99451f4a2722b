"""Run the tutorial, and keep its outputs in it. This needs the extra `dev` and Chromium.

python docs/notebook.py
"""

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
    """Run a notebook in `folder` with this Python and this package, and return it with its outputs.

    Left out is what belongs to the machine and not to the results: times, versions, and stderr
    (progress bars, libraries that find no GPU).
    """
    notebook = copy.deepcopy(notebook)
    # Without folders of kernels, no installed kernel is taken instead of this Python.
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        kernel,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "OMP_NUM_THREADS": "1",  # the same numbers, to the last digit, on any number of cores
    }
    client.execute(env=environment, cleanup_kc=True)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def keep_pictures(notebook: nbformat.NotebookNode) -> None:
    """Replace each figure by a picture: plotly's data is larger, and GitHub does not draw it."""
    import lens_recipes as lr

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if FIGURE not in output.get("data", {}):
            continue
        plotly_data = output.data.pop(FIGURE)
        figure = go.Figure(plotly_data["data"], plotly_data["layout"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            lr.save_png(figure, path, scale=1.5)
            picture = few_colours(path)
        output.data["image/png"] = base64.b64encode(picture).decode()
        output.metadata["image/png"] = {
            "width": figure.layout.width,
            "height": figure.layout.height,
        }


def few_colours(path: Path) -> bytes:
    """Return a PNG with a palette, at a quarter of the size; no colour moves far."""
    import PIL.Image as pillow

    picture = pillow.open(path).convert("RGB")
    with_palette = picture.quantize(
        256, pillow.Quantize.MAXCOVERAGE, kmeans=3, dither=pillow.Dither.NONE
    )
    buffer = io.BytesIO()
    with_palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Run the tutorial and write it with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(nbformat.read(TUTORIAL, as_version=4), Path(folder))
    keep_pictures(notebook)
    nbformat.write(notebook, TUTORIAL)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the package beside this file, whatever is installed
    main()
