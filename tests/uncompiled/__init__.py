"""Evaluation without compiling anything.

An explanation is asked for once, so that compiling it costs ten times what it takes to run it, and
even operation by operation there is a program to compile for every shape. NumPy knows most of the
operations that explanations are made of. JAX evaluates the others, one by one.
"""

from .evaluation import evaluated as evaluated
from .evaluation import unchecked as unchecked
from .evaluation import uncompiled as uncompiled
