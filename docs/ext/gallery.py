"""Brings the notebooks of `notebooks/` into the documentation, with a card for each of them.

They are copied to `docs/gallery` when the documentation is built; nothing is executed. The picture
of a card is the first one that the notebook shows.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parent.parent
NOTEBOOKS = DOCS.parent / "notebooks"
FOLDER = DOCS / "gallery"
_PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
_SENTENCE = re.compile(r".+?[.?!](?= [A-Z]|$)")
_LONG = 160  # characters: a second sentence comes after a shorter one only


def copy(notebooks: Path = NOTEBOOKS, folder: Path = FOLDER) -> None:
    """Copies notebooks, with links that are right there, and writes their first pictures."""
    folder.mkdir(exist_ok=True)
    for path in sorted(notebooks.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (folder / path.name).write_text(text, encoding="utf-8")
        picture = first_picture(json.loads(text))
        if picture is not None:
            (folder / f"{path.stem}.png").write_bytes(picture)


def first_picture(notebook: dict[str, Any]) -> bytes | None:
    """The first PNG among the outputs, also one inside of HTML."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            html = _PICTURE.search("".join(data.get("text/html", [])))
            found = data.get("image/png") or (html and html.group(1))
            if found:
                return base64.b64decode("".join(found))
    return None


def headed(notebook: dict[str, Any]) -> tuple[str, str]:
    """The heading, and a sentence or two below it."""
    head, _, rest = "".join(notebook["cells"][0]["source"]).partition("\n")
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", " ".join(rest.split()))
    first, *more = (sentence.strip() for sentence in _SENTENCE.findall(plain))
    if more and len(first + more[0]) < _LONG:
        first += f" {more[0]}"
    return head.lstrip("# "), first


class Gallery(SphinxDirective):
    """Cards that lead to notebooks, which are named in its lines."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        cards = nodes.container(classes=["gallery"])
        for name in filter(None, map(str.strip, self.content)):
            notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
            title, text = headed(notebook)
            target = self.env.app.builder.get_relative_uri(self.env.docname, f"gallery/{name}")
            link = nodes.reference("", "", refuri=target, classes=["notebook-link"])
            if (FOLDER / f"{name}.png").exists():
                uri = f"/gallery/{name}.png"
                link += nodes.image(uri=uri, alt="", classes=["notebook-picture"])
            link += nodes.strong("", title)
            words = [nodes.paragraph("", "", link), nodes.paragraph("", text)]
            cards += nodes.container("", *words, classes=["notebook"])
        return [cards]


def _copy(app: Sphinx) -> None:
    copy()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _copy)
    app.add_directive("gallery", Gallery)
    app.add_css_file("gallery.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
