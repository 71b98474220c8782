"""Datasets explained by jobs: what is in the store, for all sources."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("zarr", reason="stores are an extra")

import relprop
from relprop import jobs
from relprop.rules import Epsilon, Zero

pytestmark = pytest.mark.frameworks

RNG = np.random.default_rng(0)
W1 = RNG.normal(size=(6, 5)).astype(np.float32)
W2 = RNG.normal(size=(5, 3)).astype(np.float32)
PARAMS = {"w1": jnp.asarray(W1), "w2": jnp.asarray(W2)}
X = RNG.normal(size=(23, 6)).astype(np.float32)


def logits(params, x):
    return jax.nn.relu(x @ params["w1"]) @ params["w2"]


def score(params, x):
    return logits(params, x)[0]


def fixed(x):
    return score(PARAMS, x)


def scored(params, x):
    found = logits(params, x)
    best = jnp.argmax(found)
    return found[best], best.astype(jnp.int32)


def explain(source, out, **options):
    settings = {"params": PARAMS, "batch_size": 4, "progress": False} | options
    function = settings.pop("score", score)
    rules = settings.pop("rules", Zero())
    return jobs.explain(function, rules, source, out, **settings)


def naive(x):
    """LRP-0 of a network of two layers without biases, in double precision."""
    x, w1, w2 = (np.asarray(a, np.float64) for a in (x, W1, W2))
    hidden = x @ w1
    back = (hidden > 0) * w2[:, 0]
    return x * (w1 @ back), np.maximum(hidden, 0) @ w2[:, 0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("jobs") / "store"
    explain(X, out)
    return out


def test_equals_a_loop_over_the_samples(store):
    found = relprop.load(store)
    assert len(found) == len(X) and found.is_complete and not found.errors
    for i, x in enumerate(X):
        relevance, value = naive(x)
        np.testing.assert_allclose(found.relevance[i], relevance, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.score[i], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.absorbed, 0, atol=1e-5)


def test_is_indexed_as_a_sequence(store):
    found = relprop.load(store).relevance
    whole = np.asarray(found)
    assert whole.shape == found.shape == (23, 6) and whole.dtype == found.dtype
    np.testing.assert_array_equal(found[-1], whole[22])
    np.testing.assert_array_equal(found[3:20:5], whole[3:20:5])
    np.testing.assert_array_equal(found[[5, 1, 22]], whole[[5, 1, 22]])
    np.testing.assert_array_equal(found[whole[:, 0] > 0], whole[whole[:, 0] > 0])
    np.testing.assert_array_equal(np.stack(list(found)), whole)
    assert found[5:5].shape == (0, 6)
    with pytest.raises(IndexError, match="no number 23"):
        found[23]


def test_zarr_reads_it(store):
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(str(store), mode="r")
        array = group["Zero/relevance"]
    assert array.metadata.zarr_format == 3
    assert array.shape == (23, 6) and array.chunks == (64 * 4, 6)
    np.testing.assert_array_equal(array[:], np.asarray(relprop.load(store).relevance))


def test_no_file_is_left_half_written(store):
    assert not [path for path in store.rglob("*") if ".part" in path.name]


class Squares:
    """Neither list nor array: what a data source of Grain or of Hugging Face has."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"image": X[index], "label": index % 3}


def dicts(params, sample):
    return jnp.where(sample["label"] > 5, 0.0, logits(params, sample["image"])[0])


@pytest.mark.parametrize(
    "source",
    [
        list(X),
        tuple(jnp.asarray(X[:9])),
        (x for x in X),
        jnp.asarray(X),
        X.astype(np.float64),
        Squares(),
        {"image": X, "label": np.arange(23) % 3},
    ],
    ids=["list", "tuple", "iterator", "jax", "double", "dataset", "columns"],
)
def test_sources(tmp_path, source, store):
    whole = np.asarray(relprop.load(store).relevance)
    options = {"score": dicts} if isinstance(source, (Squares, dict)) else {}
    found = explain(source, tmp_path / "out", **options)
    relevance = found.relevance["image"] if options else found.relevance
    np.testing.assert_allclose(np.asarray(relevance), whole[: len(found)], rtol=1e-5, atol=1e-6)
    assert found.is_complete and len(found) in (9, 23)


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in ("a.png", "b/c.png", "d.png", "z.png"):
        Image.fromarray(rng.integers(0, 255, (4, 4), np.uint8)).save(folder / name)
    (folder / "d.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    found = jobs.explain(
        lambda x: jnp.sum(x * x), Zero(), folder, tmp_path / "out", 3, progress=False
    )
    assert list(found.ids) == ["a.png", "b/c.png", "d.png", "z.png"]
    assert set(found.errors) == {2} and "cannot identify image" in found.errors[2]
    pixels = np.asarray(Image.open(folder / "z.png"), np.float32)[..., None] / 255
    np.testing.assert_allclose(found.relevance[3], pixels**2, rtol=1e-5)
    assert np.isnan(found.relevance[2]).all()


def test_samples_that_fail_do_not_end_it(tmp_path):
    samples = [*X]
    samples[0] = None
    samples[5] = np.where(np.arange(6) == 2, np.nan, X[5]).astype(np.float32)
    samples[8:12] = ["text"] * 4
    samples[13] = np.arange(6)
    samples[22] = np.full(6, np.inf, np.float32)
    found = explain(samples, tmp_path / "out")
    assert set(found.errors) == {0, 5, 8, 9, 10, 11, 13, 22}
    assert found.errors[5] == "NaN or infinity in the score or the relevance"
    assert "not of numbers" in found.errors[8]
    assert "no floating point numbers" in found.errors[13]
    good = [i for i in range(23) if i not in found.errors]
    for i in good:
        np.testing.assert_allclose(found.relevance[i], naive(X[i])[0], rtol=1e-4, atol=1e-5)
    assert all(np.isnan(found.relevance[i]).all() for i in found.errors)
    assert found.is_complete and found.line(0).startswith("0: ")


def test_nothing_but_failures(tmp_path):
    found = explain(["a", "b"], tmp_path / "out")
    assert len(found) == 2 and set(found.errors) == {0, 1} and found.is_complete
    assert np.isnan(found.relevance[1]).all()


def test_nothing_at_all(tmp_path):
    found = explain(X[:0], tmp_path / "out")
    assert len(found) == 0 and found.is_complete and len(found.relevance) == 0


def test_samples_of_several_shapes(tmp_path):
    w = jnp.arange(1.0, 4.0)
    samples = [np.full((1 + i % 3, 3), i, np.float32) for i in range(14)]
    found = jobs.explain(
        lambda x: jnp.sum(x @ w), Zero(), samples, tmp_path / "out", 4, progress=False
    )
    for i, x in enumerate(samples):
        np.testing.assert_allclose(found.relevance[i], x * np.asarray(w))
    with pytest.raises(relprop.InputError, match="several shapes"):
        np.asarray(found.relevance)
    assert found.score.shape == (14,)


def test_padding_of_what_knows_a_mask(tmp_path):
    compiled = []

    def mean(x, mask):
        compiled.append(x.shape)
        return jnp.sum(jnp.where(mask[:, None], x, 0)) / jnp.sum(mask)

    samples = [np.full((1 + i, 2), 1 + i, np.float32) for i in range(24)]
    found = jobs.explain(mean, Zero(), samples, tmp_path / "out", 4, progress=False)
    assert set(compiled) == {(16, 2), (32, 2)}
    for i, x in enumerate(samples):
        np.testing.assert_allclose(found.relevance[i], x / len(x), rtol=1e-6)


def test_a_shape_that_the_function_does_not_take(tmp_path):
    samples = [*X[:6], np.ones((2, 2), np.float32), *X[6:10]]
    found = explain(samples, tmp_path / "out")
    assert set(found.errors) == {6} and found.is_complete
    np.testing.assert_allclose(found.relevance[10], naive(X[9])[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError):
        explain([np.ones((2, 2), np.float32)], tmp_path / "other")


def test_several_methods_places_and_aux(tmp_path):
    def named(params, x):
        hidden = relprop.named(jax.nn.relu(x @ params["w1"]), "hidden")
        found = hidden @ params["w2"]
        return found[1], {"class": jnp.argmax(found), "logits": found}

    found = explain(
        X,
        tmp_path / "out",
        score=named,
        rules={"zero": Zero(), "epsilon": Epsilon(0.5)},
        has_aux=True,
        places="hidden",
    )
    assert found.methods == ("zero", "epsilon")
    np.testing.assert_allclose(
        np.asarray(found.aux["logits"]), np.asarray(logits(PARAMS, X)), rtol=1e-4, atol=1e-5
    )
    assert found.places["hidden"][0].shape == (5,)
    expected = relprop.relevance(lambda x: named(PARAMS, x)[0], Epsilon(0.5))(jnp.asarray(X[4]))
    np.testing.assert_allclose(found["epsilon"].relevance[4], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(relprop.UnknownNameError):
        found["gamma"]


def test_reductions_equal_those_of_all_at_once(tmp_path):
    source = X.copy()
    source[7] = np.nan
    found = explain(
        source,
        tmp_path / "out",
        score=scored,
        has_aux=True,
        reductions={
            "classes": jobs.MeanPerClass(classes=3),
            "total": jobs.Total(absolute=True),
            "best": jobs.References(k=4),
        },
    )
    good = np.arange(23) != 7
    relevance, of = np.asarray(found.relevance, np.float64)[good], np.asarray(found.aux)[good]
    for c in range(3):
        np.testing.assert_allclose(found.reductions["classes"][c], relevance[of == c].mean(0))
    np.testing.assert_allclose(found.reductions["total"], np.abs(relevance).sum(0))
    numbers = np.flatnonzero(good)[np.argsort(-relevance, axis=0)[:4].T]
    np.testing.assert_array_equal(found.reductions["best"]["number"], numbers)


def test_relevance_of_parameters_is_summed_up(tmp_path):
    found = explain(
        X,
        tmp_path / "out",
        places=relprop.places.Parameter("params/w1"),
        reductions={"weights": jobs.Total(of="places/params%2Fw1")},
    )
    one_by_one = np.asarray(found.places["params/w1"]).sum(0, dtype=np.float64)
    np.testing.assert_allclose(found.reductions["weights"], one_by_one)
    np.testing.assert_allclose(one_by_one.sum(), np.asarray(found.score).sum(), rtol=1e-4)


def test_an_object_store(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    url = "memory://of-a-test/store"
    first = explain(X[:9], url)
    again = explain(X[:9], url)
    np.testing.assert_array_equal(np.asarray(first.relevance), np.asarray(again.relevance))
    np.testing.assert_allclose(first.relevance[8], naive(X[8])[0], rtol=1e-4, atol=1e-5)
    fsspec.filesystem("memory").rm("/of-a-test", recursive=True)


def test_a_line_that_is_taken_out_of_an_object_store():
    """What is explained again has a name of its own, and overwrites no other line."""
    fsspec = pytest.importorskip("fsspec")
    url, files = "memory://with-a-line-out/store", fsspec.filesystem("memory")
    explain(X[:9], url, batch_size=2, batches_per_chunk=1)
    files.rm(next(n for n in files.ls("/with-a-line-out/store/manifest", False) if ".00000" in n))
    found = explain(X[:9], url, batch_size=2, batches_per_chunk=1)
    assert found.is_complete and found.done.all()
    files.rm("/with-a-line-out", recursive=True)


@pytest.mark.parametrize("name", [None, "a class"])
def test_what_a_score_returns_can_be_checked(tmp_path, name):
    def score(x):
        best = jnp.argmax(x)
        return x[best], best if name is None else {name: best}

    def check(aux):
        if (aux if name is None else aux[name]) == 2:
            raise relprop.InputError("is of class 2")

    found = jobs.explain(
        score, Zero(), np.eye(4, dtype=np.float32), tmp_path / "out", 3, progress=False,
        has_aux=True, check=check,
    )  # fmt: skip
    assert dict(found.errors) == {2: "is of class 2"}
    assert np.isnan(found.relevance[2]).all() and found.relevance[3].tolist() == [0, 0, 0, 1]


def test_several_devices(tmp_path, store):
    # tests/conftest.py makes eight of them; a batch of 8 is divided among all.
    found = explain(X, tmp_path / "out", batch_size=8)
    np.testing.assert_allclose(
        np.asarray(found.relevance), np.asarray(relprop.load(store).relevance), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
def test_batch_sizes(tmp_path, size):
    with pytest.raises(relprop.InputError, match="batch_size"):
        explain(X, tmp_path / "out", batch_size=size)


@pytest.mark.parametrize("source", [3, "no/such/folder", {"a": X, "b": X[:2]}])
def test_no_sources(tmp_path, source):
    with pytest.raises(relprop.InputError):
        explain(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def looped(params, x):
    return jax.lax.while_loop(lambda c: c.sum() < 3, lambda c: c + x * x, x).sum()


def test_wrong_rules_end_it_at_once(tmp_path):
    with pytest.raises(relprop.RuleError):
        explain(X, tmp_path / "out", rules="epsilon")
    with pytest.raises(relprop.InputError, match="letters"):
        explain(X, tmp_path / "out", rules={"../up": Zero()})
    with pytest.raises(relprop.MissingRuleError, match="while"):
        explain(X, tmp_path / "out", score=looped)


def test_it_tells_what_it_is(store, tmp_path):
    found = relprop.load(store)
    text = repr(found)
    assert "23 of 23" in text and "mean absorbed" in text
    assert "<table>" in found._repr_html_()
    with pytest.raises(relprop.InputError, match="no store"):
        relprop.load(tmp_path)
