"""Data sets of others, from folders that are made here in their formats."""

from __future__ import annotations

import json

import numpy as np
import pytest

import relprop
from relprop import truth

REVIEW = "a dull plot , but truly\ngreat acting ."


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def annotation(*spans, name="negR_1.txt"):
    parts = [{"docid": name, "start_token": a, "end_token": b, "text": ""} for a, b in spans]
    about = {"annotation_id": name, "classification": "POS", "query": "Good or bad?"}
    return about | {"evidences": [[part] for part in parts]}


@pytest.fixture
def movies(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "negR_1.txt").write_text(REVIEW)
    (tmp_path / "test.jsonl").write_text(lines(annotation((5, 8))))
    return tmp_path


def test_eraser(movies):
    (found,) = truth.eraser(movies)
    assert found.label == "POS" and found.query == "Good or bad?" and found.name == "negR_1.txt"
    assert [w for w, is_part in zip(found.words, found.evidence, strict=True) if is_part] == [
        "truly",
        "great",
        "acting",
    ]


def test_eraser_with_all_texts_in_one_file(tmp_path):
    texts = ({"docid": "a", "document": "one two"}, {"docid": "b", "document": "three four"})
    (tmp_path / "docs.jsonl").write_text(lines(*texts))
    both = {"annotation_id": "x", "classification": None, "query": None}
    spans = [{"docid": d, "start_token": 0, "end_token": 1} for d in "ba"]
    (tmp_path / "val.jsonl").write_text(lines(both | {"evidences": [spans]}))
    (found,) = truth.eraser(tmp_path, "val")
    assert found.words == ("three", "four", "one", "two")
    assert found.evidence.tolist() == [True, False, True, False] and found.label == ""


def test_what_is_wrong_with_an_eraser_folder(movies):
    with pytest.raises(relprop.InputError, match="Cannot read .*train.jsonl: No such file"):
        truth.eraser(movies, "train")
    (movies / "test.jsonl").write_text(lines(annotation((5, 99)), annotation((3, 3))))
    with pytest.raises(relprop.InputError, match="2 spans .*words 5 to 99 of negR_1.txt; .*3 to 3"):
        truth.eraser(movies)
    (movies / "test.jsonl").write_text("{}\nno json\n")
    with pytest.raises(relprop.InputError, match="line 2, is no JSON"):
        truth.eraser(movies)
    (movies / "test.jsonl").write_text(lines(annotation((0, 1), name="other.txt")))
    with pytest.raises(relprop.InputError, match="Cannot read .*other.txt"):
        truth.eraser(movies)


def test_separators_of_lines_inside_of_json(tmp_path):
    """`str.splitlines` would split there."""
    text = json.dumps({"docid": "a", "document": "one\u2028two\x85 three"}, ensure_ascii=False)
    (tmp_path / "docs.jsonl").write_text(text + "\r\n", encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(lines(annotation((0, 1), name="a")))
    (found,) = truth.eraser(tmp_path)
    assert found.words == ("one", "two", "three")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"annotation_id": "x"}, "test.jsonl, line 2, is not of the .* ERASER: it has no 'evid"),
        ([], "test.jsonl, line 2, is not of the format of ERASER: list indices"),
        (annotation(("a", 1)), "line 2, is not of the format of ERASER: "),
        ({"evidences": []}, "line 2, .* has no 'annotation_id'"),
    ],
)
def test_lines_without_what_eraser_has(movies, line, message):
    (movies / "test.jsonl").write_text(lines(annotation((0, 1)), line))
    with pytest.raises(relprop.InputError, match=message):
        truth.eraser(movies)


def test_texts_that_are_not_in_utf_8(movies):
    (movies / "docs" / "negR_1.txt").write_bytes(b"one\ncaf\xe9 two")
    with pytest.raises(relprop.InputError, match="negR_1.txt, line 2, is not in UTF-8: .* 0xe9"):
        truth.eraser(movies)


def questions(first, second):
    answers = [{"text": "two cats", "answer_start": first}]
    answers += [{"text": "cats", "answer_start": second}]
    asked = [
        {"id": "q1", "question": "Who?", "answers": answers},
        {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": "On the mat sat two cats, asleep.", "qas": asked}
    return {"version": "1.1", "data": [{"title": "Cats", "paragraphs": [paragraph]}]}


def test_squad(tmp_path):
    file = tmp_path / "dev-v1.1.json"
    file.write_text(json.dumps(questions(15, 19)))
    (found,) = truth.squad(file)
    assert found.words == ("On", "the", "mat", "sat", "two", "cats,", "asleep.")
    assert np.flatnonzero(found.evidence).tolist() == [4, 5]
    assert (found.label, found.query, found.name) == ("two cats", "Who?", "q1")


def test_what_is_wrong_with_a_squad_file(tmp_path):
    file = tmp_path / "dev.json"
    for text, message in (
        ("[]", "has no 'data'"),
        ("{", "is no JSON"),
        ('{"data": [{"x": 1}]}', "dev.json, article 0, is not .* SQuAD: it has no 'paragraphs'"),
        ('{"data": 1}', "is not of the format of SQuAD"),
        (
            json.dumps(questions(14, 18)),
            "2 answers .* are not where they say: q1: 'two cats' at 14",
        ),
    ):
        file.write_text(text)
        with pytest.raises(relprop.InputError, match=message):
            truth.squad(file)


def test_imagenet_segmentation(tmp_path):
    h5py = pytest.importorskip("h5py")
    file = tmp_path / "gtsegs_ijcv.mat"
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (4, 5, 3), np.uint8) for _ in range(2)]
    masks = [random.integers(0, 2, (4, 5), np.uint8) for _ in range(2)]
    with h5py.File(file, "w") as out:
        kind = h5py.special_dtype(ref=h5py.Reference)
        for name in ("img", "gt"):
            out.create_dataset(f"value/{name}", (1, 2), dtype=kind)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            out[f"image{i}"], out[f"mask{i}"] = image.T, mask.T
            cell = out.create_dataset(f"cell{i}", (1, 1), dtype=kind)
            cell[0, 0] = out[f"mask{i}"].ref
            out["value/img"][0, i], out["value/gt"][0, i] = out[f"image{i}"].ref, cell.ref
    for (image, mask), right, where in zip(
        truth.imagenet_segmentation(file), images, masks, strict=True
    ):
        np.testing.assert_array_equal(image, right)
        np.testing.assert_array_equal(mask, where > 0)
    with pytest.raises(relprop.InputError, match="There is no file"):
        next(truth.imagenet_segmentation(tmp_path / "none.mat"))
    for place in ("value/img", "value"):
        with h5py.File(tmp_path / "other.mat", "w") as out:
            out[place] = 3
        with pytest.raises(relprop.InputError, match="it is another file"):
            next(truth.imagenet_segmentation(tmp_path / "other.mat"))
