from .race import Race
from .recipes import Recipe, default_recipes
from .settings import CalibrateSettings

__all__ = ["CalibrateSettings", "Race", "Recipe", "default_recipes"]
