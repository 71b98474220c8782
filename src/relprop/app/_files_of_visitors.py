"""What each tab has for downloads: a state per visitor, and two buttons."""

from __future__ import annotations

import gradio as gr

from relprop.app import _limits
from relprop.app._downloads import Downloads


def visitors_files() -> gr.State:
    """A folder for each visitor, which is removed when the visitor has gone."""
    return gr.State(Downloads(), time_to_live=_limits.FORGOTTEN, delete_callback=Downloads.remove)


def download_buttons() -> tuple[gr.DownloadButton, gr.DownloadButton]:
    """For a page and for arrays; hidden as long as there is nothing."""
    with gr.Row():
        page = gr.DownloadButton("Page (HTML)", visible=False, size="sm")
        arrays = gr.DownloadButton("Arrays (npz)", visible=False, size="sm")
    return page, arrays
