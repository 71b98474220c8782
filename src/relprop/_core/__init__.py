"""The machinery: trace, plan, forward with a tape, backward with relevance.

Nothing in here knows a primitive or a rule; both reach it as values.
"""
