"""Relevance of tokens as it is shown."""

from __future__ import annotations

import html.parser
import io

import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import Continuation, NextToken
from tests.tokens.models import CAUSAL, PAD, Words, causal

MODEL = causal(tokenizer=Words())
TEXT = "the cat ##s <script> \x1b[31m"


@pytest.fixture(scope="module")
def result():
    return tokens.explain(MODEL, TEXT, NextToken("mat"), contrast="on")


@pytest.fixture(scope="module")
def batch():
    ids = [[1, 2, 3], [4, PAD, PAD]]
    return tokens.explain(MODEL, ids, Continuation([5, 7]), mask=np.not_equal(ids, PAD))


class Page(html.parser.HTMLParser):
    """The elements of a page, their texts and that each of them is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.spans, self.titles = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "span":
            self.spans.append("")
            self.titles.append(dict(attributes)["title"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span":
            self.spans[-1] += data


def test_text_shows_each_token_with_its_number(result):
    title, *lines = str(result).splitlines()
    assert title == f"'mat' (5) rather than 'on' (4), score {result.score:.4g}"
    words = [line.split()[0] for line in lines]
    assert words == ["[CLS]", "the", "cat", "##s", "<script>", r"\x1b[31m"]
    numbers = [float(line.split()[1]) for line in lines]
    np.testing.assert_allclose(numbers, result.relevance, rtol=0.01)
    assert repr(result) == str(result)


def test_without_a_tokenizer_tokens_are_their_ids():
    shown = str(tokens.explain(CAUSAL, [3, 1], NextToken(2)))
    assert [line.split()[0] for line in shown.splitlines()] == ["token", "3", "1"]


def test_page_is_closed_and_escaped(result, tmp_path):
    page = result.html(tmp_path / "page.html", title="<b>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert page.startswith("<!doctype html>")
    assert "<script>" not in page and "\x1b" not in page
    found = Page(page)
    assert found.spans == ["[CLS]", "the", "cat", "##s", "<script>", r"\x1b[31m"]
    np.testing.assert_allclose([float(t) for t in found.titles], result.relevance, rtol=1e-3)
    assert "http" not in page


def test_notebook_shows_a_piece_of_the_page(result):
    piece = result._repr_html_()
    assert piece in result.html()
    assert "html" not in Page(piece).seen


def test_terminal_shows_each_token_in_colour(result):
    console = pytest.importorskip("rich.console", reason="needs the command line")
    file = io.StringIO()
    terminal = console.Console(file=file, force_terminal=True, color_system="truecolor", width=200)
    terminal.print(result)
    shown = file.getvalue()
    for word in ("[CLS]", "the", "cat", "##s", "<script>", r"\x1b[31m"):
        assert f"m{word}\x1b[0m" in shown
    strongest = np.abs(result.relevance).argmax()
    full = "255;0;0" if result.relevance[strongest] > 0 else "0;0;255"
    assert full in shown


def test_colours_are_white_at_zero_and_full_at_the_largest(result):
    from relprop._coloured_text import colours

    assert colours(0.0, 2.0)[0] == (255, 255, 255)
    assert colours(1.0, 2.0)[0] == (255, 128, 128)
    assert colours(-1.0, 2.0)[0] == (128, 128, 255)
    assert colours(0.0, 0.0)[0] == colours(float("nan"), 1.0)[0] == (255, 255, 255)


def test_continuation_shows_what_came_before_each_token(batch):
    first = [line for line in str(batch[0]).splitlines() if line[0] != " "]
    assert [line.split(",")[0] for line in first] == ["'mat' (5)", "'<script>' (7)"]
    assert [len(Page(row._repr_html_()).spans) for row in batch[0]] == [3, 4]
    assert len(Page(batch[0]._repr_html_()).spans) == 3 + 4


def test_batch_shows_samples_without_padding(batch):
    titles = [line for line in str(batch).splitlines() if line[0] != " "]
    assert [title.split(":")[0] for title in titles] == [f"sample {i}" for i in (0, 0, 1, 1)]
    assert len(Page(batch._repr_html_()).spans) == (3 + 4) + (1 + 2)


def test_indexing(batch):
    assert (len(batch), len(batch[0])) == (2, 2)
    assert batch[-1][0].relevance.shape == (5,)
    np.testing.assert_array_equal(batch[1][1].relevance, batch.relevance[1, 1])
    assert [row.target for row in batch[0]] == [5, 7]
    with pytest.raises(IndexError, match="no number 2"):
        batch[2]
    with pytest.raises(TypeError, match="no length"):
        len(batch[0][0])


def test_top(result, batch):
    best = result.top(2)
    order = np.argsort(-np.abs(result.relevance))
    assert [i for i, *_ in best] == order[:2].tolist()
    assert best[0][2] == result.relevance[order[0]]
    with pytest.raises(relprop.InputError, match="2 texts"):
        batch.top()
    with pytest.raises(relprop.InputError, match="2 explained tokens"):
        batch[0].top()
