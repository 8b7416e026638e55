from .figures import write_figures
from .html import render_html
from .values import Cost, StudyReport

__all__ = ["Cost", "StudyReport", "render_html", "write_figures"]
