"""A page in the browser: explain images and text with a few clicks, and browse stores.

`build` makes the page, `serve` shows it; on the command line it is `relprop app`. Nothing that is
uploaded is run, and nothing is sent anywhere: models and stores are those that the server was
started with.
"""

from relprop.app._images import ImageExplainer as ImageExplainer
from relprop.app._page import build as build
from relprop.app._page import serve as serve
from relprop.app._texts import TextExplainer as TextExplainer

__all__ = ["ImageExplainer", "TextExplainer", "build", "serve"]
