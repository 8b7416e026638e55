from ._attention import attention_loss
from ._relational import Relational
from ._response import Response
from .objective import make_objective
from .settings import TermSettings

__all__ = ["Relational", "Response", "TermSettings", "attention_loss", "make_objective"]
