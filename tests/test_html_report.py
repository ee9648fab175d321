"""report.html: one file, no network, well formed, nothing of a user's taken for markup; and odd runs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import make_run, table

from dam.evaluation.predictions import Predictions, read_predictions, write_predictions
from dam.report import ReportResult, build_report
from dam.report.document import Code, Document, Section, Table, Text, code, strong
from dam.report.examples import KINDS, choose_examples, per_kind
from dam.report.html import LIMIT, inline, render
from dam.report.points import CHECKS, FAIL, PASS, lines
from dam.report.sections.detail import TRUST_CAUTION
from dam.report.svg import DARK, for_page

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = ('<script>alert("x")</script>', 'a,"b"', "Ödem $5 & 中文 </svg>")


class Page(HTMLParser):
    """What is on a page; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def add_data(path: Path, labels: tuple[str, ...]) -> None:
    """What a real run has beside predictions: data.json, images.csv, examples, environment."""
    counts = [
        {"split": s, "label": k, "n": 60, "positives": 20, "negatives": 40, "unknown": 0, "imratio": 1 / 3}
        for s in ("val", "test")
        for k in labels
    ]
    facts = {
        "sizes": {"test": {"images": 60, "patients": 30}},
        "counts": counts,
        "notes": ["left out 3 rows"],
        "images_sha256": "ab",
    }
    (path / "data.json").write_text(json.dumps(facts))
    frames = []
    for split in ("val", "test"):
        file = path / "predictions" / f"{split}.csv"
        if file.is_file():
            found = read_predictions(file)
            sex = np.where(np.arange(len(found.images)) % 2, "Female", "<b>Male</b>")
            columns = {
                "image": found.images,
                "patient": found.patients,
                "study": found.studies,
                "split": split,
                "sex": sex,
            }
            frames.append(pd.DataFrame(columns))
    pd.concat(frames).to_csv(path / "predictions" / "images.csv", index=False)
    add_examples(path)


def add_examples(path: Path) -> None:
    found = read_predictions(path / "predictions" / "test.csv")
    folder = path / "predictions" / "examples"
    folder.mkdir()
    rows = choose_examples(found, found.labels, 1)
    for i, row in enumerate(rows):
        Image.fromarray(np.full((40, 40), 10 * (i % 20), np.uint8)).save(folder / f"{i:02d}.png")
        row |= {"file": f"{i:02d}.png", "split": "test"}
    pd.DataFrame(rows).to_csv(path / "predictions" / "examples.csv", index=False)


built: dict[Path, ReportResult] = {}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_run(tmp_path_factory.mktemp("html") / "run", ("warm_start", "ce", "auc"), HOSTILE)
    add_data(path, HOSTILE)
    outside = table(("warm_start", "ce", "auc"), HOSTILE, 50, 9)
    write_predictions(path / "predictions" / "external_b.csv", outside)
    built[path] = build_report(path)
    return path


def test_the_page_is_one_file_and_reaches_for_nothing(run: Path) -> None:
    text = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attributes in page.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/", "#", "")) and "://" not in value[:40]
            assert not value or value.startswith(("data:image/", "#")), value[:60]
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text and "width=device-width" in text


def test_headings_tables_and_images_can_be_read_aloud(run: Path) -> None:
    page = Page((run / "report" / "report.html").read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(image.get("alt") for image in page.all("img")) and len(page.all("img")) > 12
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {a["href"] for a in page.all("a")}
    assert targets <= {f"#{name}" for name in names}


def test_names_of_a_user_stay_text(run: Path) -> None:
    text = (run / "report" / "report.html").read_text(encoding="utf-8")
    said = "".join(Page(text).text)
    for label in HOSTILE:
        assert label in said
    assert "<script>alert" not in text and "<b>Male" not in text
    for file in (run / "report" / "figures").glob("*.svg"):
        assert "<script" not in file.read_text(encoding="utf-8")
    markdown = (run / "report" / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    assert "<script>" not in outside and "&lt;script>" in outside
    assert '"a,""b"""' in (run / "report" / "auc.csv").read_text(encoding="utf-8")


def test_figures_on_the_page_are_whole_svgs_with_the_labels_as_they_are(run: Path) -> None:
    page = Page((run / "report" / "report.html").read_text(encoding="utf-8"))
    start = "data:image/svg+xml,"
    sources = [str(image["src"]) for image in page.all("img") if str(image["src"]).startswith(start)]
    said = ""
    for source in sources:
        said += "".join(ElementTree.fromstring(unquote(source.removeprefix(start))).itertext())
    assert len(sources) > 12
    for label in HOSTILE:
        assert label[:30] in said


def test_sections_that_a_real_run_has(run: Path) -> None:
    text = (run / "report" / "report.html").read_text(encoding="utf-8")
    said = "".join(Page(text).text)
    for name in ("summary", "auc", "comparisons", "external", "roc", "pr", "scores", "performance", "calibration"):
        assert f'id="{name}"' in text, name
    for name in ("operating", "decision", "trust", "subgroups", "examples", "training", "data", "choice", "reproduce"):
        assert f'id="{name}"' in text, name
    for name in ("inner", "card", "tripod", "claim"):
        assert f'id="{name}"' in text, name
    assert TRUST_CAUTION in said and "Change of the AUC from internal test to external set b" in said
    assert "dam train 'data.root=/a b'" in said and "Resolved config" in said


def test_the_points(run: Path) -> None:
    points = built[run].points
    state = {p.number: p.state for p in points}
    assert len(points) == 23 == len(CHECKS)
    for number in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 23):
        assert state[number] == PASS, points[number - 1]
    assert state[22] == "needs a human" and state[2] == FAIL  # the made-up run has no leakage rule in its config
    said = lines(points)
    assert len(said) == 24 and re.search(r"\d+ pass, \d+ fail, 1 needs a human", said[-1])
    assert points[11].where.endswith("one seed, said so")


# ---------------------------------------------------------------- odd runs


def test_one_model_one_label_no_test(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", ("ce",), ("PNEUMONIA",), ("val",), unit="patient")
    result = build_report(path)
    said = "".join(Page(result.html.read_text(encoding="utf-8")).text)
    assert "there is no test split, and validation AUC was used for choice and is optimistic" in said
    assert "no control in this run" in said and "No external set was scored" in said
    state = {p.number: p.state for p in result.points}
    assert state[13] == state[19] == state[20] == FAIL


def test_test_without_validation(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", ("auc", "ce"), ("A", "B"), ("test",))
    result = build_report(path, figures=False)
    Page(result.html.read_text(encoding="utf-8"))
    assert not (path / "predictions" / "calibration.json").exists()
    assert {p.number: p.state for p in result.points}[8] == FAIL


def test_labels_of_one_class_only(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", ("auc", "ce"), ("A",))
    for split in ("val", "test"):
        found = read_predictions(path / "predictions" / f"{split}.csv")
        flat = Predictions(found.images, found.patients, found.studies, found.labels, 0 * found.targets, found.scores)
        write_predictions(path / "predictions" / f"{split}.csv", flat)
    result = build_report(path)
    said = "".join(Page(result.html.read_text(encoding="utf-8")).text)
    assert "no AUC, no positives" in said and " nan" not in said.lower()
    assert {p.number: p.state for p in result.points}[15] == PASS


def test_folds_history_and_many_labels_without_figures(tmp_path: Path) -> None:
    labels = tuple(f"Finding {i}" for i in range(14))
    path = make_run(tmp_path / "run", ("warm_start", "ce", "auc"), labels)
    folds = [{"split": "test", "fold": f, "label": "Finding 1", "model": "auc", "auc": 0.8 + f / 100} for f in range(3)]
    pd.DataFrame(folds).to_csv(path / "predictions" / "folds.csv", index=False)
    build_report(path, figures=False)
    entries = json.loads((path / "history.json").read_text())
    assert len(entries) == 1
    (path / "history.json").write_text(json.dumps([*entries, {**entries[0], "digest": "other"}]))
    said = "".join(Page(build_report(path, figures=False).html.read_text(encoding="utf-8")).text)
    assert "SD over folds" in said and ".810" in said and ".010" in said
    assert "The test set was scored 2 times" in said


# ---------------------------------------------------------------- parts


def test_marks_become_tags_and_everything_else_is_escaped() -> None:
    assert inline(f"a {strong('<b>')} {code('x & y')}") == "a <strong>&lt;b&gt;</strong> <code>x &amp; y</code>"
    assert inline("\ue000open") == "<strong>open</strong>" and inline("\ue001\ue003x") == "x"
    assert strong(strong("x")) == "\ue000x\ue001"


def test_a_page_that_is_too_large_takes_png_then_leaves_figures_out(tmp_path: Path) -> None:
    from dam.report.document import Figure, Figures

    names = [f"f{i}" for i in range(4)]
    for name in names:
        (tmp_path / f"{name}.svg").write_text(f"<svg>{'x' * 2_000_000}</svg>")
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG" + bytes(10 if name != "f3" else 3_600_000))
    figures = tuple(Figure(name, "c", "a") for name in names)
    page = render(Document("t", "s", (Section("x", "X", (Figures(figures),)),)), tmp_path, tmp_path)
    assert len(page.encode()) < LIMIT and page.count("<img") >= 3
    assert page.count("data:image/png") >= 2


def test_blocks_without_pictures() -> None:
    blocks = (Text("t"), Code("<x>"), Table(("a", "b"), (("1", "2"),), "c"))
    page = Page(render(Document("<t>", "s", (Section("x", "X", blocks),)), Path(), Path()))
    assert "<x>" in "".join(page.text) and len(page.all("td")) == 1


def test_svg_for_the_page_follows_light_and_dark() -> None:
    drawn = '<?xml version="1.0"?>\n<svg a="1"><metadata>m</metadata>'
    drawn += '<path d="M 1.23456 2\nL 3.999 4" style="fill: #0072B2"/></svg>'
    made = for_page(drawn)
    assert "metadata" not in made and "xml" not in made
    assert 'd="M 1.2 2 4 4"' in made and "var(--0072b2)" in made
    assert f"--0072b2:{DARK['#0072b2']};" in made and "prefers-color-scheme:dark" in made


def test_examples_are_the_extremes_of_the_model() -> None:
    targets = np.array([[1], [1], [0], [0], [1], [np.nan]])
    scores = np.array([[5.0], [1.0], [4.0], [0.0], [3.0], [9.0]])
    images = np.array([f"{i}" for i in range(6)], dtype=object)
    blank = np.array([""] * 6, dtype=object)
    found = Predictions(images, blank, blank, ("A",), targets, {"ce": -scores, "auc": scores})
    rows = choose_examples(found, ("A",), 1)
    assert [(r["kind"], r["image"]) for r in rows] == [("found", "0"), ("false alarm", "2"), ("missed", "1")]
    many = choose_examples(found, ("A",), 5)
    chosen = [r["image"] for r in many if r["kind"] != "false alarm"]
    assert len(chosen) == len(set(chosen)) == 3 and {r["model"] for r in many} == {"auc"}
    with pytest.raises(ValueError, match="no label"):
        choose_examples(found, ("B",), 1)
    assert [per_kind(k) for k in (1, 3, 14, 100)] == [4, 4, 1, 1] and len(KINDS) == 3


def test_contrast_of_text_on_the_page_is_aa() -> None:
    style = (Path(__file__).parent.parent / "dam" / "report" / "style.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6});", scheme))
        for ink in ("ink", "soft", "link"):
            for paper in ("page", "card"):
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
        for paper in ("warn-card", "good-card"):
            assert contrast(colours["ink"], colours[paper]) >= 4.5
    for light, dark in DARK.items():
        if light not in ("#ffffff", "#e4e4e4"):
            assert contrast(dark, "#1b1d1f") >= 4.5, dark


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
