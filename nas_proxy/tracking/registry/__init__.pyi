from .fetched_models import fetch_model
from .models import ModelEntry, write_mlflow_model
from .rank_card import RankCard
from .recipes import RecipeRegistry, RegisteredRecipe

__all__ = [
    "ModelEntry",
    "RankCard",
    "RecipeRegistry",
    "RegisteredRecipe",
    "fetch_model",
    "write_mlflow_model",
]
