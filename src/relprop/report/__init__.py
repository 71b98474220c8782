"""Explanations of images as something to look at: an HTML report, a PNG montage.

Knows arrays and their names; nothing here knows models or rules.
"""

from relprop.plots._pixels import check_style as check_style
from relprop.report.explanation import Balance as Balance
from relprop.report.explanation import Balances as Balances
from relprop.report.explanation import Explanation as Explanation
from relprop.report.html import html_text as html_text
from relprop.report.html import write_html as write_html
from relprop.report.montage import png_bytes as png_bytes
from relprop.report.montage import write_png as write_png

__all__ = [
    "Balance",
    "Balances",
    "Explanation",
    "check_style",
    "html_text",
    "png_bytes",
    "write_html",
    "write_png",
]
