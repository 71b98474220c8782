"""The tab of images: drop one, choose a class and rules, look at what each layer does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

import relprop
from relprop import presets, report, zoo
from relprop._characters import visible
from relprop._errors import InputError
from relprop._table import amount
from relprop.app import _limits
from relprop.app._downloads import Downloads
from relprop.app._files_of_visitors import download_buttons, visitors_files
from relprop.app._images import MOST_RULES, Answer, ImageExplainer, handed_out
from relprop.app._said import note, safe, table, telling
from relprop.plots import _pixels
from relprop.plots._layers import layer_of
from relprop.report.explanation import percent

_SIDE = 320  # pixels of a heatmap on the page
_CLASSES = 1000  # that can be chosen from a list; others are typed
_STYLES = {
    "heatmap beside the image": "plain",
    "colours over the grey image": "overlay",
    "opacity over the grey image": "opacity",
    "contours on the image": "contours",
}


class ImagesTab:
    """The tab, added to the page that is being built.

    Args:
        explainers: by the name of the model; the first is chosen.
    """

    def __init__(self, explainers: Mapping[str, ImageExplainer]):
        self._explainers = explainers
        self.answer = gr.State(None, time_to_live=_limits.FORGOTTEN)
        self.files = visitors_files()
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                self._lay_out_questions(next(iter(explainers.values())))
            with gr.Column(scale=3, min_width=300):
                self._lay_out_answers()
        self._wire()

    def _lay_out_questions(self, first: ImageExplainer) -> None:
        self.model = gr.Dropdown(list(self._explainers), value=first.model.name, label="Model")
        self.file = gr.File(label="Image: drop one here", height=120, elem_id="image-file")
        self.sample = gr.Gallery(
            [str(path) for path in zoo.samples()],
            label="or take one of these",
            columns=3,
            height=240,
            allow_preview=False,
            object_fit="contain",
            visible=first.model.bundled,
            interactive=False,
            elem_classes="relprop-pixels",
            elem_id="image-samples",
            buttons=[],
        )
        self.target = gr.Dropdown(
            _choices(first),
            value="predicted",
            label="Class to be explained",
            allow_custom_value=True,
        )
        self.rules = gr.Dropdown(
            presets.names(),
            value=_advised(first),
            label=f"Rules, up to {MOST_RULES}",
            multiselect=True,
            max_choices=MOST_RULES,
            elem_id="image-rules",
        )
        self.style = gr.Radio(list(_STYLES), value=next(iter(_STYLES)), label="Show as")
        self.start = gr.Button("Explain", variant="primary", elem_id="image-explain")

    def _lay_out_answers(self) -> None:
        self.said = gr.HTML(note("Choose an image."), elem_id="image-said")
        with gr.Row(elem_classes="relprop-tiles"):
            self.seen = _picture("image-seen")
            self.maps = [_picture(f"image-map-{i}") for i in range(MOST_RULES)]
        self.pixel = gr.HTML(elem_id="image-pixel")
        self.sums = gr.HTML(elem_id="image-sums")
        self.of_layers = gr.HTML(elem_id="image-of-layers")
        self.layer = gr.Radio(
            [],
            label="Click a layer to see the relevance of what it reads",
            visible=False,
            elem_id="image-layers",
        )
        self.inside_said = gr.HTML(elem_id="image-layer-said")
        with gr.Row(elem_classes="relprop-tiles"):
            self.inside = [_picture(f"image-layer-{i}") for i in range(MOST_RULES)]
        self.page, self.arrays = download_buttons()

    def _wire(self) -> None:
        told, asked = telling(self.said), [self.answer, self.said]
        inputs = [self.model, self.file, self.target, self.rules, self.style, self.files]
        outputs = [*asked, self.seen, *self.maps, self.pixel, self.sums, self.of_layers]
        outputs += [self.layer, self.inside_said, *self.inside, self.page, self.arrays]
        explain = {"fn": told(self._explain), "inputs": inputs, "outputs": outputs}
        explain |= {"concurrency_id": "explain"}
        quick: Any = {"show_progress": "hidden"}
        of_model = [self.target, self.rules, self.sample, self.said]
        self.model.change(told(self._other_model), self.model, of_model, **quick)
        self.start.click(**explain)
        self.file.upload(**explain)
        self.sample.select(_chosen_sample, None, self.file, **quick).then(**explain)
        tiles = [self.said, self.seen, *self.maps]
        self.style.change(told(self._another_style), [self.answer, self.style], tiles, **quick)
        for picture in (self.seen, *self.maps):
            picture.select(told(self._at_pixel), self.answer, [self.pixel, self.said], **quick)
        layers = [self.inside_said, *self.inside, self.said]
        self.layer.input(told(self._at_layer), [self.answer, self.layer], layers, **quick)

    def _other_model(self, name: str) -> Iterator[dict]:
        found = self._explainers[name]
        yield {
            self.target: gr.Dropdown(_choices(found), value="predicted"),
            self.rules: gr.Dropdown(value=_advised(found)),
            self.sample: gr.Gallery(visible=found.model.bundled),
        }

    def _explain(
        self,
        name: str,
        path: str | None,
        target: str,
        names: list[str],
        style: str,
        files: Downloads,
    ) -> Iterator[dict]:
        """First the heatmaps, then where the rest went, which takes longer."""
        if path is None:
            raise InputError("There is no image: drop one, or take one of those below.")
        explainer, shown_name = self._explainers[name], Path(path).name
        pixels = explainer.read(Path(path), shown_name)
        found = explainer.see(shown_name, pixels, target or "predicted")
        names = names or list(explainer.rules(pixels))[-MOST_RULES:]
        answer = explainer.explain(found, names)
        arrays = files.arrays("relprop-arrays.npz", _arrays(answer))
        yield {
            self.said: _headline(explainer, answer),
            **_tiles(answer, style, self.seen, self.maps),
            self.pixel: note("Click a pixel to see its relevance."),
            self.sums: _sums(explainer, answer) + note("Where the rest went is added up ..."),
            self.of_layers: _layer_table(answer),
            self.layer: gr.Radio(_layer_choices(answer), value=None, visible=bool(answer.layers)),
            self.inside_said: "",
            **dict.fromkeys(self.inside, gr.Image(value=None, visible=False)),
            self.answer: answer,
            self.page: gr.DownloadButton(visible=False),
            self.arrays: gr.DownloadButton(value=str(arrays), visible=True),
        }
        answer = explainer.book(answer)
        written = files.write("relprop-page.html", _page(explainer, answer).encode())
        yield {
            self.sums: _sums(explainer, answer),
            self.answer: answer,
            self.page: gr.DownloadButton(value=str(written), visible=True),
        }

    def _another_style(self, answer: Any, style: str) -> Iterator[dict]:
        yield {} if answer is None else _tiles(answer, style, self.seen, self.maps)

    def _at_pixel(self, answer: Any, event: gr.SelectData) -> Iterator[dict]:
        yield {} if answer is None else {self.pixel: _at_pixel(answer, event.index)}

    def _at_layer(self, answer: Any, name: str | None) -> Iterator[dict]:
        if answer is None or not name:
            yield {}
        else:
            yield _inside(answer, name, self.inside, self.inside_said)


def _page(explainer: ImageExplainer, answer: Answer) -> str:
    """What there is to be downloaded: the report of the command line."""
    name = explainer.model.name
    return report.html_text(
        [explainer.explanation(answer)],
        f"Explained: {answer.seen.name}",
        balances={(name, rules): b for rules, b in explainer.balances(answer).items()},
        versions={"relprop": relprop.__version__},
    )


def _chosen_sample(event: gr.SelectData) -> str:
    samples = zoo.samples()
    return str(samples[min(max(int(event.index), 0), len(samples) - 1)])


def _picture(name: str) -> gr.Image:
    return gr.Image(
        format="png",
        type="pil",
        interactive=False,
        visible=False,
        min_width=150,
        elem_id=name,
        buttons=[],
        elem_classes=["relprop-pixels", "relprop-captioned"],
    )


def _choices(explainer: ImageExplainer) -> list[str]:
    return ["predicted", *explainer.model.labels[:_CLASSES]]


def _advised(explainer: ImageExplainer) -> list[str]:
    """The rules to begin with: known at once for bundled models, else with the first image."""
    if not explainer.model.bundled:
        return []
    pixels = explainer.read(zoo.samples()[0], "sample")
    return list(reversed(explainer.rules(pixels)))[:MOST_RULES]


def _headline(explainer: ImageExplainer, answer: Answer) -> str:
    seen = answer.seen
    predicted = int(seen.scores.argmax())
    text = f"{visible(seen.name)}: the model says {explainer.label(predicted)}"
    if seen.target != predicted:
        text += f", explained is {explainer.label(seen.target)}"
    text += f" with a score of {seen.scores[seen.target]:.4g}."
    return note(f"{text} Red speaks for the class, blue against it; full colour is the strongest.")


def _tiles(answer: Answer, how: str, seen: gr.Image, maps: Sequence[gr.Image]) -> dict:
    shown = answer.seen.shown
    style = _STYLES.get(how, "plain")
    found: dict = {
        seen: gr.Image(value=_large(_pixels.plain(shown)), visible=True, label="what it saw")
    }
    for picture, name in _padded(maps, answer.relevance):
        if name is None:
            found[picture] = gr.Image(value=None, visible=False)
            continue
        drawn = _pixels.picture(shown, answer.relevance[name], style, side=_SIDE)
        found[picture] = gr.Image(value=_large(drawn), visible=True, label=name)
    return found


def _padded(maps: Sequence[gr.Image], names: Any) -> Iterator[tuple[gr.Image, str | None]]:
    listed = [*names, *[None] * len(maps)]
    yield from zip(maps, listed, strict=False)


def _large(image: Image.Image) -> Image.Image:
    """Enlarged without smoothing, so that pixels can be told apart and clicked."""
    factor = max(1, _SIDE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _sums(explainer: ImageExplainer, answer: Answer) -> str:
    score = float(answer.seen.scores[answer.seen.target])
    if not answer.ledgers:
        rows = [
            [name, amount(total, handed), percent(total / handed) if handed else "-"]
            for name, r in answer.relevance.items()
            for total, handed in [(float(r.sum(dtype=np.float64)), handed_out(name, score))]
        ]
        return table(["rules", "on the pixels", "of the score"], rows)
    balances = explainer.balances(answer)
    columns = ["rules", "score", "on the pixels", "biases", "stabilisers", "stopped", "rules' own"]
    rows = [
        [n, f"{b.handed_out:.4g}", *(amount(x, b.handed_out) for x in b.parts().values())]
        for n, b in balances.items()
    ]
    lines = "".join(f"<li>{safe(b.sentence(name))}</li>" for name, b in balances.items())
    return f"{table(columns, rows)}<ul>{lines}</ul>"


def _layers(answer: Answer) -> dict[str, str]:
    """The path of the weight of each layer -> what the layer is called, which no other one is."""
    paths = list(dict.fromkeys(path for of in answer.layers.values() for path in of))
    titles = [layer_of(path) for path in paths]
    return dict(zip(paths, titles if len({*titles}) == len(paths) else paths, strict=True))


def _layer_choices(answer: Answer) -> list[tuple[str, str]]:
    return [(title, path) for path, title in _layers(answer).items()]


def _layer_table(answer: Answer) -> str:
    """Sums of relevance at what each layer reads, which tell where it grows or is lost."""
    titles = _layers(answer)
    score = float(answer.seen.scores[answer.seen.target])
    rows = [
        [
            title,
            *(
                amount(float(of[path].sum(dtype=np.float64)), score) if path in of else ""
                for of in answer.layers.values()
            ),
        ]
        for path, title in titles.items()
    ]
    return table(["arrives at", *answer.layers], rows) if titles else ""


def _at_pixel(answer: Answer, index: Any) -> str:
    height, width = answer.seen.shown.shape[:2]
    factor = max(1, _SIDE // max(height, width))
    shrunk = max(1.0, max(height, width) / _SIDE) if factor == 1 else 1.0
    column, row = (int(int(i) / factor * shrunk) for i in index)
    row, column = min(row, height - 1), min(column, width - 1)
    cells = [
        [name, f"{float(r[row, column].sum()):+.4g}", percent(_part(r, row, column))]
        for name, r in answer.relevance.items()
    ]
    value = ", ".join(f"{x:.3g}" for x in np.atleast_1d(answer.seen.pixels[row, column]))
    head = note(f"Row {row + 1}, column {column + 1}; the pixel is {value}.")
    return head + table(["rules", "relevance", "of all |relevance|"], cells)


def _part(relevance: np.ndarray, row: int, column: int) -> float | None:
    whole = float(np.abs(relevance.sum(-1)).sum())
    return abs(float(relevance[row, column].sum())) / whole if whole else None


def _inside(answer: Answer, layer: str, pictures: Sequence[gr.Image], said: gr.HTML) -> dict:
    title = _layers(answer).get(layer, layer)
    found: dict = {said: note(f"Relevance of what {title} reads, its channels summed up:")}
    for picture, name in _padded(pictures, answer.layers):
        values = None if name is None else answer.layers[name].get(layer)
        if values is None or not np.isfinite(values).all():
            found[picture] = gr.Image(value=None, visible=False)
            continue
        drawn = _pixels.relevance_picture(_as_grid(values))
        found[picture] = gr.Image(value=_large(drawn), visible=True, label=name)
    return found


def _as_grid(values: np.ndarray) -> np.ndarray:
    """Places in rows and columns: as they are, patches behind a class token, or units in lines."""
    if values.ndim == 2:
        return values
    count = values.size
    side = round((count - 1) ** 0.5)
    if side > 1 and side * side == count - 1:  # of the class token its own relevance is no place
        return values[1:].reshape(side, side)
    width = int(np.ceil(count**0.5))
    filled = np.zeros(width * -(-count // width), values.dtype)
    filled[:count] = values.reshape(-1)
    return filled.reshape(-1, width)


def _arrays(answer: Answer) -> dict[str, np.ndarray]:
    seen = answer.seen
    found = {"image": seen.pixels, "scores": seen.scores, "target": np.asarray(seen.target)}
    return found | {f"relevance {name}": r for name, r in answer.relevance.items()}
