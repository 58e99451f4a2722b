"""Results as recipes return them: arrays with named axes, and methods that show and save them."""

from lens_recipes.results.attribution import Attribution
from lens_recipes.results.confirmation import Confirmation
from lens_recipes.results.dose import Dose
from lens_recipes.results.lens import LensResult
from lens_recipes.results.load import load_result
from lens_recipes.results.patch_map import PatchMap
from lens_recipes.results.survey import Survey
from lens_recipes.results.survey_difference import SurveyDifference

__all__ = [
    "Attribution",
    "Confirmation",
    "Dose",
    "LensResult",
    "PatchMap",
    "Survey",
    "SurveyDifference",
    "load_result",
]
