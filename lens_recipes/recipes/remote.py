"""Estimates and jobs, with every recipe at hand.

A process that only does `Job.load(path)` has imported no recipe, yet the file names one. Importing
a recipe registers it, so the public names of a run on a server are reached through this module.
"""

from __future__ import annotations

from lens_recipes.recipes.attribution.attribution import attribution
from lens_recipes.recipes.generation.generate import generate_lens
from lens_recipes.recipes.lenses.fit import fit_lens
from lens_recipes.recipes.lenses.quality import lens_quality
from lens_recipes.recipes.logit_lens import logit_lens
from lens_recipes.recipes.patching.patch_map import patch_map
from lens_recipes.recipes.vectors import decode_vectors
from lens_recipes.run.remote.estimate import RemoteEstimate, estimate
from lens_recipes.run.remote.jobs.chunks import JobStatus
from lens_recipes.run.remote.jobs.job import Job, submit
from lens_recipes.run.remote.work import Machine

__all__ = [
    "Job",
    "JobStatus",
    "Machine",
    "RemoteEstimate",
    "attribution",
    "decode_vectors",
    "estimate",
    "fit_lens",
    "generate_lens",
    "lens_quality",
    "logit_lens",
    "patch_map",
    "submit",
]
