"""Names that torchax 0.0.13 asks of torch and that torch 2.13 no longer has.

torch 2.13 removed the overloads for named tensors; torchax still lists them, in tables that it
fills when it is imported, and never calls them. Each gets the first overload that exists, on the
operator object that torch makes for the purpose; no class is changed. Releases of torchax that
don't name them any more are not affected. (google/torchax issue 101)
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys


def restore_names() -> None:
    """Makes the import of torchax possible."""
    import torch  # pyright: ignore[reportMissingImports]

    spec = importlib.util.find_spec("torchax")
    if spec is None or spec.origin is None:
        raise ImportError("torchax is not installed")
    if "torchax" not in sys.modules:
        # Parts that an import left behind when it failed for want of these names: with them in
        # place the next one would find a package that lacks them.
        for name in [name for name in sys.modules if name.startswith("torchax.")]:
            del sys.modules[name]
    root = pathlib.Path(spec.origin).parent
    named = re.compile(r"aten\.(\w+)\.(\w*name\w*)", re.IGNORECASE)
    for path in (root / "amp.py", root / "decompositions.py"):
        for operator, overload in named.findall(path.read_text() if path.exists() else ""):
            packet = getattr(torch.ops.aten, operator, None)
            if packet is not None and not hasattr(packet, overload):
                setattr(packet, overload, getattr(packet, packet.overloads()[0]))
