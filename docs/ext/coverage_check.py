"""Fails the build when a public name has no entry in the reference pages.

``coverage_check_modules`` in ``conf.py`` lists the public modules. A name in the ``__all__`` of one
of them is public; autodoc leaves out what has no docstring, so that is found here as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

logger = getLogger(__name__)


def missing(modules: Iterable[str], documented: Iterable[str]) -> list[str]:
    """Public names of some modules that are not among the documented ones."""
    documented = frozenset(documented)
    public = [f"{module}.{name}" for module in modules for name in import_module(module).__all__]
    return sorted(name for name in public if name not in documented)


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    for name in missing(app.config.coverage_check_modules, env.domains["py"].data["objects"]):
        logger.warning(
            "%s is public, but docs/reference has no entry for it, or autodoc found no docstring",
            name,
        )
        app.statuscode = 1  # an error without -W as well


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("coverage_check_modules", [], "env", [list, tuple])
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
