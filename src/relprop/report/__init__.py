"""Explanations of images as something to look at: an HTML report, a PNG montage.

Knows arrays and their names; nothing here knows models or rules.
"""

from relprop.report.explanation import Balance as Balance
from relprop.report.explanation import Balances as Balances
from relprop.report.explanation import Explanation as Explanation
from relprop.report.heatmap import enlarged as enlarged
from relprop.report.heatmap import map_picture as map_picture
from relprop.report.heatmap import overlay as overlay
from relprop.report.heatmap import picture as picture
from relprop.report.html import write_html as write_html
from relprop.report.montage import write_png as write_png

__all__ = [
    "Balance",
    "Balances",
    "Explanation",
    "enlarged",
    "map_picture",
    "overlay",
    "picture",
    "write_html",
    "write_png",
]
