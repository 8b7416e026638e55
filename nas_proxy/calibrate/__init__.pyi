from .race import Race
from .recipes import Recipe, RecipeStage, default_recipes
from .result import CalibrationResult
from .settings import CalibrateSettings

__all__ = [
    "CalibrateSettings",
    "CalibrationResult",
    "Race",
    "Recipe",
    "RecipeStage",
    "default_recipes",
]
