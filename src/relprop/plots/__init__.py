"""Pictures of relevance."""

from relprop.plots.figure import Plot as Plot
from relprop.plots.gallery import gallery as gallery
from relprop.plots.heatmap import heatmap as heatmap
from relprop.plots.heatmap import heatmaps as heatmaps
from relprop.plots.pixels import colormap as colormap

__all__ = ["Plot", "colormap", "gallery", "heatmap", "heatmaps"]
