"""Measures all methods on all planted tasks and writes the page of the documentation.

    python -m evidence [--out DIR] [--only NAME ...] [--samples N] [--page FILE]

What has been measured lies in DIR, a file per task: a run that was broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from evidence import choices, figures, page
from evidence.measure import measured
from relprop import truth
from relprop._files import write_text

PAGE = Path("docs/explanation/evidence.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("evidence-report"))
    parser.add_argument("--only", nargs="*", choices=truth.names(), default=truth.names())
    parser.add_argument("--samples", type=int, default=24, help="explained per task")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    given = parser.parse_args()
    # Networks this small run at once either way: nearly all of the time is the compiler's.
    jax.config.update("jax_disable_most_optimizations", True)
    given.out.mkdir(parents=True, exist_ok=True)
    found = [once(given.out / f"{n}.json", measured, n, given.samples) for n in given.only]
    chosen = [
        once(given.out / f"choice-{name}.json", choices.chosen, name, 2 * given.samples)
        for name in choices.FAMILIES
        if name in given.only
    ]
    write_text(given.page.with_suffix(".csv"), page.as_csv(found))
    figures.curves(found, given.page.with_suffix(".png"))
    write_text(given.page, page.written(found, chosen))
    print(f"{given.page}, and .csv and .png beside it")


def once(file: Path, measure: Callable[..., Any], name: str, samples: int) -> dict[str, Any]:
    """What is in the file if it was measured with as many samples; else measures and writes it."""
    known = json.loads(file.read_text()) if file.exists() else {}
    if known.get("samples") != samples:
        known = {**measure(name, samples), "commit": commit()}
        write_text(file, json.dumps(known, indent=1))
    print(f"{file.stem}: {known['cpu_seconds']:.0f} CPU seconds", flush=True)
    return known


def commit() -> str:
    """The commit that is measured; with a plus where files have been changed since."""
    asked = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
