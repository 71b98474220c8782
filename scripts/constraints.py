"""Prints an exact pin for every package that relprop and its extras pull into this environment.

Run by ``make constraints`` in an environment that holds all extras. torch is pinned without its
local version (``+cpu``), which package indices do not serve.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# Written by `make constraints` (Python 3.11, Linux): exact versions of everything that relprop,
# its extras and its build need. Where torch resolves to a CUDA build, the nvidia-* packages
# that it brings are not pinned here; torch itself names their versions.
"""


def closure(roots: list[str]) -> dict[str, Distribution]:
    """Installed distributions reachable from requirements, by canonical name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(root) for root in roots]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                dist = found[name] = distribution(name)
            except PackageNotFoundError:
                sys.exit(f"{name} is not installed: `make constraints` needs every extra")
            for line in dist.requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    return found


def main() -> None:
    extras = distribution("relprop").metadata.get_all("Provides-Extra") or []
    found = closure([f"relprop[{','.join(extras)}]", "hatchling", "hatch-vcs"])
    del found["relprop"]
    print(HEADER, end="")
    for name, dist in sorted(found.items()):
        print(f"{name}=={re.sub(r'[+].*', '', dist.version)}")


if __name__ == "__main__":
    main()
