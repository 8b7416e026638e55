"""The figures and the page that a report becomes."""

import base64
import io
import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from PIL import Image

from nas_proxy.report.figures import rank_outliers, write_figures
from nas_proxy.report.html import render_html
from nas_proxy.report.summary import summarise
from nas_proxy.statistics.words import decimal, duration
from tests.report.helpers import PROXY, Page, make_report, with_search, with_validation

FIGURES = [
    "rank_scatter.png", "rank_comparison.png", "cost.png", "uncertainty.png",
    "optimisation_history.png", "edf.png",
]  # fmt: skip
NASBENCH = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|none~2|"


@pytest.fixture(scope="module")
def report():
    return make_report()


@pytest.fixture(scope="module")
def figures(report, tmp_path_factory):
    return write_figures(report, tmp_path_factory.mktemp("study") / "figures")


@pytest.fixture(scope="module")
def pictures(figures):
    paths = [figures[0].parent.parent / name for name in ("before.png", "after.png")]
    for path in paths:
        Image.new("RGB", (20, 20)).save(path)
    return [*paths, *figures]


def test_every_figure_is_a_png_that_can_be_read_at_700_pixels(figures):
    assert [path.name for path in figures] == FIGURES
    for path in figures:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width == 1050  # 7 inches at 150 dpi: what layout and fonts are made for
            assert 400 <= image.height <= 1500
            assert len(image.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.exhaustive
def test_same_report_gives_the_same_bytes(report, figures, tmp_path):
    before = report.to_json()
    again = write_figures(report, tmp_path)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in figures]
    assert render_html(report, figures) == render_html(report, again)
    assert report.to_json() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FIGURES)


def test_without_validation_only_the_search_is_drawn(tmp_path):
    report = make_report(validated=False)
    written = write_figures(report, tmp_path)
    assert [path.name for path in written] == ["optimisation_history.png", "edf.png"]
    page = Page(render_html(report, written))
    assert "The ranking was not judged." in page.text
    assert "Add the section validate" in page.text
    assert "ranking" not in page.ids


def test_nothing_is_drawn_when_everything_failed(tmp_path):
    report = make_report(everything_failed=True)
    assert write_figures(report, tmp_path) == []
    page = Page(render_html(report, []))
    assert "The proxy ranks nothing" in page.text
    assert "No trial of the search succeeded: all 30 failed" in page.text
    assert "30 search the loss is not finite at step 31" in page.text


def test_empty_search_renders(tmp_path):
    report = make_report(num_trials=0, validated=False)
    assert write_figures(report, tmp_path) == []
    assert "No trial of the search succeeded." in Page(render_html(report, [])).text


UNDEFINED = ["spearman", "kendall", "regret_at_k", "precision_at_k", "spearman_best", "difference",
             "partial_spearman", "ndcg", "regret_at_1"]  # fmt: skip


def without(report, gone, part):
    """The report without a figure of all rows, or without its interval."""

    def strip(row):
        figure = getattr(row, gone)
        left = None if part == "all" or figure is None else replace(figure, low=None, high=None)
        return replace(row, **{gone: left})

    validation = report.validation
    rows = tuple(map(strip, validation.rows))
    return with_validation(report, judged=strip(validation.judged), rows=rows)


@pytest.mark.parametrize("gone", UNDEFINED)
@pytest.mark.parametrize(("part", "said"), [("all", "–"), ("interval", "no interval")])
def test_figures_that_are_not_defined_are_no_obstacle(report, gone, part, said):
    assert said in Page(render_html(without(report, gone, part), [])).text


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("all", ["rank_comparison.png", "cost.png"]),
        pytest.param("interval", [], marks=pytest.mark.exhaustive),
    ],
)
def test_a_correlation_that_is_not_defined_is_not_drawn(report, part, missing, tmp_path):
    """No other figure is drawn."""
    names = [path.name for path in write_figures(without(report, "spearman", part), tmp_path)]
    assert names == [name for name in FIGURES if name not in missing]


EXTREMES = {
    "little": {"num_trials": 1, "num_architectures": 6, "controls": ()},
    "long and many": {
        "num_trials": 100,
        "describe": (NASBENCH + " {}").format,
        "controls": tuple(f"package_{n}.scores:AVeryLongNameWithoutSpaces" for n in range(12)),
    },
    "free reference, dollar signs": {
        "reference_seconds": 0.0,
        "controls": ("$\\alpha", "costs $5 and $6", "a_b^{c}", ""),
    },
}


@pytest.mark.parametrize(
    "name",
    [
        "little",
        pytest.param("long and many", marks=pytest.mark.exhaustive),
        pytest.param("free reference, dollar signs", marks=pytest.mark.exhaustive),
    ],
)
def test_extremes_are_drawn(name, tmp_path):
    report = make_report(**EXTREMES[name])
    written = write_figures(report, tmp_path)
    num_trials = len(report.search.trials)
    drawn = [found for found in FIGURES if found != "edf.png" or num_trials > 1]
    assert [path.name for path in written] == drawn
    Page(render_html(report, written))


def test_scores_that_are_all_the_same_are_drawn(report, tmp_path):
    points = tuple(replace(p, scores={PROXY: 1.0}, reference=0.5) for p in report.points)
    trials = tuple(replace(t, score=t.score and -1.0) for t in report.search.trials)
    altered = with_search(with_validation(report, rows=()), trials=trials)
    altered = replace(altered, points=points)
    assert len(write_figures(altered, tmp_path)) == len(FIGURES)
    assert rank_outliers(altered) == []


def test_one_hopeless_network_does_not_squash_the_scatter(report, tmp_path):
    first, *others = report.points
    hopeless = replace(first, scores={**first.scores, PROXY: -1e6})
    altered = replace(with_search(report, trials=()), points=(hopeless, *others))
    written = write_figures(altered, tmp_path)
    with Image.open(written[0]) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    columns = np.flatnonzero((pixels[..., 2] - pixels[..., 0] > 120).any(axis=0))
    assert len(columns) > 200  # dots side by side and not upon one another


def test_outliers_are_the_largest_differences_of_ranks(report):
    points = [
        replace(
            report.points[n], description=f"number {n}", reference=n / 10, scores={PROXY: float(n)}
        )
        for n in range(10)
    ]
    points[0] = replace(points[0], scores={PROXY: 99.0})
    points.append(replace(points[5], reference=None))
    first, *others = rank_outliers(replace(report, points=tuple(points)))
    assert (first.number, first.description) == (1, "number 0")
    assert (first.score_rank, first.reference_rank, first.num_ranked) == (1, 10, 10)
    assert others == []  # the rest moved by one rank only


def test_page_says_what_it_must(report, pictures):
    html = render_html(report, pictures)
    page = Page(html)
    assert report.verdict in page.text
    for sentence in report.validation.comparisons:
        assert sentence in page.text
    for row in report.validation.all_rows:
        assert row.name in page.text
    for text in (
        report.data.licence,
        *report.commands,
        report.environment.hardware,
        *report.environment.versions.values(),
        report.proxy_dataset.id,
        report.data.source_hash,
        report.search.best[0].description,
        rank_outliers(report)[0].description,
        "the loss is not finite at step 31",
        "not a fair comparison",
        "95 % interval over architectures",
    ):
        assert text in page.text, text
    # First what won and the verdict in one sentence, then the folded rest.
    summary = summarise(report)
    first = html[: html.index("<details")]
    for text in (summary.winner, summary.result, summary.verdict, summary.steps[0].command):
        assert escape(text) in first, text


def test_page_carries_its_images(report, pictures):
    page = Page(render_html(report, pictures))
    decoded = []
    for source in page.images:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        decoded.append(base64.b64decode(data, validate=True))
        Image.open(io.BytesIO(decoded[-1])).verify()
    assert sorted(decoded) == sorted(path.read_bytes() for path in pictures)


def test_page_needs_nothing_beside_itself(report, figures):
    html = render_html(report, figures)
    page = Page(html)
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "#"))
        if address.startswith("#"):
            assert address[1:] in page.ids
    assert len(set(page.ids)) == len(page.ids)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", html)


def test_page_tells_of_size_ceiling_pick_and_uncertainty(report, figures):
    validation = report.validation
    text = Page(render_html(report, figures)).text
    proxy = validation.judged
    pick = max(
        report.points,
        key=lambda point: point.scores[PROXY],
    )
    assert validation.size_words
    assert "At equal size: what is left of Spearman when parameters and FLOPs can" in text
    for words in (
        validation.size_words,
        validation.ceiling_words,
        validation.ceiling.name,
        f"the proxy would pick {pick.description}, whose reference is "
        f"{decimal(pick.reference, 3)}.",
        "best 10\u00a0%",
        "best 20\u00a0%",
        proxy.uncertainty.words,
        f"It states {decimal(0.035, 3)}",
    ):
        assert " ".join(words.split()) in text, words
    for found in validation.differences:
        signal = " on the proxy" in found.first + found.second
        row = f"{found.first} {found.second} {decimal(found.spearman.value)}"
        assert (row in text) != signal


def test_page_without_sizes_ceiling_and_uncertainty_does_not_miss_them(tmp_path):
    report = make_report(ceiling=False, uncertain=False)
    report = with_validation(report, sizes=(), size_words="")
    written = write_figures(report, tmp_path)
    assert "uncertainty.png" not in [path.name for path in written]
    text = Page(render_html(report, written)).text
    assert "The noise ceiling was not measured" in text
    assert "at equal size" not in text
    assert "How sure the score is of itself" not in text


@pytest.mark.parametrize(
    ("verdict", "large", "joint"),
    [
        ("Spearman .8: good; it ranks better than a. More.", "Spearman .8: good", "; "),
        ("Spearman .8: good. It knows more; really.", "Spearman .8: good.", " "),
        ("The proxy ranks nothing.", "The proxy ranks nothing.", ""),
    ],
)
def test_only_the_first_of_the_verdict_stands_on_the_first_screen(report, verdict, large, joint):
    html = render_html(replace(report, verdict=verdict), [])
    shown = re.search(r'<p class="verdict">(.*?)<', html)[1]
    assert shown == large
    assert verdict in Page(html).text
    found = summarise(replace(report, verdict=verdict))
    assert (found.joint, found.verdict + found.joint + found.details) == (joint, verdict)


def test_missing_picture_is_left_out(report, tmp_path):
    assert Page(render_html(report, [tmp_path / "before.png"])).images == []


def test_texts_of_the_report_are_escaped(report, figures):
    evil = "<script>alert('&')</script>"
    search, validation = report.search, report.validation
    trials = [replace(trial, description=evil) for trial in search.trials]
    trials[4] = replace(trials[4], reason=evil)
    altered = with_search(
        report,
        trials=tuple(trials),
        best=(replace(search.best[0], description=evil), *search.best[1:]),
        pareto_front=tuple(replace(trial, description=evil) for trial in search.pareto_front),
    )
    altered = with_validation(
        altered,
        rows=(replace(validation.rows[0], name=evil, failures={evil: 2}), *validation.rows[1:]),
        comparisons=(evil, *validation.comparisons[1:]),
        verdict=evil,
    )
    altered = replace(
        altered,
        points=tuple(replace(point, description=evil) for point in report.points),
        verdict=evil,
        study_name=evil,
        data=replace(report.data, licence=evil),
        commands=(evil, *report.commands[1:]),
        costs=(replace(report.costs[0], what=evil), *report.costs[1:]),
    )
    page = Page(render_html(altered, figures))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 15


def test_row_that_beats_the_proxy_is_marked(report):
    rows = tuple(
        replace(row, outcome="worse" if row.name == "the same steps on the full data" else "open")
        for row in report.validation.rows
    )
    text = Page(render_html(with_validation(report, rows=rows), [])).text
    assert "the same steps on the full data beats the proxy" in text
    assert text.count("beats the proxy") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (0.00412, "4.1 ms"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (3.24, "3.2 s"),
        (9.96, "10 s"), (59.6, "1 min"), (250, "4 min 10 s"), (3599.7, "1.0 h"), (7560, "2.1 h"),
        (48 * 3600, "2.0 days"),
    ],
)  # fmt: skip
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.812, 2, ".81"), (-0.05, 2, "-.05"), (1, 2, "1.00"), (-0.001, 2, ".00"),
     (0.0042, 3, ".004"), (12.345, 2, "12.35"), (-0.9999, 2, "-1.00")],
)  # fmt: skip
def test_decimals_have_no_leading_zero(value, digits, text):
    assert decimal(value, digits) == text


def test_images_of_each_class_and_what_was_left_out_are_shown(report):
    counts = tuple((100 + label, 30, 7) for label in range(10))
    data = replace(report.data, per_class=counts, left_out="11 of the files are left out: <gif>")
    page = render_html(replace(report, data=data), [])
    assert "11 of the files are left out: &lt;gif&gt;" in page
    for label, (train, val, test) in enumerate(counts):
        cells = "".join(f'<td class="number">{count}</td>' for count in (train, val, test))
        assert f"<tr><td>{label}</td>{cells}</tr>" in page
    assert "Images of each class" not in render_html(report, [])
