"""The examples in the docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import relprop

pytestmark = pytest.mark.frameworks
MODULES = [
    module.name
    for module in pkgutil.walk_packages(relprop.__path__, "relprop.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["relprop", *MODULES])
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES]
    examples = [test for module in modules for test in finder.find(module) if test.examples]
    assert len(examples) > 25
