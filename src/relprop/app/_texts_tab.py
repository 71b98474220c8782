"""The tab of texts: type one, see what the model says, click what is to be explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

import relprop
from relprop import plots, presets
from relprop._characters import visible
from relprop._errors import InputError
from relprop.app import _limits
from relprop.app._downloads import Downloads
from relprop.app._files_of_visitors import download_buttons, visitors_files
from relprop.app._said import note, table, telling
from relprop.app._texts import (
    MOST_CHARACTERS,
    MOST_CONTINUED,
    MOST_DRAWN,
    Depth,
    TextAnswer,
    TextExplainer,
)
from relprop.plots import _pixels
from relprop.plots._figure import picture_of


class TextsTab:
    """The tab, added to the page that is being built.

    Args:
        explainers: by the name of the model; the first is chosen.
    """

    def __init__(self, explainers: Mapping[str, TextExplainer]):
        self._explainers = explainers
        self.answer = gr.State(None, time_to_live=_limits.FORGOTTEN)
        self.depth = gr.State(None, time_to_live=_limits.FORGOTTEN)
        self.files = visitors_files()
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                self._lay_out_questions(next(iter(explainers.values())))
            with gr.Column(scale=3, min_width=300):
                self._lay_out_answers()
        self._wire()

    def _lay_out_questions(self, first: TextExplainer) -> None:
        self.model = gr.Dropdown(list(self._explainers), value=first.name, label="Model")
        self.text = gr.Textbox(
            first.example,
            label="Text",
            lines=4,
            max_lines=12,
            max_length=MOST_CHARACTERS + 1,
            elem_id="text-input",
        )
        self.rules = gr.Dropdown(presets.names(), value="attn_lrp", label="Rules")
        self.contrast = gr.Dropdown(
            [],
            value=None,
            label="Rather than (optional): another token or class",
            allow_custom_value=True,
        )
        self.continued = gr.Slider(
            1,
            MOST_CONTINUED,
            value=3,
            step=1,
            label="Tokens to go on with",
            visible=not first.is_classifier,
        )
        self.start = gr.Button("Explain", variant="primary", elem_id="text-explain")

    def _lay_out_answers(self) -> None:
        self.said = gr.HTML(note("Type a text."), elem_id="text-said")
        self.predictions = gr.HTML(elem_id="text-predictions")
        self.strip = gr.HighlightedText(
            label="Click a token to see what it came from",
            visible=False,
            show_legend=False,
            show_inline_category=False,
            color_map={"explained": "#e6b800", "continued": "#9aa5b1"},
            elem_id="text-tokens",
            buttons=[],
        )
        self.coloured = gr.HTML(elem_id="text-coloured")
        self.deeper = gr.Button("Layers and heads", visible=False, elem_id="text-deeper", size="sm")
        self.inside_said = gr.HTML(elem_id="text-inside-said")
        self.layers = _figure("text-layers")
        self.heads = _figure("text-heads")
        self.map = _figure("text-map")
        self.page, self.arrays = download_buttons()

    def _wire(self) -> None:
        told = telling(self.said)
        quick: Any = {"show_progress": "hidden"}
        slow: Any = {"concurrency_id": "explain"}
        figures = [self.layers, self.heads, self.map]
        outputs = [self.said, self.predictions, self.contrast, self.strip, self.coloured]
        outputs += [self.deeper, self.inside_said, *figures, self.answer, self.depth]
        outputs += [self.page, self.arrays]
        of_model = [self.text, self.continued, self.contrast, self.said]
        self.model.change(told(self._other_model), self.model, of_model, **quick)
        inputs = [self.model, self.text, self.rules, self.contrast, self.continued, self.files]
        self.start.click(told(self._explain), inputs, outputs, **slow)
        self.text.submit(told(self._explain), inputs, outputs, **slow)
        held = [self.answer, self.contrast, self.files]
        self.strip.select(told(self._choose), held, outputs, **slow)
        inside = [self.said, self.inside_said, *figures, self.depth]
        self.deeper.click(told(self._look_inside), self.answer, inside, **slow)
        self.heads.select(told(self._choose_head), self.depth, [self.map, self.said], **quick)

    def _other_model(self, name: str) -> Iterator[dict]:
        found = self._explainers[name]
        yield {
            self.text: found.example,
            self.continued: gr.Slider(visible=not found.is_classifier),
            self.contrast: gr.Dropdown(choices=[], value=None),
        }

    def _explain(
        self, name: str, text: str, rules: str, other: str | None, count: int, files: Downloads
    ) -> Iterator[dict]:
        explainer = self._explainers[name]
        answer = explainer.explain(text, rules, other or "", count)
        likely = answer.predictions
        rows = [[p.name, f"{p.probability:.1%}", f"{p.logit:.4g}"] for p in likely]
        kind = "class" if explainer.is_classifier else "next token"
        choices = [f"{visible(p.name).strip()} ({p.index})" for p in likely[1:]]
        yield {
            self.said: note(
                f"The model says: {likely[0].name}. Red speaks for it, blue against it; "
                "full colour is the strongest token."
            ),
            self.predictions: table([kind, "probability", "logit"], rows),
            self.contrast: gr.Dropdown(choices=choices, value=other),
            **self._shown(explainer, answer, files),
        }

    def _choose(
        self, held: Any, other: str | None, files: Downloads, event: gr.SelectData
    ) -> Iterator[dict]:
        if held is None:
            yield {}
            return
        name, answer = held
        token = int(event.index)
        answer = self._explainers[name].choose(answer, token, other or "")
        chosen = visible(answer.pieces[token]).strip()
        yield {
            self.said: note(f"What the token {chosen!r} came from: all that is before it."),
            **self._shown(self._explainers[name], answer, files),
        }

    def _shown(self, explainer: TextExplainer, answer: TextAnswer, files: Downloads) -> dict:
        result = answer.result
        details = {"model": explainer.name, "rules": answer.rules}
        html = result.html(details=details | {"relprop": relprop.__version__})
        numbers = {"relevance": result.relevance, "score": np.asarray(result.score)}
        numbers |= {"ids": result.ids, "target": np.asarray(result.target)}
        page = files.write("relprop-page.html", html.encode())
        arrays = files.arrays("relprop-arrays.npz", numbers)
        coloured = f'<div class="relprop-paper">{result._repr_html_()}</div>'
        hidden = gr.Image(value=None, visible=False)
        return {
            self.coloured: coloured + note(result.line()),
            self.strip: gr.HighlightedText(
                value=_strip(answer), visible=not explainer.is_classifier
            ),
            self.deeper: gr.Button(visible=True),
            self.inside_said: "",
            **dict.fromkeys((self.layers, self.heads, self.map), hidden),
            self.answer: (explainer.name, answer),
            self.depth: None,
            self.page: gr.DownloadButton(value=str(page), visible=True),
            self.arrays: gr.DownloadButton(value=str(arrays), visible=True),
        }

    def _look_inside(self, held: Any) -> Iterator[dict]:
        if held is None:
            raise InputError("There is nothing to look into yet: explain a text first.")
        name, answer = held
        depth = self._explainers[name].look_inside(answer)
        hint = "" if depth.heads is None else " Click a head to see its map."
        yield {
            self.inside_said: note(
                f"Relevance of the tokens in each layer, and of each head of attention.{hint}"
            ),
            self.layers: _layers_drawn(depth),
            self.heads: _heads_drawn(depth),
            self.map: gr.Image(value=None, visible=False),
            self.depth: depth,
        }

    def _choose_head(self, depth: Any, event: gr.SelectData) -> Iterator[dict]:
        if depth is None or depth.maps is None:
            yield {}
        else:
            yield {self.map: _map(depth, event.index)}


def _figure(name: str) -> gr.Image:
    return gr.Image(
        format="png",
        type="pil",
        interactive=False,
        visible=False,
        elem_id=name,
        elem_classes="relprop-captioned",
        buttons=[],
    )


def _strip(answer: TextAnswer) -> list[tuple[str, str | float | None]]:
    def kind(number: int) -> str | None:
        if number == answer.chosen:
            return "explained"
        return "continued" if number >= answer.length else None

    return [(visible(piece), kind(i)) for i, piece in enumerate(answer.pieces)]


def _layers_drawn(depth: Depth) -> gr.Image:
    if not depth.layers:
        return gr.Image(value=None, visible=False)
    count = min(len(depth.words), MOST_DRAWN)
    rows = {name: values[-count:] for name, values in depth.layers.items()}
    figure = plots.trace(rows, list(depth.words[-count:]), bad="mark", name="Tokens by layer")
    return gr.Image(value=picture_of(figure), visible=True, label="layers")


def _heads_drawn(depth: Depth) -> gr.Image:
    if depth.heads is None:
        return gr.Image(value=None, visible=False)
    drawn = _heads_picture(depth.heads)
    return gr.Image(value=drawn, visible=True, label="heads: a row per layer, a column per head")


_CELL = 44  # pixels of a head


def _heads_picture(heads: np.ndarray) -> Image.Image:
    drawn = _pixels.relevance_picture(heads)
    size = (drawn.width * _CELL, drawn.height * _CELL)
    large = drawn.resize(size, Image.Resampling.NEAREST)
    edged = np.asarray(large).copy()
    edged[::_CELL] = edged[:, ::_CELL] = 190
    return Image.fromarray(edged)


def _map(depth: Depth, index: Any) -> gr.Image:
    assert depth.maps is not None
    layers, heads = depth.maps.shape[:2]
    column, row = (int(i) // _CELL for i in index)
    row, column = min(row, layers - 1), min(column, heads - 1)
    count = min(len(depth.words), MOST_DRAWN)
    figure = plots.attention(
        depth.maps[row, column][-count:, -count:],
        relevance=True,
        tokens=list(depth.words[-count:]),
        name=f"layer {row}, head {column}",
    )
    return gr.Image(value=picture_of(figure), visible=True, label="attention map, its relevance")
