"""Benchmarks: what an explanation costs, as ratios to `jax.value_and_grad` of the same function."""
