"""Which relprop this is: git's tags say so to the build, and the build to what is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

#: Of sources that are imported without being installed.
UNKNOWN = "0+unknown"


def version() -> str:
    """The version of the installed package; `UNKNOWN` where there is none."""
    try:
        return installed("relprop")
    except PackageNotFoundError:
        return UNKNOWN


VERSION = version()
