from .settings import RaySettings

__all__ = ["RaySettings"]
