"""lens-recipes: what a language model predicts at every layer, with proof that it was read right.

>>> import lens_recipes as lr
>>> model = lr.load("smollm2")
>>> result = lr.logit_lens(model, "The capital of France is", targets=" Paris")
>>> print(result)

The names below are imported when they are first used, so that `lens-recipes --help` does not wait for torch. A file
that would share its name with its function starts with an underscore.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._anatomy import Anatomy, anatomy
    from ._attribution import attribution
    from ._estimate import RemoteEstimate, estimate
    from ._logit_lens import logit_lens
    from ._paste import paste
    from ._report import report
    from ._table import table
    from .attribution_result import Attribution, Part
    from .certificate import Certificate
    from .components import Important
    from .errors import LensError, RemoteLensError
    from .figure_files import save_png, save_svg, write_html
    from .generation import generate_lens
    from .jobs import Job, JobStatus, submit
    from .metrics import logit_diff
    from .models import load
    from .ndif import RemoteSettings, remote_settings
    from .plot import heatmap
    from .plot_attribution import attribution_bars, head_grid, source_map
    from .plot_compare import compare
    from .plot_flow import rank_flow
    from .plot_generation import generation_heatmap, generation_steps, write_generation
    from .plot_profile import layer_profile
    from .plot_tracks import top_tokens, trajectory
    from .result import LensResult, Response, Site, Tokens
    from .tracks import Settled, settled_layers
    from .vectors import decode_vectors

__all__ = [
    "Anatomy",
    "Attribution",
    "Certificate",
    "Important",
    "Job",
    "JobStatus",
    "LensError",
    "LensResult",
    "Part",
    "RemoteEstimate",
    "RemoteLensError",
    "RemoteSettings",
    "Response",
    "Settled",
    "Site",
    "Tokens",
    "anatomy",
    "attribution",
    "attribution_bars",
    "compare",
    "decode_vectors",
    "estimate",
    "generate_lens",
    "generation_heatmap",
    "generation_steps",
    "head_grid",
    "heatmap",
    "layer_profile",
    "load",
    "logit_diff",
    "logit_lens",
    "paste",
    "rank_flow",
    "remote_settings",
    "report",
    "save_png",
    "save_svg",
    "settled_layers",
    "source_map",
    "submit",
    "table",
    "top_tokens",
    "trajectory",
    "write_generation",
    "write_html",
]

_HOME = {
    "Anatomy": "_anatomy",
    "anatomy": "_anatomy",
    "attribution": "_attribution",
    "Attribution": "attribution_result",
    "Part": "attribution_result",
    "Certificate": "certificate",
    "Important": "components",
    "LensError": "errors",
    "RemoteLensError": "errors",
    "RemoteEstimate": "_estimate",
    "estimate": "_estimate",
    "Job": "jobs",
    "JobStatus": "jobs",
    "submit": "jobs",
    "RemoteSettings": "ndif",
    "remote_settings": "ndif",
    "generate_lens": "generation",
    "logit_lens": "_logit_lens",
    "paste": "_paste",
    "load": "models",
    "heatmap": "plot",
    "save_png": "figure_files",
    "save_svg": "figure_files",
    "write_html": "figure_files",
    "attribution_bars": "plot_attribution",
    "head_grid": "plot_attribution",
    "source_map": "plot_attribution",
    "compare": "plot_compare",
    "rank_flow": "plot_flow",
    "layer_profile": "plot_profile",
    "generation_heatmap": "plot_generation",
    "generation_steps": "plot_generation",
    "write_generation": "plot_generation",
    "top_tokens": "plot_tracks",
    "trajectory": "plot_tracks",
    "report": "_report",
    "LensResult": "result",
    "Response": "result",
    "Site": "result",
    "Tokens": "result",
    "table": "_table",
    "Settled": "tracks",
    "logit_diff": "metrics",
    "settled_layers": "tracks",
    "decode_vectors": "vectors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
