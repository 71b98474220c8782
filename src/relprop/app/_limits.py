"""How much a visitor may ask for: what is more is refused with a word on it."""

from __future__ import annotations

UPLOAD = "20mb"
AT_ONCE = 2  # explanations that are computed at the same time; others wait
WAITING = 32
VISITORS = 200  # whose last answers are kept
FORGOTTEN = 3600  # seconds after which answers and files of a visitor go
