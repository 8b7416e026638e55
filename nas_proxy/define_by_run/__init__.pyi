from .definition import space_class
from .space import FunctionSpace

__all__ = ["FunctionSpace", "space_class"]
