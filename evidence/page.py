"""The page of the documentation, and the CSV: every number and every verdict is from the run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from evidence.measure import BETTER, RADIUS
from evidence.ranking import beaten, behind, best, leaders, mean_ranks, ranked, tied
from relprop import truth

#: What relprop takes for a kind of network if it is not told, see `relprop.cli.defaults`.
FAVOURITES = {
    "cnn": ("epsilon_gamma_box", "epsilon_plus"),
    "vit": ("attn_lrp",),
    "encoder": ("attn_lrp",),
    "decoder": ("attn_lrp",),
    "compiled": ("attn_lrp",),
    "lstm": ("lstm (all)",),
    "state space": ("mamba_lrp",),
    "mlp": ("gamma",),
}
NAMES = {
    "cnn": "CNN",
    "vit": "ViT",
    "encoder": "Encoder (BERT)",
    "decoder": "Decoder",
    "compiled": "Compiled transformer (Tracr)",
    "lstm": "LSTM",
    "state space": "State space (Mamba)",
    "mlp": "Tabular (MLP)",
}
#: Those that ask the network many times instead of going through it.
_MANY = ("removal", "integrated_gradients", "smooth_grad_times_input")
_CURVES = """
## Curves

The mean logit while the most relevant features go (solid) and the least relevant (dotted), of the
three best methods by *abpc* and of chance. All numbers as a table: [CSV](evidence.csv).

![Perturbation curves of all tasks](evidence.png)
"""
_INTRO = """# Which explanation is right

Every number and verdict on this page is from runs of `python -m evidence` at the commits that are
named. Small networks were trained on data in which the evidence was planted (`relprop.truth`), and
explained by all methods.
{tasks} tasks, {samples} samples each that the network is right about, seed {seed}, commit
{commits}, {seconds:.0f} CPU seconds.

What is explained is the logit of the class; logits sum to 0 over the classes, but in grids of
digits. Features are pixels, patches of pixels, tokens, columns or steps. Removed ones are set to 0,
tokens to the embedding of `[mask]`, which the networks know from training; the compiled program
knows none, there they are 0. Columns:

- **auc, mass, rank**: is relevance where the evidence is? `metrics.auc`, `relevance_mass` and
  `relevance_rank` of the relevance of features; higher is better.
- **abpc, comp, suff**: does the logit follow? `metrics.abpc` in 16 steps, `comprehensiveness`
  (higher is better) and `sufficiency` (lower is better).
- **mprt**: rank correlation with the explanation of the same network with all parameters shuffled;
  near 0 is what it should be.
- **sens**: the most that an explanation changes, as a part of its size, when every entry of the
  input moves by at most {radius:.0%} of the range; of two draws. Lower is steadier, not righter.
- **ms**: CPU milliseconds per explanation, compiled without XLA's optimisations, as all of this is
  so that it ends in time: a hint, no benchmark.

In brackets are 95 % bootstrap intervals over the samples. A `!` marks what a control, which knows
nothing of the network, does as well or better. `removal` takes away one feature at a time, and
integrated gradients and DeepLIFT start from what is filled in: perturbation metrics ask their own
question, so that they are at home there.
"""
_LIMITS = """
## What this does not say

The networks are small, trained until they are nearly always right, and the evidence is of the kind
that was planted. The compiled one was never trained: its attention is harder than any that is
learnt. Where a network has found another way to its answer than the planted one, the right
explanation would be counted as wrong: *auc* and *mass* punish it, *abpc* does not.
With one or two tasks of a kind, ranks are weak evidence. One favourite is not independent of this
page: that of tabular data was changed from epsilon to gamma after its only task here had been seen.
Numbers of draws and steps were cut after a look at two tasks. That commands take AttnLRP for
transformers is not shown here, where other methods rank higher; it goes by perturbation curves of a
language model, which are not on this page.
{samples} samples tell large differences from small ones and no more. Methods whose intervals
overlap are not told apart here, whatever their ranks. For your own network, `relprop.evaluate` and
`relprop.choose` are the answer, not this page.
"""


def written(found: Sequence[dict[str, Any]], chosen: Sequence[dict[str, Any]] = ()) -> str:
    """The whole page, of what `measure.measured` and `choices.chosen` returned."""
    kinds = list(dict.fromkeys(task["kind"] for task in found))
    commits = sorted({task["commit"] for task in found})
    first = found[0]
    parts = [
        _INTRO.format(
            tasks=len(found),
            samples=first["samples"],
            seed=first["seed"],
            commits=" and ".join(f"`{c}`" for c in commits),
            seconds=sum(task["cpu_seconds"] for task in [*found, *chosen]),
            radius=RADIUS,
        ),
        "## Advice, by kind of network\n",
        *(_advice(kind, [task for task in found if task["kind"] == kind]) for kind in kinds),
        _losses(found),
        _controls(found),
        _choices(chosen),
        _LIMITS.format(samples=first["samples"]) + _missing(found),
        _CURVES,
        "## All numbers\n",
        *(_table(task) for task in found),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _missing(found: Sequence[dict[str, Any]]) -> str:
    """Which tasks the run has left out."""
    left = [name for name in truth.names() if name not in {task["task"] for task in found}]
    return f"\nNot measured in this run: {', '.join(left)}.\n" if left else ""


def _advice(kind: str, tasks: Sequence[dict[str, Any]]) -> str:
    """Mean ranks over the tasks of a kind, and what follows from them."""
    by = {metric: mean_ranks(tasks, metric) for metric in ("auc", "abpc")}
    # Rounded, as means of equal ranks may differ in the last bit.
    both = {name: round(rank + by["abpc"][name], 9) for name, rank in by["auc"].items()}
    lines = [
        f"### {NAMES[kind]}\n",
        f"{len(tasks)} task{'s' * (len(tasks) > 1)}: {', '.join(t['task'] for t in tasks)}. "
        f"{_order(both)}\n",
    ]
    every = dict.fromkeys(name for task in tasks for name in leaders(task, "auc"))
    if some := [name for name in every if name not in both]:
        lines.append(f"Not on all of these tasks, and so not here: {', '.join(some)}.\n")
    columns = "behind the best | not above a control"
    lines.append(f"| method | mean rank by auc | {columns} | by abpc | {columns} |")
    lines.append(f"| --- |{' ---: |' * 6}")
    for name in sorted(both, key=lambda name: both[name]):
        cells = [f"**{name}**" if name in FAVOURITES[kind] else name]
        for metric in ("auc", "abpc"):
            worse = sum(behind(task, metric, name) for task in tasks)
            below = sum(name in beaten(task, metric) for task in tasks)
            cells += [f"{by[metric][name]:.1f}"]
            cells += [f"{count} of {len(tasks)}" for count in (worse, below)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _order(sums: Mapping[str, float]) -> str:
    """Who leads, who follows and who is last by sums of ranks; equal sums are no order."""
    first, *others = tied({name: of for name, of in sums.items() if name not in _MANY})
    leads = "leads" if len(first) == 1 else "lead"
    text = f"By the sum of both ranks {_named(first, '**')} {leads} among what needs one pass"
    after = others[: 2 if others and len(others[0]) == 1 else 1]
    text += f", before {', then '.join(map(_named, after))}." if after else "."
    ahead = [name for name in sums if sums[name] < sums[first[0]]]
    if ahead:
        does = "does" if len(ahead) == 1 else "do"
        text += f"\n{_listed(ahead)}, at many passes, {does} better still."
    if others:
        last = tied(sums)[-1]
        text += f"\nThe last {'is' if len(last) == 1 else 'are'} {_named(last)}."
    return text


def _named(equal: Sequence[str], mark: str = "") -> str:
    """The names, with a word about it where there is more than one."""
    said = _listed([f"{mark}{name}{mark}" for name in equal])
    return said if len(equal) == 1 else f"{said} (equal)"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _losses(found: Sequence[dict[str, Any]]) -> str:
    """Where the presets that relprop advises lie below the best, outside of the intervals."""
    lines = ["## Where the favourites lose\n"]
    lines.append(
        "In bold above is what relprop takes for that kind of network if it is not told. Its "
        "interval lies below that of the best method here:\n"
    )
    for task in found:
        for name in FAVOURITES[task["kind"]]:
            lost = [m for m in ("auc", "mass", "abpc") if behind(task, m, name)]
            if lost:
                said = [
                    f"{metric} (rank {ranked(task, metric, name):g} of "
                    f"{len(leaders(task, metric))}, best {_listed(best(task, metric))})"
                    for metric in lost
                ]
                lines.append(f"- {task['task']}, {name}: {'; '.join(said)}")
    if len(lines) == 2:
        lines.append("- nowhere.")
    return "\n".join(lines) + "\n"


def _controls(found: Sequence[dict[str, Any]]) -> str:
    """Where what knows nothing of the network is as good."""
    lines = ["## What controls beat\n", "By auc or abpc, as good as a control or worse:\n"]
    for task in found:
        for metric in ("auc", "abpc"):
            lost = beaten(task, metric)
            if lost:
                control = next(iter(lost.values()))
                lines.append(f"- {task['task']}, {metric}, by {control}: {', '.join(lost)}")
    if len(lines) == 2:
        lines.append("- nothing.")
    return "\n".join(lines) + "\n"


def _choices(chosen: Sequence[dict[str, Any]]) -> str:
    """What `relprop.choose` found against the defaults."""
    if not chosen:
        return ""
    lines = [
        "## Rules chosen by measurement\n",
        "`relprop.choose` by ABPC, searched on half of the samples, reported on the others:\n",
    ]
    for one in chosen:
        setting = ", ".join(f"{name} {value:g}" for name, value in one["setting"].items())
        said = "better than" if one["better"] else "not told from"
        lines.append(
            f"- {one['task']}, {one['settings']} settings of gamma, {one['samples']} samples: "
            f"{setting} has {one['reported']:.2f} and is {said} {one['default']} with "
            f"{one['of_default']:.2f}; the 95 % interval of the gain is "
            f"[{one['gain'][0]:.2f}, {one['gain'][1]:.2f}]."
        )
    return "\n".join(lines) + "\n"


_SHORT = {"comprehensiveness": "comp", "sufficiency": "suff", "sensitivity": "sens"}
_WITH_INTERVAL = ("auc", "abpc")


def _table(task: dict[str, Any]) -> str:
    names = [_SHORT.get(metric, metric) for metric in BETTER]
    lines = [
        f"### {task['task']}\n",
        f"{NAMES[task['kind']]}: {task['what']}. {task['features']} features, of the entries "
        f"{task['planted']:.0%} are evidence.\n",
        f"| method | {' | '.join(names)} | ms |",
        f"| --- | {' | '.join(['---:'] * len(names))} | ---: |",
    ]
    lost = {metric: beaten(task, metric) for metric in ("auc", "mass", "abpc")}
    for row in task["rows"]:
        cells = [f"*{row['method']}*" if row["control"] else row["method"]]
        for metric in BETTER:
            number = row["metrics"][metric]
            cell = f"{number['mean']:.2f}".replace("nan", "undefined")
            if metric in _WITH_INTERVAL:
                cell += f" [{number['low']:.2f}, {number['high']:.2f}]"
            cells.append(cell + "!" * (row["method"] in lost.get(metric, ())))
        lines.append(f"| {' | '.join(cells)} | {row['milliseconds']:.2g} |")
    return "\n".join(lines) + "\n"


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """One line per task, method and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        "task kind method control metric better mean low high milliseconds samples seed "
        "commit".split()
    )
    for task in found:
        for row in task["rows"]:
            for metric, better in BETTER.items():
                n = row["metrics"][metric]
                writer.writerow(
                    [task["task"], task["kind"], row["method"], int(row["control"]), metric]
                    + [better, n["mean"], n["low"], n["high"], row["milliseconds"]]
                    + [task["samples"], task["seed"], task["commit"]]
                )
    return file.getvalue()
