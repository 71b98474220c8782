import gc
import warnings

import pytest


@pytest.fixture(scope="module", autouse=True)
def loops_that_gradio_leaves_open():
    """What Gradio and Playwright leave to the collector is collected here, not in other tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
