"""The code of the page about text runs as it stands."""

from __future__ import annotations

import contextlib
import io
import pathlib
import re

import pytest

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs transformers")

from tests.tokens.test_torch import module, saved_tokenizer

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "explain-text.md"
SENTENCE = "the cats sat on the mat and the dog"


def test_page(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "gpt2"
    folder.mkdir(parents=True)
    module("GPT2LMHeadModel").save_pretrained(folder)
    saved_tokenizer(folder, "bytes", SENTENCE)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    printed = io.StringIO()
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
    assert "mat" in (tmp_path / "mat.html").read_text()
    assert "score" in printed.getvalue()
    assert namespace["generated"].relevance.shape[0] == 3
    assert namespace["result"].relevance.shape == (4,)
