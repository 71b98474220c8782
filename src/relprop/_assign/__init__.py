"""From a composite and a traced function to a plan, with all that is wrong told at once."""

from relprop._assign.assignment import anatomy as anatomy
from relprop._assign.assignment import assign as assign
from relprop._assign.problems import CUT_REMEDY as CUT_REMEDY
