"""The same network, the same relevance: ways of writing one network, and a judge between them.

- `grammar`: a piece is one mathematical function of tokens; its spellings are ways of writing it.
- `spellings`: the pieces, a file for each kind.
- `wrappers`: what may stand around a piece and change nothing: checkpoints, branches, loops, ...
- `positions`: where in a small network a piece stands.
- `networks`: a network is a piece in a spelling, in a wrapper, at a position.
- `explainers`: the presets, rules and methods that two spellings must agree under.
- `judge`: equal values first, then equal relevance.
- `inherent`: which differences are no mistake, and why; which spellings are refused.

``python -m tests.metamorphic --help`` looks at more networks than the tests do.
"""
