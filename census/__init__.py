"""The census: does relprop keep its promises for the models that people use?

260 models of many libraries, each small, with random weights and its own unmodified
code. `make census`, or ``python -m census``, prints a row per model; docs/how-to/census.md says
what the columns mean and how a model is added.
"""
