"""Data sets of others that a user has on disk, in the formats in which they are published."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from relprop._errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Rationale:
    """A text with the words that people gave as the reason for its class.

    Attributes:
        name: of the text, or of the question.
        words: of the text.
        evidence: per word, whether it is part of the reason.
        label: the class, or the answer.
        query: what is asked of the text; empty where nothing is.
    """

    name: str
    words: tuple[str, ...]
    evidence: Bool[np.ndarray, " words"]
    label: str
    query: str = ""


def eraser(folder: str | Path, split: str = "test") -> list[Rationale]:
    """Reads a data set of ERASER, such as ``movies``: ``SPLIT.jsonl`` and the texts in ``docs``.

    Args:
        folder: that holds them; ``docs`` has a file per text, or is a ``docs.jsonl`` with
            ``docid`` and ``document`` per line.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        One rationale per annotation. Texts are words between white space, as the numbers in the
        annotations count them; where an annotation is about several texts, they follow each other.

    Raises:
        InputError: a file is missing, or is no UTF-8, no JSON or of another format, and in which
            line; a text that is named is missing; or a span lies outside of its text; lists all of
            the latter.

    Source: DeYoung et al. 2020 (ERASER).
    """
    folder = Path(folder)
    file, all_texts = folder / f"{split}.jsonl", folder / "docs.jsonl"
    texts: dict[str, list[str]] = {}
    if all_texts.exists():
        for number, line in _json_lines(all_texts):
            with _of_format("ERASER", f"{all_texts}, line {number},"):
                texts[line["docid"]] = line["document"].split()
    found, faults = [], []
    for number, line in [*_json_lines(file)]:
        with _of_format("ERASER", f"{file}, line {number},"):
            one, wrong = _rationale(line, texts, folder / "docs")
        found.append(one)
        faults += wrong
    if faults:
        raise InputError(
            f"{len(faults)} spans in {file} are not in their texts: {'; '.join(faults[:5])}. The "
            "texts are not those of these annotations."
        )
    return found


def _rationale(
    line: dict[str, Any], texts: dict[str, list[str]], docs: Path
) -> tuple[Rationale, list[str]]:
    """An annotation, and which of its spans are not in their texts; reads texts that it needs."""
    spans = [span for group in line["evidences"] for span in group]
    names = list(dict.fromkeys(span["docid"] for span in spans)) or [line["annotation_id"]]
    starts, words, faults = {}, [], []
    for name in names:
        if name not in texts:
            texts[name] = _text_of(docs / name).split()
        starts[name] = len(words)
        words += texts[name]
    evidence = np.zeros(len(words), bool)
    for span in spans:
        name, first, last = span["docid"], span["start_token"], span["end_token"]
        if not 0 <= first < last <= len(texts[name]):
            faults.append(f"{line['annotation_id']}: words {first} to {last} of {name}")
            continue
        evidence[starts[name] + first : starts[name] + last] = True
    label, query = line.get("classification") or "", line.get("query") or ""
    return Rationale(line["annotation_id"], tuple(words), evidence, label, query), faults


def squad(file: str | Path) -> list[Rationale]:
    """Reads a file of SQuAD 1.1 or 2.0, such as ``dev-v1.1.json``, but questions without answers.

    Returns:
        One rationale per question: the context as words between white space, those that any of the
        answers overlaps as evidence, the first answer as label.

    Raises:
        InputError: the file is missing or no SQuAD, or an answer is not where it says; lists those.

    Source: Rajpurkar et al. 2016 (SQuAD).
    """
    file = Path(file)
    content = _json(file)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise InputError(f"{file} is not of the format of SQuAD: it has no 'data', a list.")
    found, faults = [], []
    for number, article in enumerate(content["data"]):
        with _of_format("SQuAD", f"{file}, article {number},"):
            for paragraph in article["paragraphs"]:
                asked, wrong = _questions(paragraph)
                found += asked
                faults += wrong
    if faults:
        raise InputError(
            f"{len(faults)} answers in {file} are not where they say: {'; '.join(faults[:5])}."
        )
    return found


def _questions(paragraph: dict[str, Any]) -> tuple[list[Rationale], list[str]]:
    """The questions on a text that have answers, and which of these are not where they say."""
    context = paragraph["context"]
    words, places = _words(context)
    found, faults = [], []
    for asked in paragraph["qas"]:
        evidence = np.zeros(len(words), bool)
        for answer in asked["answers"]:
            start, text = answer["answer_start"], answer["text"]
            if context[start : start + len(text)] != text:
                faults.append(f"{asked['id']}: {text!r} at {start}")
            evidence |= (places[:, 0] < start + len(text)) & (places[:, 1] > start)
        if asked["answers"]:
            label = asked["answers"][0]["text"]
            found.append(Rationale(asked["id"], words, evidence, label, asked["question"]))
    return found, faults


def imagenet_segmentation(
    file: str | Path,
) -> Iterator[tuple[Shaped[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]]:
    """Reads images and masks of ImageNet-segmentation from ``gtsegs_ijcv.mat``, one after another.

    Args:
        file: of the format of MATLAB 7.3, which is HDF5 and needs h5py.

    Yields:
        An image, as bytes, and where its object is.

    Raises:
        InputError: there is no such file, or it is another one.
        ImportError: h5py is not installed.

    Source: Guillaumin et al. 2014; the protocol of Chefer et al. 2021.
    """
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("MATLAB files need h5py. Install it with: pip install h5py") from error
    file = Path(file)
    if not file.exists():
        raise InputError(f"There is no file {file}.")
    with h5py.File(file, "r") as read:
        content: Any = read
        value = content.get("value")
        if not isinstance(value, h5py.Group) or not {"img", "gt"} <= set(value):
            raise InputError(f"{file} has no value/img and value/gt: it is another file.")
        images, masks = content["value/img"], content["value/gt"]
        for image, mask in zip(images[0], masks[0], strict=True):
            # Cells of cells; MATLAB's arrays have their axes the other way round.
            inner = content[content[mask][0, 0]]
            yield np.asarray(content[image]).T, np.asarray(inner).T > 0


def _words(text: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The words between white space and where each begins and ends."""
    words, places, at = [], [], 0
    for word in text.split():
        at = text.index(word, at)
        places.append((at, at + len(word)))
        words.append(word)
        at += len(word)
    return tuple(words), np.array(places).reshape(len(words), 2)


@contextlib.contextmanager
def _of_format(name: str, where: str) -> Iterator[None]:
    """Says where a file is not of a format, whatever that leads to."""
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{where} is not of the format of {name}: it has no {error}.") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{where} is not of the format of {name}: {error}.") from error


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    # Not `splitlines`, which also splits at characters that may stand in a string of JSON.
    for number, line in enumerate(_text_of(file).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}, line {number}, is no JSON: {error}.") from error


def _json(file: Path) -> Any:
    try:
        return json.loads(_text_of(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is no JSON: {error}.") from error


def _text_of(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise InputError(
            f"{file}, line {line}, is not in UTF-8: the byte 0x{content[error.start]:02x}. Convert "
            "the file, for example with iconv."
        ) from error
