"""What the page answers, without a browser."""

from __future__ import annotations

import threading

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page in the browser is an extra")

from PIL import Image

import relprop
from relprop import InputError, tokens, truth, zoo
from relprop.app import ImageExplainer, TextExplainer
from relprop.app._downloads import Downloads
from relprop.app._said import problem, safe, table, telling
from relprop.app._stores import page_of
from relprop.app._texts import MOST_CHARACTERS
from relprop.cli.inputs import load_model
from relprop.cli.job import score_of

from ..tokens.models import Words

pytestmark = [
    pytest.mark.frameworks,
    # Gradio leaves event loops to the collector, which says so when it finds them.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RULES = ["epsilon", "epsilon_plus"]
EVIL = "<script>alert(1)</script>\u202e.png"


@pytest.fixture(scope="module")
def images():
    return ImageExplainer(load_model("digits-cnn"))


@pytest.fixture(scope="module")
def texts():
    return TextExplainer("negation", truth.load_text("negation"))


@pytest.fixture(scope="module")
def seen(images):
    file = zoo.samples()[3]
    return images.see(file.name, images.read(file, file.name), "predicted")


def test_relevance_is_that_of_the_library(images, seen):
    answer = images.book(images.explain(seen, RULES))
    args = (images.model.params, seen.pixels, seen.target)
    for name in RULES:
        rules = relprop.presets.by_name(name)
        score = score_of(images.model)
        wanted = relprop.relevance(score, rules, argnums=1)(*args)
        np.testing.assert_allclose(answer.relevance[name], wanted, atol=1e-5)
        book = relprop.ledger(score, rules, argnums=1)(*args)
        assert float(answer.ledgers[name].bias) == pytest.approx(book.bias, abs=1e-4)
        # What a layer reads is what the layers before it are handed.
        first, *_ = answer.layers[name].values()
        np.testing.assert_allclose(first, np.sum(wanted, axis=-1), atol=1e-5)
    balances = images.balances(answer)
    assert balances["epsilon_plus"].unrest < balances["epsilon"].unrest


def test_a_ledger_is_compiled_once_and_right_for_each_image(images, seen):
    other = images.see("", images.read(zoo.samples()[5], ""), "7")
    one, two = (images.book(images.explain(s, RULES[:1])) for s in (seen, other))
    for s, answer in ((seen, one), (other, two)):
        book = answer.ledgers["epsilon"]
        assert float(book.score) == pytest.approx(s.scores[s.target], abs=1e-4)
        parts = answer.relevance["epsilon"].sum() + book.absorbed
        assert parts == pytest.approx(float(book.score), abs=1e-3)


def test_images_that_are_none(images, tmp_path):
    text = tmp_path / "a.png"
    text.write_text("<script>")
    with pytest.raises(relprop.InputError, match="not an image"):
        images.read(text, EVIL)
    huge = tmp_path / "huge.png"
    Image.new("1", (10_000, 10_000)).save(huge)
    with pytest.raises(relprop.InputError, match="too many pixels"):
        images.read(huge, EVIL)


@pytest.mark.parametrize("target", ["10", "-1", "cat", "1" * 400, "²", EVIL])
def test_classes_that_do_not_exist(images, seen, target):
    with pytest.raises(relprop.InputError, match="no class"):
        images.see("", seen.pixels, target)


@pytest.mark.parametrize("names", [[], [*RULES, "gamma", "flat", "zplus"]])
def test_too_few_and_too_many_rules(images, seen, names):
    with pytest.raises(relprop.InputError, match="Choose 1 to 4 rules"):
        images.explain(seen, names)


def test_texts(texts):
    text = "the film was not great and long"
    answer = texts.explain(text, "attn_lrp")
    wanted = relprop.tokens.explain(texts.model, text)
    np.testing.assert_allclose(answer.result.relevance, wanted.relevance, atol=1e-4)
    assert [p.name for p in answer.predictions] == ["blame", "praise"]
    assert sum(p.probability for p in answer.predictions) == pytest.approx(1)
    contrast = texts.explain(text, "attn_lrp", "praise (1)").result
    gap = answer.predictions[0].logit - answer.predictions[1].logit
    assert float(contrast.score) == pytest.approx(gap, abs=1e-4)
    depth = texts.look_inside(answer)
    assert list(depth.layers) == ["block0", "block1"] and depth.heads.shape == (2, 4)
    assert depth.maps.shape[-1] == len(depth.words) == len(answer.pieces)
    with pytest.raises(relprop.InputError, match="not predicted"):
        texts.choose(answer, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  ", "no text"),
        ("a" * (MOST_CHARACTERS + 1), "20,001 characters"),
        ("the " * 4000, "4,001 tokens"),
        ("the " * 20, "14 positions"),
    ],
)
def test_texts_that_are_refused(texts, text, message):
    with pytest.raises(relprop.InputError, match=message):
        texts.explain(text, "attn_lrp")


def test_several_at_once_get_their_own(images):
    files = zoo.samples()[:6]
    alone = {}
    for file in files:
        found = images.see(file.name, images.read(file, file.name), "predicted")
        alone[file] = images.explain(found, RULES).relevance["epsilon"]
    together, faults = {}, []

    def ask(file):
        try:
            found = images.see(file.name, images.read(file, file.name), "predicted")
            together[file] = images.explain(found, RULES).relevance["epsilon"]
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=ask, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for file in files:
        np.testing.assert_array_equal(together[file], alone[file])


def test_what_is_said_is_escaped():
    for html in (problem(EVIL), table([EVIL, "b"], [[EVIL, EVIL]]), safe(EVIL)):
        assert "<script" not in html and "\u202e" not in html and "&lt;script&gt;" in html


def test_problems_are_told_and_the_page_stays():
    @telling("where")
    def broken(x: int):
        raise relprop.InputError(EVIL)
        yield

    ((where, html),) = next(broken(1)).items()
    assert where == "where" and 'role="alert"' in html and "<script" not in html


def test_files_of_one_visitor_are_not_those_of_another():
    import copy

    one = Downloads()
    other = copy.deepcopy(one)
    paths = [files.write("a.html", name.encode()) for files, name in ((one, "1"), (other, "2"))]
    assert [path.read_text() for path in paths] == ["1", "2"]
    one.remove()
    assert not paths[0].exists() and paths[1].exists()
    other.remove()


def test_there_is_no_store(tmp_path):
    with pytest.raises(relprop.InputError, match="no store"):
        page_of(tmp_path, 1)


def test_an_encoder_with_a_decoder():
    """The mark behind the source is one of the tokens: what is clicked is what is explained."""
    params = jnp.asarray(np.random.default_rng(0).normal(size=(11, 6)), jnp.float32)

    def logits(params, source, mask, prefix):
        read = jnp.sum(jnp.where(mask[..., None], source, 0.0), axis=1, keepdims=True)
        return (jnp.cumsum(prefix, axis=1) * jnp.tanh(read)) @ params.T

    model = tokens.from_encoder_decoder(
        lambda params, source, prefix: (params[source], params[prefix]),
        logits,
        params,
        Words(),
        start_id=0,
        vocabulary=11,
        pad_id=10,
    )
    explainer = TextExplainer("both", model)
    answer = explainer.explain("the cat sat", "attn_lrp", continued=3)
    mark = answer.length - 1
    assert answer.ids[mark] == model.start and sorted(answer.results) == [
        mark + k for k in (1, 2, 3)
    ]
    wanted = tokens.explain(model, "the cat sat", tokens.Continuation(length=3))
    for k in range(3):
        found = explainer.choose(answer, mark + 1 + k).result
        np.testing.assert_allclose(found.relevance, wanted[k].relevance, rtol=1e-5)
    with pytest.raises(InputError, match="Nothing comes before"):
        explainer.choose(answer, mark)
