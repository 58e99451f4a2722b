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
    from lens_recipes.arrays.axes import Part, Response, Site, Tokens
    from lens_recipes.arrays.certificate import Certificate
    from lens_recipes.arrays.metrics import logit_diff, metric_values
    from lens_recipes.arrays.sites import Important
    from lens_recipes.arrays.tracks import Settled, settled_layers
    from lens_recipes.errors import LensError, RemoteLensError
    from lens_recipes.models.lens_head import lens_head
    from lens_recipes.models.load import load
    from lens_recipes.models.structure.anatomy import Anatomy, anatomy
    from lens_recipes.recipes.attribution.attribution import attribution
    from lens_recipes.recipes.generation.generate import generate_lens
    from lens_recipes.recipes.logit_lens import logit_lens, plain_logit_lens
    from lens_recipes.recipes.paste.paste import paste
    from lens_recipes.recipes.vectors import decode_vectors
    from lens_recipes.results import Attribution, LensResult
    from lens_recipes.run.remote.estimate import RemoteEstimate, estimate
    from lens_recipes.run.remote.jobs import Job, JobStatus, submit
    from lens_recipes.run.remote.settings import RemoteSettings, remote_settings
    from lens_recipes.views.figures.attribution import attribution_bars, head_grid, source_map
    from lens_recipes.views.figures.compare.figure import compare
    from lens_recipes.views.figures.export import save_png, save_svg, write_html
    from lens_recipes.views.figures.generation.heatmap import generation_heatmap
    from lens_recipes.views.figures.generation.steps import generation_steps
    from lens_recipes.views.figures.heatmap import heatmap
    from lens_recipes.views.figures.profile import layer_profile
    from lens_recipes.views.figures.rank_flow import rank_flow
    from lens_recipes.views.figures.trajectory import top_tokens, trajectory
    from lens_recipes.views.pages.generation import write_generation
    from lens_recipes.views.pages.report import report
    from lens_recipes.views.tables.table import table

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
    "lens_head",
    "load",
    "logit_diff",
    "logit_lens",
    "metric_values",
    "paste",
    "plain_logit_lens",
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
    "Anatomy": "models.structure.anatomy",
    "anatomy": "models.structure.anatomy",
    "attribution": "recipes.attribution.attribution",
    "Attribution": "results",
    "Part": "arrays.axes",
    "Certificate": "arrays.certificate",
    "Important": "arrays.sites",
    "LensError": "errors",
    "RemoteLensError": "errors",
    "RemoteEstimate": "run.remote.estimate",
    "estimate": "run.remote.estimate",
    "Job": "run.remote.jobs",
    "JobStatus": "run.remote.jobs",
    "submit": "run.remote.jobs",
    "RemoteSettings": "run.remote.settings",
    "remote_settings": "run.remote.settings",
    "generate_lens": "recipes.generation.generate",
    "lens_head": "models.lens_head",
    "logit_lens": "recipes.logit_lens",
    "plain_logit_lens": "recipes.logit_lens",
    "paste": "recipes.paste.paste",
    "load": "models.load",
    "heatmap": "views.figures.heatmap",
    "save_png": "views.figures.export",
    "save_svg": "views.figures.export",
    "write_html": "views.figures.export",
    "attribution_bars": "views.figures.attribution",
    "head_grid": "views.figures.attribution",
    "source_map": "views.figures.attribution",
    "compare": "views.figures.compare.figure",
    "rank_flow": "views.figures.rank_flow",
    "layer_profile": "views.figures.profile",
    "generation_heatmap": "views.figures.generation.heatmap",
    "generation_steps": "views.figures.generation.steps",
    "write_generation": "views.pages.generation",
    "top_tokens": "views.figures.trajectory",
    "trajectory": "views.figures.trajectory",
    "report": "views.pages.report",
    "LensResult": "results",
    "Response": "arrays.axes",
    "Site": "arrays.axes",
    "Tokens": "arrays.axes",
    "table": "views.tables.table",
    "Settled": "arrays.tracks",
    "logit_diff": "arrays.metrics",
    "metric_values": "arrays.metrics",
    "settled_layers": "arrays.tracks",
    "decode_vectors": "recipes.vectors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
