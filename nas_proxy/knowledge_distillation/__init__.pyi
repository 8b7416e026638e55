from .attention import attention_loss
from .objective import make_objective
from .relational import Relational
from .response import Response
from .settings import TermSettings

__all__ = ["Relational", "Response", "TermSettings", "attention_loss", "make_objective"]
