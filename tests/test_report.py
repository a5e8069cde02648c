import base64
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from vcycle.evaluation.report import ReportData, SamplePicture, representative, write_report


def picture(shape=(8, 8), label="median", **changes):
    values = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    fields = {"input": values, "truth": values**2, "prediction": values**2 + 0.01}
    return SamplePicture(label=label, **(fields | changes))


def part(**changes):
    settings = {
        "title": "Darcy <two-phase>",
        "headline": "It errs by 2 %.",
        "numbers": {"relative L2": "2.00 %"},
        "samples": [picture(lower=0.01, upper=0.011, true_error=0.0105, relative_l2=0.02)],
        "history": {"training": [1.0, 0.1, 0.01], "validation": [1.0, 0.2, float("nan")]},
        "bands": {"from 0": 0.01, "from 2": 0.2},
        "table": [{"method": "operator", "relative_l2": 0.0234567}, {"method": "solver", "relative_l2": None}],
        "verdict": "The solver wins.",
        "settings": {"epochs": 3},
    }
    return ReportData(**(settings | changes))


def test_report_is_self_contained_and_says_everything(tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", part(), title="A & B")
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", page) == []
    assert [word for word in ("<script", "@import", "url(") if word in page] == []
    for words in ("A &amp; B", "Darcy &lt;two-phase&gt;", "2.00 %", "The solver wins.", "0.02346", "–", "epochs"):
        assert words in page
    assert "certified between 1.00 % and 1.10 %" in page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_pictures_are_readable(tmp_path):
    page = write_report(tmp_path / "report.html", part()).read_text(encoding="utf-8")
    pngs = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    svgs = [base64.b64decode(data) for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]
    assert [png[:4] for png in pngs] == [b"\x89PNG"]
    assert [ElementTree.fromstring(svg).tag.endswith("svg") for svg in svgs] == [True, True]


@pytest.mark.parametrize("shape", [(16,), (6, 9), (5, 6, 7)])
def test_pictures_of_any_dimension(shape, tmp_path):
    page = write_report(tmp_path / "report.html", ReportData("a", samples=[picture(shape)])).read_text(encoding="utf-8")
    assert page.count("data:image/png") == 1
    assert "certified" not in page


def test_error_picture_shows_the_difference():
    from vcycle.evaluation.figures import sample_figure

    right = sample_figure(picture(prediction=picture().truth))
    wrong = sample_figure(picture(prediction=picture().truth + 0.5))
    assert right != wrong


def test_representative_samples():
    assert representative([0.3, 0.1, 0.9, 0.2, 0.5]) == {"best": 1, "median": 0, "worst": 2}
    with pytest.raises(ValueError, match="`errors` must hold at least one sample"):
        representative([])


def test_wrong_parts_are_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="`parts` must hold at least one part"):
        write_report(path, [])
    bad = ReportData("a", samples=[picture(truth=np.zeros((3, 3)))])
    with pytest.raises(ValueError, match=r"`samples` must have fields of one shape.*'median'"):
        write_report(path, bad)
    assert list(tmp_path.iterdir()) == []
