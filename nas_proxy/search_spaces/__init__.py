"""The search spaces that come with nas_proxy, in a checkout: the repository's own folder of them.

A wheel has that folder in this place.
"""

from pathlib import Path

__path__.append(str(Path(__file__).parents[2] / "search_spaces"))
