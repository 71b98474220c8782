"""Files of texts, explained from the command line into stores, and what reads those."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("typer", reason="needs the command line")
pytest.importorskip("zarr", reason="stores are an extra")

from typer.testing import CliRunner

import relprop
from relprop import cli, jobs, tokens
from relprop.cli import texts
from tests.tokens.test_torch import module, saved_tokenizer

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
LINES = ["the cats", "", "the cat sat on the mat " * 4, "cat", "the " * 2000, "  sat"]
TEXTS = [line.strip() for line in LINES if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    module("GPT2LMHeadModel").save_pretrained(path)
    return saved_tokenizer(path, "bytes")


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    (path / "some.txt").write_text("\n".join(LINES))
    (path / "more.jsonl").write_text("\n".join([json.dumps({"text": "the mat"}), "{}", "[1"]))
    found = run(
        "explain-text", "--model", folder, "--rather-than", " sat", "--out", path / "a.zarr",
        "--quiet", "--batch-size", 8, path / "some.txt", path / "more.jsonl",
    )  # fmt: skip
    assert found.exit_code == 1, found.output  # some were left out
    assert "embeddings of 1024 positions" in found.stderr
    return path / "a.zarr"


def run(*args):
    return CliRunner().invoke(cli.app, [*map(str, args)])


def test_equals_one_text_at_a_time(folder, store):
    found = relprop.load(store)
    assert found.is_complete and set(found.errors) == {3, 6, 7}
    assert list(found.ids[:4]) == ["some.txt:1", "some.txt:3", "some.txt:4", "some.txt:5"]
    model = tokens.from_pretrained(folder)
    for number, text in enumerate([*TEXTS, "the mat"]):
        if number in found.errors:
            continue
        one = tokens.explain(model, text, contrast=" sat")
        kept = jobs.text_of(found, number, model.tokenizer)
        np.testing.assert_allclose(kept.relevance, one.relevance, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(kept.absorbed, one.absorbed, rtol=1e-3, atol=1e-5)
        assert (kept.tokens, kept.target_names) == (one.tokens, one.target_names)
        assert kept.contrast_names == one.contrast_names


def test_few_shapes(store):
    relevance = relprop.load(store).relevance
    assert [len(relevance[n]) for n in (0, 2)] == [3, 2]  # no padding
    assert len(relprop.load(store)._described) == 2  # of up to 16 tokens, and 32


def test_show_and_report(store, tmp_path):
    shown = run("show", store, "--index", 1)
    assert shown.exit_code == 0, shown.output
    assert (
        "some.txt:3" in shown.stdout
        and "absorbed" in shown.stdout
        and "rather than" in shown.stdout
    )
    refused = run("show", store, "--index", 3)
    assert refused.exit_code == 0 and "1024 positions" in refused.stdout
    made = run("report", store, "--out", tmp_path)
    assert made.exit_code == 0, made.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "some.txt:1" in page and "left out: " in page and "rather than" in page


def test_goes_on(folder, store):
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    again = run(
        "explain-text", "--model", folder, "--rather-than", " sat", "--out", store,
        "--quiet", "--batch-size", 8, store.parent / "some.txt", store.parent / "more.jsonl",
    )  # fmt: skip
    assert "--batch-size 8" in relprop.load(store).header["description"]["command"]
    assert again.exit_code == 1
    assert before == {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    other = run(
        "explain-text", "--model", folder, "--out", store, "--rules", "cp_lrp",
        store.parent / "some.txt", store.parent / "more.jsonl",
    )  # fmt: skip
    assert other.exit_code == 2 and "another job" in other.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no text file"], "files of texts"),
        (["a.txt", "--generate", 2], "without --generate"),
        (["empty.txt"], "no texts"),
    ],
)
def test_refused(folder, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "empty.txt").write_text("\n \n")
    found = run("explain-text", "--model", folder, "--out", tmp_path / "a.zarr", *args)
    assert found.exit_code == 2 and message in found.stderr
    assert not (tmp_path / "a.zarr").exists()


def test_lines_that_are_not_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\xe9\nok".encode("latin-1"))
    broken, good = texts.source([tmp_path / "a.txt"]).items(0)
    with pytest.raises(UnicodeDecodeError):
        broken()
    assert good() == "ok"


def test_targets_are_for_all():
    table = np.eye(6, dtype=np.float32)
    model = tokens.LanguageModel(
        embed=lambda params, ids: params[ids],
        logits=lambda params, embeds, ids, mask: (embeds * mask[..., None]).sum(1) @ params,
        params=table,
        labels=tuple("abcdef"),
    )
    for target, contrast, message in [
        (tokens.NextToken(), None, "use ClassTarget"),
        (tokens.ClassTarget([1, 2]), None, "one target"),
        (tokens.ClassTarget("b"), 1, "must differ"),
        (tokens.Continuation(length=1), None, "one score per text"),
        (tokens.ClassTarget("z"), None, "class"),
    ]:
        with pytest.raises(relprop.RelpropError, match=message):
            jobs.explain_texts(model, [], "unused", target, contrast=contrast)


def test_files_of_one_name_are_told_apart(tmp_path):
    files = [tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt", tmp_path / "b" / "y.txt"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("one\n")
    found = texts.source(files)
    paths = [f"{file.as_posix()}:1" for file in files[:2]]
    assert [found.name(number) for number in range(3)] == [*paths, "y.txt:1"]


def test_a_mark_of_the_encoding_and_lines_of_wide_spaces(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\n\u2003\n\ufefftwo \x0b\n".encode())
    found = texts.source([tmp_path / "a.txt"])
    assert [item() for item in found.items(0)] == ["one", "\ufefftwo"]
    assert [found.name(number) for number in range(2)] == ["a.txt:1", "a.txt:3"]
    (tmp_path / "b.jsonl").write_bytes('\ufeff{"text": "three"}'.encode())
    assert [item() for item in texts.source([tmp_path / "b.jsonl"]).items(0)] == ["three"]
    (tmp_path / "c.txt").write_bytes("\ufeff\n\u2003\n".encode())
    with pytest.raises(relprop.InputError, match="no texts"):
        texts.source([tmp_path / "c.txt"])


def test_what_is_predicted_may_be_the_contrast(tmp_path):
    """Its score would be 0 whatever the text says: as for one text, that is an error."""
    model = tokens.LanguageModel(
        embed=lambda params, ids: params[ids],
        logits=lambda params, embeds, ids, mask: (embeds * mask[..., None]).sum(1) @ params,
        params=np.eye(6, dtype=np.float32),
    )
    source = [np.array([1, 1, 2]), np.array([5])]
    found = jobs.explain_texts(model, source, tmp_path / "a", contrast=1, progress=False)
    assert set(found.errors) == {0} and "must differ from the target" in found.errors[0]
    assert np.isnan(found.relevance[0]).all() and found.relevance[1].tolist() == [1]
    named = tokens.ClassTarget(np.int64(1))
    found = jobs.explain_texts(model, source, tmp_path / "b", named, progress=False)
    assert found.score[:].tolist() == [2, 0]


def test_an_encoder_and_a_decoder_have_positions_each(tmp_path):
    def logits(params, source, mask, prefix):
        read = np.float32(1) * (source * mask[..., None]).sum(1, keepdims=True)
        return (prefix.cumsum(1) + read) @ params.T

    model = tokens.from_encoder_decoder(
        lambda params, source, prefix: (params[source], params[prefix]),
        logits,
        np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32),
        start_id=0,
        vocabulary=6,
        pad_id=0,
        positions=16,
    )
    both = np.array([*range(1, 6), *range(1, 6), 6, *range(1, 6), *range(1, 5)])  # 10 and 9
    long = np.ones(17, np.int64)
    found = jobs.explain_texts(model, [both, long], tmp_path / "a", progress=False)
    assert set(found.errors) == {1} and "16 positions" in found.errors[1]
    one = tokens.explain(model, both)
    np.testing.assert_allclose(found.score[0], one.score, rtol=1e-5)
    np.testing.assert_allclose(found.relevance[0], one.relevance, rtol=1e-3, atol=1e-5)


def test_classes(tmp_path):
    table = np.eye(6, dtype=np.float32)
    model = tokens.LanguageModel(
        embed=lambda params, ids: params[ids],
        logits=lambda params, embeds, ids, mask: (embeds * mask[..., None]).sum(1) @ params,
        params=table,
        labels=tuple("abcdef"),
    )
    source = [np.array([1, 1, 2]), np.array([5]), np.arange(6).repeat(4), "no tokenizer"]
    found = jobs.explain_texts(model, source, tmp_path / "a", progress=False)
    assert set(found.errors) == {3} and "no tokenizer" in found.errors[3]
    one = jobs.text_of(found, 0)
    assert one.target_names == "class b" and one.relevance.tolist() == [1, 1, 0]
    assert found.relevance[2].shape == (24,)
    with pytest.raises(relprop.InputError, match="has no relevance"):
        jobs.text_of(found, 3)
