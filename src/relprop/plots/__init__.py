"""Relevance as something to look at: matplotlib figures, and the same in HTML.

Every function returns a figure that nobody has to show or close: a `Plot`, which shows itself in
notebooks, has its content in words (`Plot.alt`) and in numbers (`Plot.table`), and is a
`matplotlib.figure.Figure`. With ``axes=`` it draws on those instead. Arrays may be those of NumPy
or JAX.
"""

from relprop._coloured_text import ColouredText as ColouredText
from relprop.plots._attention import attention as attention
from relprop.plots._computation import computation as computation
from relprop.plots._figure import Plot as Plot
from relprop.plots._flow import Flow as Flow
from relprop.plots._flow import flow as flow
from relprop.plots._flow import layer_sums as layer_sums
from relprop.plots._gallery import gallery as gallery
from relprop.plots._gallery import pages as pages
from relprop.plots._graph import graph as graph
from relprop.plots._graph_page import graph_page as graph_page
from relprop.plots._heatmap import heatmap as heatmap
from relprop.plots._heatmap import heatmaps as heatmaps
from relprop.plots._pixels import colormap as colormap
from relprop.plots._pixels import enlarged as enlarged
from relprop.plots._text import token_text as token_text
from relprop.plots._text import tokens as tokens
from relprop.plots._text import trace as trace

__all__ = [
    "ColouredText",
    "Flow",
    "Plot",
    "attention",
    "colormap",
    "computation",
    "enlarged",
    "flow",
    "gallery",
    "graph",
    "graph_page",
    "heatmap",
    "heatmaps",
    "layer_sums",
    "pages",
    "token_text",
    "tokens",
    "trace",
]
