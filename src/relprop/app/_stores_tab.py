"""The tab of stores: what jobs have found, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from relprop import jobs, report
from relprop.app._downloads import Downloads
from relprop.app._files_of_visitors import visitors_files
from relprop.app._said import note, table, telling
from relprop.app._stores import PER_PAGE, drawn, page_of
from relprop.plots._figure import picture_of


def stores_tab(stores: Mapping[str, Path], opened: Callable[..., Any]) -> None:
    """Adds the tab to the page that is being built.

    Args:
        stores: by name; the first is chosen. No other can be opened.
        opened: `gradio.Blocks.load`, for what is seen when the page is opened.
    """
    first = next(iter(stores))
    files = visitors_files()
    with gr.Row():
        store = gr.Dropdown(list(stores), value=first, label="Store", scale=3)
        number = gr.Number(
            1, label=f"Page, of {PER_PAGE} samples each", minimum=1, precision=0, scale=1
        )
        before = gr.Button("Before", size="sm", scale=1, min_width=80)
        after = gr.Button("Next", size="sm", scale=1, min_width=80, elem_id="store-next")
    said = gr.HTML(note("Choose a store."), elem_id="store-said")
    picture = gr.Image(
        format="png",
        type="pil",
        interactive=False,
        visible=False,
        label="images and heatmaps",
        elem_id="store-picture",
        elem_classes="relprop-captioned",
        buttons=[],
    )
    rows = gr.HTML(elem_id="store-rows")
    page = gr.DownloadButton("Page (HTML)", visible=False, size="sm")

    @telling(said)
    def show(name: str, wanted: float | None, files: Downloads) -> Iterator[dict]:
        found = page_of(stores[name], int(wanted or 1))
        figure = drawn(found)
        described = jobs.load(stores[name]).header["methods"]
        download = gr.DownloadButton(visible=False)
        if found.explanations:
            title = f"{name}, page {found.number}"
            text = report.html_text(found.explanations, title, rules=described)
            written = files.write("relprop-page.html", text.encode())
            download = gr.DownloadButton(value=str(written), visible=True)
        yield {
            said: note(f"Page {found.number} of {found.of}; methods: {', '.join(found.methods)}."),
            picture: gr.Image(
                value=None if figure is None else picture_of(figure), visible=figure is not None
            ),
            rows: table(["sample", "name", "score", *found.methods], found.rows),
            number: found.number,
            page: download,
        }

    outputs = [said, picture, rows, number, page]
    inputs = [store, number, files]
    store.change(lambda: 1, None, number, show_progress="hidden").then(show, inputs, outputs)
    number.submit(show, inputs, outputs)
    for button, step in ((before, -1), (after, 1)):
        button.click(
            lambda n, step=step: max(1, int(n or 1) + step), number, number, show_progress="hidden"
        ).then(show, inputs, outputs)
    opened(show, inputs, outputs, show_progress="hidden")
