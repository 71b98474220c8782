"""Which relprop it says it is."""

from importlib import metadata

import relprop
from relprop import _version


def test_the_version_is_that_of_what_is_installed(monkeypatch):
    assert relprop.__version__ == metadata.version("relprop")

    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_version, "installed", nothing)
    assert _version.version() == "0+unknown"
