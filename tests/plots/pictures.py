"""Figures as arrays of pixels, and pages as lists of tags."""

import html.parser

import numpy as np


def rgb(figure):
    """The pixels of a figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def colour_at(figure, axes, column, row):
    """The colour in the middle of an entry of what `imshow` drew."""
    pixels = rgb(figure)
    x, y = axes.transData.transform((column, row))
    return tuple(pixels[round(pixels.shape[0] - 1 - y), round(x)].tolist())


class Page(html.parser.HTMLParser):
    """What is in a piece of HTML; fails where tags do not match."""

    void = frozenset({"img", "br", "input", "meta"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]
