"""The code stays readable: no circle of imports, no file and no function that is too long."""

import ast
import graphlib
import pathlib

import relprop

SOURCE = pathlib.Path(relprop.__file__).parents[1]
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 60


def _modules():
    for path in sorted((SOURCE / "relprop").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, path.read_text(encoding="utf-8")


def _imports(text, names):
    """The modules of ours that a module needs, also within its functions and for types."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            of = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in names else node.module for name in of)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_circle_of_imports():
    modules = dict(_modules())
    # A package says only what it hands on, and is imported before whatever is in it.
    needs = {
        name: {n for n in _imports(text, modules) if n in modules and n != name}
        for name, text in modules.items()
    }
    assert len(needs) > 200
    graphlib.TopologicalSorter(needs).prepare()


def test_no_file_is_too_long():
    long = {name: n for name, text in _modules() if (n := text.count("\n")) > LINES_OF_A_FILE}
    assert not long


def test_no_function_is_too_long():
    long = {}
    for name, text in _modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documentation = ast.get_docstring(node, clean=False) or ""
                lines = (node.end_lineno or 0) - node.lineno - documentation.count("\n")
                if lines > LINES_OF_A_FUNCTION:
                    long[f"{name}.{node.name}"] = lines
    assert not long
