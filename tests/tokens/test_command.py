"""The command `relprop explain-text`."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("typer", reason="needs the command line")

from typer.testing import CliRunner

from relprop import cli
from tests.tokens.test_torch import module, saved_tokenizer

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    module("GPT2LMHeadModel").save_pretrained(path)
    return saved_tokenizer(path, "bytes")


def run(folder, *args):
    return CliRunner().invoke(cli.app, ["explain-text", "--model", str(folder), *args])


def test_next_token_rather_than_another(folder, tmp_path):
    page = tmp_path / "new" / "page.html"
    options = ["--next", " cat", "--rather-than", " sat", "--skip-special", "--out", str(page)]
    found = run(folder, "the cats", *options)
    assert found.exit_code == 0, found.output
    title, *lines, where = found.stdout.strip().splitlines()
    assert title.startswith("'cat' (") and "rather than 'sat' (" in title
    assert "".join(line.split()[0] for line in lines) == "thecats"
    assert where == str(page) and "cat" in page.read_text(encoding="utf-8")


def test_nothing_but_the_result(folder):
    """No bars and warnings of transformers, which has the settings again that it had."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    found = run(folder, "the cats", "--rules", "gradient")
    assert found.exit_code == 0 and found.stderr == ""
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_a_text_beyond_the_last_position(folder):
    found = run(folder, "the cats " * 600)
    assert found.exit_code == 2 and "embeddings of 1024 positions" in found.stderr, found.output


def test_generation(folder):
    found = run(folder, "the cats", "--generate", "2", "--rules", "gradient_times_input")
    assert found.exit_code == 0, found.output
    assert found.stdout.count("score") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--next", "a", "--generate", "2"], "exclude one another"),
        (["--class", "1"], "use NextToken"),
        (["--rules", "attnlrp"], "Did you mean 'attn_lrp'"),
    ],
)
def test_refused(folder, options, message):
    found = run(folder, "the cats", *options)
    assert found.exit_code == 2
    assert message in found.stderr


def test_no_model(tmp_path):
    found = run(tmp_path, "the cats")
    assert found.exit_code == 2
    assert "no config.json" in found.stderr
