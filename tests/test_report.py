"""The report and the montage, on explanations that are made up."""

import base64
import io
import re

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from PIL import Image

import relprop
from relprop import plots, report
from relprop._table import amount
from relprop.report import montage
from relprop.report.explanation import percent
from tests.plots import pictures

pytestmark = pytest.mark.frameworks


class Page(pictures.Page):
    """What is in a page, drawings among it; fails where tags do not match."""

    void = pictures.Page.void | {"rect", "line"}

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def explanation(name="a.png", model="m", rules=("epsilon", "flat"), shape=(4, 3, 1), **changes):
    random = np.random.default_rng(len(name))
    if not isinstance(rules, dict):
        sums = {"handed out": 4.0, "explained": 3.0}
        rules = {rule: (random.normal(size=shape), sums) for rule in rules}
    made = {
        "model": model,
        "name": name,
        "image": random.uniform(size=shape),
        "label": "7",
        "target": "7",
        "score": 4.0,
        "rules": rules,
    }
    return report.Explanation(**made | changes)


def written(tmp_path, explanations, **options):
    report.write_html(explanations, tmp_path / "report.html", **options)
    text = (tmp_path / "report.html").read_text()
    return text, Page(text)


def test_a_row_per_image_and_a_column_per_rule(tmp_path):
    given = [
        *(explanation(f"{name}.png") for name in "abc"),
        explanation(model="other", rules=("gamma",)),
    ]
    text, page = written(tmp_path, given, title="Digits")
    images = page.all("img")
    assert len(images) == 3 * (1 + 2) + 1 * (1 + 1)
    for attributes in images:
        assert attributes["alt"]
        kind, data = attributes["src"].split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.format == "PNG" and image.size == (3, 4)
    assert "image-rendering: pixelated" in text
    assert [a for a in page.all("th") if a.get("scope") == "row"] == [{"scope": "row"}] * 4
    heads = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert heads == ["Image", "epsilon", "flat", "Image", "gamma"]
    assert "Digits" in page.text and "75 %" in page.text and "4.000" in page.text


def test_nothing_is_loaded(tmp_path):
    balances = {("m", "epsilon"): report.Balance(4.0, 3.0, 1.0, 0.0, 0.0)}
    text, page = written(tmp_path, [explanation()], balances=balances, command="relprop demo")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "xlink:href", "data"):
            assert attributes.get(name, "data:").startswith("data:")


def test_no_picture_of_nothing():
    with pytest.raises(relprop.InputError, match="no explanations to draw"):
        report.png_bytes([])


def test_light_and_dark(tmp_path):
    text, page = written(tmp_path, [explanation()])
    assert {"name": "color-scheme", "content": "light dark"} in page.all("meta")
    names = set(re.findall(r"var\(--([a-z]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    for theme in (light, dark):
        assert names - {"tile"} <= set(re.findall(r"--([a-z]+):", theme))


def test_where_the_relevance_went(tmp_path):
    balances = {
        ("m", "epsilon"): report.Balance(4.0, 3.0, 2.0, -0.5, 0.0),
        ("m", "flat"): report.Balance(4.0, 5.0, 0.0, 1e-7, 0.0, fault="operation 3 is to blame"),
    }
    text, page = written(tmp_path, [explanation()], balances=balances)
    (first, second) = (a["aria-label"] for a in page.all("svg"))
    assert first == "explained 3, bias 2, epsilon -0.5, stopped 0, gap -0.5"
    assert second == "explained 5, bias 0, epsilon 0, stopped 0, gap -1"
    rects = [(a["class"], float(a["x"]), float(a["width"])) for a in page.all("rect")]
    assert rects[:5] == [
        ("explained", 0, 0.75),
        ("bias", 0.75, 0.5),
        ("epsilon", -0.125, 0.125),
        ("stopped", 1.25, 0),
        ("gap", -0.25, 0.125),
    ]
    for box in re.findall('viewBox="([^"]*)"', text):  # one scale for all bars
        assert [float(number) for number in box.split()] == [-0.25, 0, 1.5, 1]
    assert "operation 3 is to blame" in page.text


def test_flow_and_computation(tmp_path):
    flow = plots.Flow(4.0, ("<b>", "b"), {"bias": np.array([1.0, 0.0])})
    broken = plots.Flow(np.nan, ("a",), {"bias": np.zeros(1)})
    balances = {
        ("m", "epsilon"): report.Balance(4.0, 3.0, 1.0, 0.0, 0.0, flow=flow),
        ("m", "flat"): report.Balance(4.0, 3.0, 1.0, 0.0, 0.0, flow=broken),
    }
    plan = relprop.inspect(lambda x: jnp.tanh(x).sum(), relprop.rules.Epsilon())(jnp.ones(2))
    options = {"balances": balances, "plans": {"m": ("<i>", plan)}}
    text, page = written(tmp_path, [explanation()], **options)
    alts = [a["alt"] for a in page.all("img")]
    assert alts[3].startswith("Flow of relevance (epsilon): of 4 at the score 3 arrive")
    assert alts[4] == "Computation of 2 operations: activation by Pass, sum by Zero."
    assert len(alts) == 5 and "<i>" in page.text and not page.all("i")[2:]
    again, _ = written(tmp_path, [explanation()], **options)
    assert again == text
    del balances["m", "epsilon"]
    assert len(written(tmp_path, [explanation()], balances=balances)[1].all("img")) == 3


def test_balance():
    balance = report.Balance(10.0, 4.0, 3.0, 0.5, 1.0)
    assert balance.gap == 1.5
    assert sum(balance.parts().values()) == balance.handed_out


def test_what_is_said_of_a_balance():
    nothing = report.Balance(0.0, 0.0, 0.0, 0.0, 0.0)
    assert "nothing was handed out" in nothing.sentence("relp")
    stopped = report.Balance(1.0, 0.2, 0.0, 0.0, 0.8)
    assert stopped.unrest == pytest.approx(0)
    assert "a part of the score" in stopped.sentence("cp-lrp")
    noisy = report.Balance(1.0, 0.2, 5.0, 0.0, -4.2)
    assert "noisy" in noisy.sentence("epsilon")


def test_left_out_rules_command_and_versions(tmp_path):
    text, page = written(
        tmp_path,
        [explanation("<b>&.png")],
        left_out={"<i>.png": "no such file"},
        rules={"epsilon": "structure='dense' -> Epsilon()"},
        command="relprop explain '<b>&.png'",
        versions={"jax": "0.10.2"},
    )
    for shown in (
        "<b>&.png",
        "<i>.png: no such file",
        "structure='dense' -> Epsilon()",
        "relprop explain '<b>&.png'",
        "jax 0.10.2",
        "Left out",
    ):
        assert shown in page.text
    assert not page.all("i") or "<i>.png" not in text
    without, _ = written(tmp_path, [explanation()])
    assert "Left out" not in without and "report again" not in without


def test_another_class_than_the_predicted_one(tmp_path):
    assert "explained 3" in " ".join(written(tmp_path, [explanation(target="3")])[1].text.split())
    assert "explained 7" not in " ".join(written(tmp_path, [explanation()])[1].text.split())


def test_numbers_that_are_none(tmp_path):
    relevance = np.full((4, 3, 1), np.nan)
    rules = {
        "nan": (relevance, {"handed out": 4.0, "explained": np.nan}),
        "nothing": (0 * relevance, {"handed out": 0.0, "explained": 0.0}),
    }
    given = explanation(rules=rules)
    assert given.share("nan") is None and given.share("nothing") is None
    balances = {("m", "nan"): report.Balance(4.0, np.nan, 0.0, 0.0, 0.0)}
    text, page = written(tmp_path, [given], balances=balances)
    assert page.text.count("n/a") == 2
    widths = [float(a["width"]) for a in page.all("rect")]
    assert np.isfinite(widths).all()
    report.write_png([given], tmp_path / "montage.png")


def test_large_images_are_shrunk(tmp_path):
    text, page = written(tmp_path, [explanation(shape=(300, 600, 3))])
    data = page.all("img")[0]["src"].split(",")[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (256, 128)
    assert 'class="grid"' in text and "--tile: 224px" in text


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 5), (7, 8, 3), (4, 4, 2), (300, 200, 3)])
def test_montage(tmp_path, shape):
    given = [
        explanation("a$very_long_name_of_an_image.png", shape=shape, target="3"),
        explanation("b.png", shape=shape),
        explanation(model="other", rules=("gamma",), shape=shape),
    ]
    for _ in range(2):
        report.write_png(given, tmp_path / "montage.png")
    with Image.open(tmp_path / "montage.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 5 * 80 and image.height > 2 * 80
        assert len(image.getcolors(image.width * image.height)) > 10


def test_styles(tmp_path):
    pictures_of, bars = {}, set()
    for style in ("plain", "overlay", "opacity", "contours"):
        text, page = written(tmp_path, [explanation()], style=style)
        pictures_of[style] = page.all("img")[1]["src"]
        assert ("Red lines" in text) == (style == "contours")
        bars.add(re.search(r"linear-gradient[^;\"]*", text).group())
        report.write_png([explanation()], tmp_path / "montage.png", style)
    assert len({*pictures_of.values()}) == 4 and len(bars) == 3  # contours are lines of opacity
    assert written(tmp_path, [explanation()])[1].all("img")[1]["src"] == pictures_of["plain"]
    with pytest.raises(relprop.UnknownNameError, match="overlay"):
        report.html_text([explanation()], style="overly")


def test_montage_shows_the_first_of_many(tmp_path, monkeypatch):
    heights = []
    for most in (2, 3):
        monkeypatch.setattr(montage, "MOST_ROWS", most)
        report.write_png([explanation(f"{i}.png") for i in range(3)], tmp_path / "m.png")
        with Image.open(tmp_path / "m.png") as image:
            heights.append(image.height)
    assert heights[0] < heights[1]


def test_what_a_rule_lacks_is_blank(tmp_path):
    given = [explanation("a"), explanation("bb", rules=("flat",))]
    _, page = written(tmp_path, given)
    assert len(page.all("img")) == 5
    report.write_png(given, tmp_path / "montage.png")


def test_maps_beside_relevance(tmp_path):
    maps = {"rollout": np.arange(12.0).reshape(4, 3), "gradcam": np.full((4, 3), np.nan)}
    _, page = written(tmp_path, [explanation(maps=maps), explanation("bb")])
    alts = [a["alt"] for a in page.all("img")]
    assert len(alts) == (1 + 2 + 2) + (1 + 2)
    assert "Map of a.png for class 7 by rollout: strongest at row, column 4, 3." in alts
    assert "Map of a.png for class 7 by gradcam: strongest at row, column n/a." in alts
    assert page.text.count("75 %") == 4  # maps are no shares of the score
    assert "Colours of attention" in page.text and "against the class" in page.text
    report.write_png([explanation(maps=maps), explanation("bb")], tmp_path / "montage.png")
    assert "Colours of attention" not in written(tmp_path, [explanation()])[1].text
    _, page = written(tmp_path, [explanation(maps=maps, rules={})])
    assert "against the class" not in page.text and "75 %" not in page.text


def test_text():
    assert [percent(x) for x in (0.446, -0.001, -0.56, 1.034, None)] == [
        "45 %",
        "0 %",
        "-56 %",
        "103 %",
        "n/a",
    ]
    assert [amount(x, 50.0) for x in (42.4722, 1e-4, -0.35281)] == ["42.47", "0", "-0.3528"]
