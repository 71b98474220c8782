"""What an entry of a damaged configuration may be."""

VALUES = (
    None, True, "abc", "", -1, 0, 10**18, 60000, 1.5, float("nan"), float("inf"), [], {}, [0, 4],
    [[]], {"height": 60000, "width": 60000}, {"height": "a"}, [1, 2, 3, 4], -0.5, "\x1b[31m",
    {"0": "a\udcff"}, {"x": 1},
)  # fmt: skip
