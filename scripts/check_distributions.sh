#!/usr/bin/env bash
# Builds the wheel and the sdist, installs the wheel into a clean environment and runs it there; the
# sdist must give the same wheel. Needs an environment with hatchling and hatch-vcs: PYTHON, by
# default .venv's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quiet=(--quiet --disable-pip-version-check)

"$python" -m hatchling build -d "$work/dist" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
wheel=$(echo "$work"/dist/*.whl)
"$python" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation -w "$work/again" "$work"/dist/*.tar.gz
"$python" - "$wheel" "$work"/again/*.whl <<'PYTHON'
import sys, zipfile

names = [set(zipfile.ZipFile(path).namelist()) for path in sys.argv[1:]]
if names[0] != names[1]:
    sys.exit(f"The sdist gives another wheel: {sorted(names[0] ^ names[1])}")
needed = {"relprop/py.typed", "relprop/app/page.css", "relprop/report/report.html.jinja"}
if missing := needed - names[0]:
    sys.exit(f"The wheel lacks {sorted(missing)}")
PYTHON

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install "${quiet[@]}" -c constraints.txt "$wheel"
cd "$work" # where no sources lie that could be imported instead
env -u PYTHONPATH "$work/venv/bin/python" - "$work" <<'PYTHON'
import sys

import jax.numpy as jnp

import relprop
from relprop.rules import Epsilon

assert relprop.__file__.startswith(sys.argv[1]), relprop.__file__
R = relprop.relevance(lambda x: jnp.sum(x @ jnp.ones((3, 2))), Epsilon(0.0))(jnp.ones(3))
assert R.tolist() == [2.0, 2.0, 2.0], R
PYTHON
echo "$(basename "$wheel") and the sdist build, install and run in a clean environment"
