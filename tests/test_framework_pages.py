"""Pages of the documentation run as they stand, and print what they say they print."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import pathlib
import re

os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it once, when it is imported.

import pytest

PAGES = pathlib.Path(__file__).parents[1] / "docs" / "how-to"
NEEDS = {
    "inside-the-model": (),
    "app": ("gradio", "safetensors"),
    "metrics": ("matplotlib",),
    "choose-rules": (),
    "datasets": ("zarr",),
    "save-results": ("safetensors",),
    "planted-data": ("safetensors",),
    "published-protocols": ("PIL", "safetensors"),
    "write-a-rule": (),
    "differential-equations": (),
    "dense-outputs": (),
    "images-and-text": ("torch", "torchax", "transformers"),
    "frameworks/plain-jax": (),
    "frameworks/flax-nnx": ("flax",),
    "frameworks/flax-linen": ("flax",),
    "frameworks/equinox": ("equinox",),
    "frameworks/haiku": ("haiku",),
    "frameworks/keras": ("keras",),
    "frameworks/onnx": ("onnx", "onnxruntime"),
    "frameworks/pytorch": ("torch", "torchax", "transformers"),
}
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.frameworks


def blocks(page: str) -> list[tuple[int, str, str]]:
    """Line, language and text of the fenced blocks of a page."""
    text = (PAGES / f"{page}.md").read_text()
    return [
        (text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in BLOCK.finditer(text)
    ]


def run(page: str) -> list[tuple[int, str, str]]:
    """Per block of code its line, what it printed and what the page says that it prints."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    found = blocks(page)
    results = []
    for (line, language, code), following in zip(found, [*found[1:], (0, "", "")], strict=True):
        if language != "python":
            continue
        # Line numbers of errors are those of the page.
        source = compile("\n" * line + code, f"{page}.md", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(source, namespace)
        _, kind, promised = following
        results.append((line, printed.getvalue(), promised if kind == "text" else ""))
    return results


# Haiku, torch and torchax warn about JAX, settings of other models and of torch itself.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", NEEDS)
def test_page(page):
    missing = [package for package in NEEDS[page] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"the page needs {', '.join(missing)}")
    if "keras" in NEEDS[page]:
        import keras

        keras.utils.clear_session()  # its names count what was made before
    results = run(page)
    assert len(results) >= 2
    for line, printed, promised in results:
        assert printed == promised, f"{page}.md, line {line}"


def test_every_page_is_run():
    pages = {f"frameworks/{path.stem}" for path in (PAGES / "frameworks").glob("*.md")}
    assert pages - {"frameworks/index"} == {page for page in NEEDS if "/" in page}
