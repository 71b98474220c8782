"""Data sets of others that a user has on disk, in the formats in which they are published."""

from __future__ import annotations

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
        InputError: a file is missing or no JSON, a text that is named is missing, or a span lies
            outside of its text; lists all of the latter.

    Source: DeYoung et al. 2020 (ERASER).
    """
    folder = Path(folder)
    lines = list(_json_lines(folder / f"{split}.jsonl"))
    texts: dict[str, list[str]] = {}
    if (folder / "docs.jsonl").exists():
        for line in _json_lines(folder / "docs.jsonl"):
            texts[line["docid"]] = line["document"].split()
    found, faults = [], []
    for line in lines:
        spans = [span for group in line["evidences"] for span in group]
        names = list(dict.fromkeys(span["docid"] for span in spans)) or [line["annotation_id"]]
        for name in names:
            if name not in texts:
                texts[name] = _text(folder / "docs" / name)
        starts, words = {}, []
        for name in names:
            starts[name] = len(words)
            words += texts[name]
        evidence = np.zeros(len(words), bool)
        for span in spans:
            first, last = span["start_token"], span["end_token"]
            if not 0 <= first < last <= len(texts[span["docid"]]):
                faults.append(
                    f"{line['annotation_id']}: words {first} to {last} of {span['docid']}"
                )
                continue
            evidence[starts[span["docid"]] + first : starts[span["docid"]] + last] = True
        label, query = line.get("classification") or "", line.get("query") or ""
        found.append(Rationale(line["annotation_id"], tuple(words), evidence, label, query))
    if faults:
        raise InputError(
            f"{len(faults)} spans in {folder / f'{split}.jsonl'} are not in their texts: "
            f"{'; '.join(faults[:5])}. The texts are not those of these annotations."
        )
    return found


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
    if not isinstance(content, dict) or "data" not in content:
        raise InputError(f"{file} is not of the format of SQuAD: it has no 'data'.")
    found, faults = [], []
    for paragraph in (p for article in content["data"] for p in article["paragraphs"]):
        context = paragraph["context"]
        words, places = _words(context)
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
    if faults:
        raise InputError(
            f"{len(faults)} answers in {file} are not where they say: {'; '.join(faults[:5])}."
        )
    return found


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


def _json_lines(file: Path) -> Iterator[Any]:
    for number, line in enumerate(_text_of(file).splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}, line {number}, is no JSON: {error}.") from error


def _json(file: Path) -> Any:
    try:
        return json.loads(_text_of(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is no JSON: {error}.") from error


def _text(file: Path) -> list[str]:
    return _text_of(file).split()


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
