"""The front page of the docs lists by name what its navigation has."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_all_pages_are_listed():
    text = (DOCS / "index.md").read_text()
    trees = re.findall(r"^```{toctree}\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    pages = [line for tree in trees for line in tree.split("\n") if re.match(r"[a-z]", line)]
    assert len(pages) > 30 and all((DOCS / f"{page}.md").exists() for page in pages)
    listed = text.partition("## The pages")[2]
    assert [page for page in pages if f"({page}.md)" not in listed] == ["gallery"]
    assert "[the gallery](gallery.md)" in text
    guides = {f"how-to/{path.stem}" for path in DOCS.glob("how-to/*.md")}
    assert guides <= {*pages}
