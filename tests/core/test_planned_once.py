"""Selections with a position are given their rules in the plan that there is: it must be the one
that planning again would make.
"""

import pytest

import relprop
from relprop import Composite, rules
from relprop._assign import assignment

from .. import zoo_functions as zoo

WHERE = [
    {"structure": "layer", "first": True},
    {"structure": "layer", "position": -1},
    {"position": (1, None)},
    {"position": 2},
]
CASES = [case for case in zoo.CASES if not case.framework][::9]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_what_planning_again_makes(case, monkeypatch):
    f, args = case.build()
    inner = ("scan", "remat", "cond", "region", "custom_derivative")
    for where in WHERE:
        for rule in (rules.Epsilon(0.1), rules.Constant(), rules.Gradient()):
            composite = Composite().at(optional=True, **where).use(rule)
            composite = composite.at(structure=inner, position=1, optional=True).use(
                rules.Gradient()
            )
            plans = []
            for again in (False, True):
                with monkeypatch.context() as patch:
                    if again:
                        patch.setattr(assignment, "_with_rules", lambda plan, choose: None)
                    plans.append(_plan(zoo.score(f), composite, case.argnums, args))
            assert plans[0] == plans[1]


def _plan(score, composite, argnums, args):
    """The plan in words; or what was refused, which is then the same."""
    try:
        explain = relprop.inspect(
            score, composite, argnums, on_missing="gradient", on_suspicion="ignore"
        )
        return str(explain(*args))
    except relprop.RuleError as error:
        return str(error)
