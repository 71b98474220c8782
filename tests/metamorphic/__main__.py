"""A long look: ``python -m tests.metamorphic --examples 5000 --seed 0``.

Prints the pairs that differ, the largest difference first. Without ``--examples`` it looks at every
spelling once, as the tests do.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import sys
import time

import jax
import numpy as np

from .drawn import draw, fixed_sample
from .explainers import EXPLAINERS
from .grammar import PIECES
from .judge import RELEVANCE, Judge, Verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.metamorphic", description=__doc__)
    parser.add_argument("--examples", type=int, help="draw so many networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", default="*", help="glob: layers, softmax, norms, ...")
    parser.add_argument("--piece", default="*", help="glob: dense, rms_norm, ...")
    parser.add_argument("--spelling", default="*", help="glob")
    parser.add_argument("--preset", default="*", help=f"globs: {', '.join(EXPLAINERS)}")
    parser.add_argument("--most", type=int, help="so many spellings of each piece")
    parser.add_argument("--limit", type=int, default=100, help="rows to be printed")
    parser.add_argument("--all", action="store_true", help="inherent differences, too")
    options = parser.parse_args()

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    pieces = [
        p for p in PIECES.values()
        if fnmatch.fnmatch(p.family, options.family) and fnmatch.fnmatch(p.name, options.piece)
    ]  # fmt: skip
    globs = options.preset.split(",")
    explainers = [name for name in EXPLAINERS if any(fnmatch.fnmatch(name, g) for g in globs)]
    if not pieces or not explainers:
        parser.error("nothing has that name.")
    if options.examples:
        networks = draw(pieces, options.examples, np.random.default_rng(options.seed))
    else:
        networks = fixed_sample(pieces, options.most)
    networks = [n for n in networks if fnmatch.fnmatch(n.spelling, options.spelling)]

    judge, verdicts, start = Judge(explainers), [], time.process_time()
    wrong = []
    for number, network in enumerate(networks):
        try:
            verdicts += judge(network)
        except AssertionError as error:
            wrong.append(str(error))
        except Exception as error:
            wrong.append(f"{network}: {type(error).__name__}: {error}")
        if number % 200 == 199:
            jax.clear_caches()
            print(f"... {number + 1} of {len(networks)}", file=sys.stderr, flush=True)
    report(verdicts, options)
    for line in wrong:
        print("BROKEN  ", line)
    seconds = time.process_time() - start
    print(f"{len(networks)} networks, {len(verdicts)} explanations, {seconds:.0f} CPU-seconds")
    return any(v.fails for v in verdicts) or bool(wrong)


def report(verdicts: list[Verdict], options: argparse.Namespace) -> None:
    """One line per network that differs, then how many fail under each explainer."""
    shown = [v for v in verdicts if not v.equal and (options.all or v.fails)]
    by_network = collections.defaultdict(list)
    for verdict in shown:
        by_network[verdict.network].append(verdict)

    def size(group: list[Verdict]) -> float:
        return max((v.size for v in group if not v.refused), default=0.0)

    groups = sorted(by_network.values(), key=size, reverse=True)
    for group in groups[: options.limit]:
        sizes = [f"{v.explainer} {v.size:.2g}" for v in group if not v.refused]
        refused = collections.defaultdict(list)
        for v in group:
            if v.refused:
                refused[str(v.refused)[:150]].append(v.explainer)
        print(f"{size(group):8.2g}  {group[0].network}")
        if sizes:
            print("          " + ", ".join(sizes))
        for message, names in refused.items():
            print(f"          refused by {', '.join(names)}: {message}")
    if len(groups) > options.limit:
        print(f"... and {len(groups) - options.limit} more")
    print()
    table(verdicts, lambda v: v.explainer)
    table(verdicts, lambda v: v.network.piece)


def table(verdicts: list[Verdict], key) -> None:
    rows = collections.defaultdict(list)
    for verdict in verdicts:
        rows[key(verdict)].append(verdict)
    print(f"{'':32} {'pairs':>7} {'equal':>7} {'inherent':>9} {'differ':>7} {'refused':>8}")
    for name, group in rows.items():
        inherent = sum(not v.equal and not v.fails for v in group)
        refused = sum(v.fails and v.refused is not None for v in group)
        differ = sum(v.fails for v in group) - refused
        equal = sum(v.equal for v in group)
        print(f"{name:32} {len(group):7} {equal:7} {inherent:9} {differ:7} {refused:8}")
    print(f"(equal: to {RELEVANCE:g} of the largest)\n")


if __name__ == "__main__":
    sys.exit(main())
