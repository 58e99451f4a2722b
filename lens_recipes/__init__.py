"""lens-recipes: what a language model predicts at every layer, with proof that it was read right.

>>> import lens_recipes as lr
>>> model = lr.load("smollm2")
>>> result = lr.logit_lens(model, "The capital of France is", targets=" Paris")
>>> print(result)

The public names are imported when they are first used, so that `lens-recipes --help` does not wait
for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers and editors, which do not run `__getattr__`: the names of the table below.
# `as` says that they are exported.
if TYPE_CHECKING:
    from lens_recipes.arrays.axes import Part as Part
    from lens_recipes.arrays.axes import Response as Response
    from lens_recipes.arrays.axes import Site as Site
    from lens_recipes.arrays.axes import Tokens as Tokens
    from lens_recipes.arrays.batch.outcomes import Outcome as Outcome
    from lens_recipes.arrays.batch.parts import PartOverPrompts as PartOverPrompts
    from lens_recipes.arrays.certificate import Certificate as Certificate
    from lens_recipes.arrays.edits.edit import Edit as Edit
    from lens_recipes.arrays.edits.effects import EditEffects as EditEffects
    from lens_recipes.arrays.edits.kinds import ablate as ablate
    from lens_recipes.arrays.edits.kinds import patch as patch
    from lens_recipes.arrays.edits.kinds import steer as steer
    from lens_recipes.arrays.edits.kinds import swap as swap
    from lens_recipes.arrays.edits.verdict import Verdict as Verdict
    from lens_recipes.arrays.generation import Settled as Settled
    from lens_recipes.arrays.generation import settled_layers as settled_layers
    from lens_recipes.arrays.lens_alignment import LensAlignment as LensAlignment
    from lens_recipes.arrays.metrics import logit_diff as logit_diff
    from lens_recipes.arrays.metrics import metric_values as metric_values
    from lens_recipes.arrays.metrics.seen import SeenAt as SeenAt
    from lens_recipes.arrays.metrics.seen import SeenEarlier as SeenEarlier
    from lens_recipes.arrays.metrics.seen import seen_earlier as seen_earlier
    from lens_recipes.arrays.sites import Important as Important
    from lens_recipes.arrays.survey.pass_at_k import PassAtK as PassAtK
    from lens_recipes.arrays.survey.pass_at_k import pass_at_k as pass_at_k
    from lens_recipes.arrays.survey.pass_table import PassTable as PassTable
    from lens_recipes.arrays.survey.pass_table import pass_table as pass_table
    from lens_recipes.arrays.used_lens import LensQuality as LensQuality
    from lens_recipes.arrays.used_lens import UsedLens as UsedLens
    from lens_recipes.errors import LensError as LensError
    from lens_recipes.errors import RemoteLensError as RemoteLensError
    from lens_recipes.lenses.lens import Lens as Lens
    from lens_recipes.lenses.load import load_lens as load_lens
    from lens_recipes.models.lens_head import lens_head as lens_head
    from lens_recipes.models.load import load as load
    from lens_recipes.models.structure.anatomy import anatomy as anatomy
    from lens_recipes.models.structure.parts import Anatomy as Anatomy
    from lens_recipes.recipes.attribution.attribution import attribution as attribution
    from lens_recipes.recipes.edits.confirm import confirm as confirm
    from lens_recipes.recipes.edits.dose import dose as dose
    from lens_recipes.recipes.generation.generate import generate_lens as generate_lens
    from lens_recipes.recipes.lenses.alignment.alignment import lens_alignment as lens_alignment
    from lens_recipes.recipes.lenses.fit import fit_lens as fit_lens
    from lens_recipes.recipes.lenses.quality import lens_quality as lens_quality
    from lens_recipes.recipes.logit_lens import logit_lens as logit_lens
    from lens_recipes.recipes.logit_lens import plain_logit_lens as plain_logit_lens
    from lens_recipes.recipes.paste.paste import paste as paste
    from lens_recipes.recipes.patching.patch_map import patch_map as patch_map
    from lens_recipes.recipes.remote import Job as Job
    from lens_recipes.recipes.remote import JobStatus as JobStatus
    from lens_recipes.recipes.remote import Machine as Machine
    from lens_recipes.recipes.remote import RemoteEstimate as RemoteEstimate
    from lens_recipes.recipes.remote import estimate as estimate
    from lens_recipes.recipes.remote import submit as submit
    from lens_recipes.recipes.survey.sets.lens_evals import lens_evals as lens_evals
    from lens_recipes.recipes.survey.survey import survey as survey
    from lens_recipes.recipes.vectors import decode_vectors as decode_vectors
    from lens_recipes.recipes.verify import verify as verify
    from lens_recipes.results import Attribution as Attribution
    from lens_recipes.results import Confirmation as Confirmation
    from lens_recipes.results import Dose as Dose
    from lens_recipes.results import LensResult as LensResult
    from lens_recipes.results import PatchMap as PatchMap
    from lens_recipes.results import Survey as Survey
    from lens_recipes.results import SurveyDifference as SurveyDifference
    from lens_recipes.run.remote.http.settings import RemoteSettings as RemoteSettings
    from lens_recipes.run.remote.http.settings import remote_settings as remote_settings
    from lens_recipes.views.figures.attribution.bars import attribution_bars as attribution_bars
    from lens_recipes.views.figures.attribution.maps import head_grid as head_grid
    from lens_recipes.views.figures.attribution.maps import source_map as source_map
    from lens_recipes.views.figures.attribution.patch_heatmap import patch_heatmap as patch_heatmap
    from lens_recipes.views.figures.compare.figure import compare as compare
    from lens_recipes.views.figures.compare.lens_quality import (
        lens_quality_figure as lens_quality_figure,
    )
    from lens_recipes.views.figures.edits.dose import dose_figure as dose_figure
    from lens_recipes.views.figures.export import save_png as save_png
    from lens_recipes.views.figures.export import save_svg as save_svg
    from lens_recipes.views.figures.export import write_html as write_html
    from lens_recipes.views.figures.generation.heatmap import (
        generation_heatmap as generation_heatmap,
    )
    from lens_recipes.views.figures.generation.steps import generation_steps as generation_steps
    from lens_recipes.views.figures.heatmap import heatmap as heatmap
    from lens_recipes.views.figures.images.heatmap import image_heatmap as image_heatmap
    from lens_recipes.views.figures.images.object_map import object_map as object_map
    from lens_recipes.views.figures.layers.profile import layer_profile as layer_profile
    from lens_recipes.views.figures.layers.rank_flow import rank_flow as rank_flow
    from lens_recipes.views.figures.layers.top_tokens import top_tokens as top_tokens
    from lens_recipes.views.figures.layers.trajectory import trajectory as trajectory
    from lens_recipes.views.figures.paper import caption as caption
    from lens_recipes.views.figures.paper import paper as paper
    from lens_recipes.views.figures.survey.curves import accuracy_curve as accuracy_curve
    from lens_recipes.views.figures.survey.curves import emergence_curve as emergence_curve
    from lens_recipes.views.figures.survey.curves import rank_curve as rank_curve
    from lens_recipes.views.figures.survey.curves import survey_curve as survey_curve
    from lens_recipes.views.figures.survey.depths import depth_histogram as depth_histogram
    from lens_recipes.views.figures.survey.difference import difference_curve as difference_curve
    from lens_recipes.views.figures.survey.heatmap import survey_heatmap as survey_heatmap
    from lens_recipes.views.pages.generation import write_generation as write_generation
    from lens_recipes.views.pages.report import report as report
    from lens_recipes.views.tables.table import table as table

_PUBLIC_NAMES = {
    "arrays.axes": ["Part", "Response", "Site", "Tokens"],
    "arrays.batch.outcomes": ["Outcome"],
    "arrays.batch.parts": ["PartOverPrompts"],
    "arrays.certificate": ["Certificate"],
    "arrays.edits.edit": ["Edit"],
    "arrays.edits.effects": ["EditEffects"],
    "arrays.edits.kinds": ["ablate", "patch", "steer", "swap"],
    "arrays.edits.verdict": ["Verdict"],
    "arrays.generation": ["Settled", "settled_layers"],
    "arrays.lens_alignment": ["LensAlignment"],
    "arrays.metrics": ["logit_diff", "metric_values"],
    "arrays.metrics.seen": ["SeenAt", "SeenEarlier", "seen_earlier"],
    "arrays.sites": ["Important"],
    "arrays.survey.pass_at_k": ["PassAtK", "pass_at_k"],
    "arrays.survey.pass_table": ["PassTable", "pass_table"],
    "arrays.used_lens": ["LensQuality", "UsedLens"],
    "errors": ["LensError", "RemoteLensError"],
    "lenses.lens": ["Lens"],
    "lenses.load": ["load_lens"],
    "models.lens_head": ["lens_head"],
    "models.load": ["load"],
    "models.structure.anatomy": ["anatomy"],
    "models.structure.parts": ["Anatomy"],
    "recipes.attribution.attribution": ["attribution"],
    "recipes.edits.confirm": ["confirm"],
    "recipes.edits.dose": ["dose"],
    "recipes.generation.generate": ["generate_lens"],
    "recipes.lenses.alignment.alignment": ["lens_alignment"],
    "recipes.lenses.fit": ["fit_lens"],
    "recipes.lenses.quality": ["lens_quality"],
    "recipes.logit_lens": ["logit_lens", "plain_logit_lens"],
    "recipes.paste.paste": ["paste"],
    "recipes.patching.patch_map": ["patch_map"],
    "recipes.remote": ["Job", "JobStatus", "Machine", "RemoteEstimate", "estimate", "submit"],
    "recipes.survey.sets.lens_evals": ["lens_evals"],
    "recipes.vectors": ["decode_vectors"],
    "recipes.verify": ["verify"],
    "recipes.survey.survey": ["survey"],
    "results": [
        "Attribution",
        "Confirmation",
        "Dose",
        "LensResult",
        "PatchMap",
        "Survey",
        "SurveyDifference",
    ],
    "run.remote.http.settings": ["RemoteSettings", "remote_settings"],
    "views.figures.attribution.bars": ["attribution_bars"],
    "views.figures.attribution.maps": ["head_grid", "source_map"],
    "views.figures.attribution.patch_heatmap": ["patch_heatmap"],
    "views.figures.compare.figure": ["compare"],
    "views.figures.compare.lens_quality": ["lens_quality_figure"],
    "views.figures.edits.dose": ["dose_figure"],
    "views.figures.export": ["save_png", "save_svg", "write_html"],
    "views.figures.paper": ["caption", "paper"],
    "views.figures.generation.heatmap": ["generation_heatmap"],
    "views.figures.generation.steps": ["generation_steps"],
    "views.figures.heatmap": ["heatmap"],
    "views.figures.images.heatmap": ["image_heatmap"],
    "views.figures.images.object_map": ["object_map"],
    "views.figures.layers.profile": ["layer_profile"],
    "views.figures.layers.rank_flow": ["rank_flow"],
    "views.figures.layers.top_tokens": ["top_tokens"],
    "views.figures.layers.trajectory": ["trajectory"],
    "views.figures.survey.curves": [
        "accuracy_curve",
        "rank_curve",
        "emergence_curve",
        "survey_curve",
    ],
    "views.figures.survey.depths": ["depth_histogram"],
    "views.figures.survey.heatmap": ["survey_heatmap"],
    "views.figures.survey.difference": ["difference_curve"],
    "views.pages.generation": ["write_generation"],
    "views.pages.report": ["report"],
    "views.tables.table": ["table"],
}

_MODULES = {name: module for module, names in _PUBLIC_NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, once."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"lens_recipes.{_MODULES[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
