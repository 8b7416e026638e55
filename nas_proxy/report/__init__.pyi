from .figures import write_figures
from .html import render_html

__all__ = ["render_html", "write_figures"]
