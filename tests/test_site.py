"""The pages' links lead somewhere, and the site is built without a warning."""

import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "results" / "README.md", *DOCS.glob("*.md")])
PAGES += sorted(DOCS.glob("notebooks/*.md"))
NEEDED = ("sphinx", "myst_nb", "furo", "sphinx_click", "docstring_parser")
CODE = re.compile(r"^(`{3,}).*?^\1$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def anchors(page: Path) -> set[str]:
    """What GitHub and Sphinx call a page's headings in a link."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub(in_words, page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain}


def in_words(code: re.Match[str]) -> str:
    """Code within a line stays in a heading's name; a block of code is no heading."""
    return "" if code[1] else code[0].strip("`")


def broken(page: Path) -> list[str]:
    """Links within the repository that lead nowhere."""
    found = []
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # another site, which no test asks
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, with `code`\n```\n# none\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-heading-with-code) [b](other.md#none) [c](gone.md) [d](#e) `[f](g)`"
    )
    assert broken(page) == ["other.md#none", "gone.md", "#e"]


def test_every_page_has_its_place_in_the_site() -> None:
    listed = re.findall(r"^([\w/]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if DOCS in page.parents}
    assert sorted(listed) == sorted(pages - {"index"})


def test_pictures_are_shown_somewhere() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", page.read_text())
    }
    assert {path for path in DOCS.glob("images/**/*.*")} <= shown


@pytest.mark.exhaustive
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install --group docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = tmp_path / "site"
    done = subprocess.run([*command, DOCS, built], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    options = (built / "options.html").read_text()
    assert "space_fidelity" in options  # what the code says of itself is on the page
    assert "from the code: " not in options  # the mark that it replaces
    assert "evaluate-proxy" in (built / "cli.html").read_text()
