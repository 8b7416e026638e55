from .folder import export_model
from .model_file import DeployedModel, ModelOrigin, load_model

__all__ = ["DeployedModel", "ModelOrigin", "export_model", "load_model"]
