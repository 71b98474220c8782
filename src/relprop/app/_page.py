"""The page as a whole, and the server that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Read by Gradio when it is imported: nothing is sent, and nothing is looked up elsewhere.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

try:
    import gradio as gr
except ImportError as error:
    raise ImportError(
        "The page in the browser needs Gradio, which cannot be imported. Install it with: "
        "pip install 'relprop[app]'"
    ) from error

from gradio.themes import Base
from starlette.middleware import Middleware

from relprop.app import _limits
from relprop.app._images import ImageExplainer
from relprop.app._images_tab import ImagesTab
from relprop.app._stores_tab import stores_tab
from relprop.app._texts import TextExplainer
from relprop.app._texts_tab import TextsTab
from relprop.cli.inputs import sample_image

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_SYSTEM = ["system-ui", "sans-serif"]  # Gradio's own fonts are fetched from elsewhere
#: The page may load nothing but what this server gives.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-src 'none'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)


def build(
    images: Mapping[str, ImageExplainer],
    texts: Mapping[str, TextExplainer],
    stores: Mapping[str, Path],
) -> gr.Blocks:
    """The page: a tab for images, for texts and for stores, of those that there are.

    Args:
        images: name -> a model of images.
        texts: name -> a language model.
        stores: name -> the folder of a store of `relprop.jobs`.
    """
    with gr.Blocks(
        title="relprop",
        analytics_enabled=False,
        delete_cache=(_limits.FORGOTTEN, _limits.FORGOTTEN),
    ) as page:
        gr.HTML("<h1>relprop</h1><p>What in an image or a text adds to a score of a model.</p>")
        with gr.Tabs():
            if images:
                with gr.Tab("Images"):
                    ImagesTab(images)
            if texts:
                with gr.Tab("Text"):
                    TextsTab(texts)
            if stores:
                with gr.Tab("Stores"):
                    stores_tab(stores, page.load)
    page.queue(max_size=_limits.WAITING, default_concurrency_limit=_limits.AT_ONCE)
    return page


def serve(
    page: gr.Blocks,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Shows a page until it is interrupted.

    Args:
        page: what `build` has made.
        host: the address to listen at; others than 127.0.0.1 let other machines in.
        port: by default the first that is free from 7860 on.
        ready: is called with the address of the page, once it can be opened.

    Raises:
        OSError: the port is taken.
    """
    theme = Base(font=_SYSTEM, font_mono=["ui-monospace", "monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=_limits.UPLOAD,
        state_session_capacity=_limits.VISITORS,
        allowed_paths=[str(sample_image().parent)],
        show_error=False,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        app_kwargs={"middleware": [Middleware(_Guarded)]},
        theme=theme,
        css=_CSS,
    )
    ready(address)
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)


class _Guarded:
    """Adds to every answer what it may load, so that nothing leaves the server's own page."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers: Sequence[tuple[bytes, bytes]] = message.get("headers", [])
                more = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*headers, *more]}
            await send(message)

        await self._app(scope, receive, guarded)
