"""The page in a real browser. Screenshots are kept in `app-screenshots`, to be looked at."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page in the browser is an extra")
pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")

from PIL import Image
from playwright.sync_api import sync_playwright

from relprop import zoo

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SHOTS = pathlib.Path(__file__).parents[2] / "app-screenshots"
EVIL = "<img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.frameworks,
    # Gradio and Playwright leave event loops to the collector, which says so when it finds them.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(
        not pathlib.Path(CHROMIUM).exists(),
        reason=f"there is no {CHROMIUM}: apt-get install chromium",
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A job's store of a few images, one of them of a name that could do harm."""
    from relprop import cli

    typer_testing = pytest.importorskip("typer.testing", reason="the command line is an extra")
    folder = tmp_path_factory.mktemp("images")
    for n in range(14):
        shutil.copy(zoo.samples()[n % 12], folder / f"{n:02d}.png")
    shutil.copy(zoo.samples()[0], folder / f"{EVIL}.png")
    place = folder.parent / "store.zarr"
    options = ["--model", "digits-cnn", "--rules", "epsilon", "--quiet", "--out", str(place)]
    found = typer_testing.CliRunner().invoke(cli.app, ["explain", str(folder), *options])
    assert found.exit_code == 0, found.output
    return place


@pytest.fixture(scope="module")
def address(store):
    """Of the page, as the command shows it."""
    command = [sys.executable, "-m", "relprop.cli", "app", "--store", str(store)]
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    # A shell in the background has Ctrl-C ignored by all that it starts.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=listen
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            assert line.startswith("http://127.0.0.1:"), line
            yield line
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()  # which does nothing where it has ended


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page as a new visitor; nothing may be loaded from elsewhere, nor any script run."""
    contexts, faults = [], []

    def opened():
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))

        def asked(request):
            if not request.url.startswith((address, "data:", "blob:")):
                faults.append(f"asked for {request.url}")

        page.on("request", asked)
        page.goto(address)
        page.wait_for_selector("#image-explain")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def explained(page, sample):
    page.locator("#image-samples button").nth(sample).click()
    name = zoo.samples()[sample].name
    page.locator("#image-said").get_by_text(f"{name}: the model says").wait_for()
    page.wait_for_selector("#image-sums li")
    return page.locator("#image-sums").inner_text()


def shots(page, name, looks=(("light", 1400), ("dark", 390))):
    """Keeps how the page looks on large and small screens; nothing may be beyond their edge."""
    SHOTS.mkdir(exist_ok=True)
    for scheme, width in looks:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)  # all is drawn anew
        page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def saved(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).locator("visible=true").first.click()
    return pathlib.Path(download.value.path())


def test_an_image(visit):
    page = visit()
    sums = explained(page, 3)
    assert "epsilon_plus explains" in sums and "noisy" in sums
    page.locator("#image-map-1 img").click(position={"x": 5, "y": 5})
    page.locator("#image-pixel").get_by_text("Row 1, column 1").wait_for()
    page.locator("#image-layers").get_by_text("conv2").click()
    page.wait_for_selector("#image-layer-1 img")
    shots(page, "images", [(s, w) for s in ("light", "dark") for w in (1400, 390)])
    with np.load(saved(page, "Arrays (npz)")) as arrays:
        assert arrays["relevance epsilon_plus"].shape == (8, 8, 1)
    html = saved(page, "Page (HTML)").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and "digit_3_1474.png" in html
    for style in ("opacity", "contours"):
        before = page.locator("#image-map-1 img").get_attribute("src")
        page.get_by_text(f"{style} o").click()
        page.wait_for_function(
            "before => document.querySelector('#image-map-1 img').src != before", arg=before
        )
    shots(page, "contours")


def test_files_that_are_no_images(visit, tmp_path):
    page = visit()
    text = tmp_path / f"{EVIL}.png"
    text.write_bytes(b"GIF89a" + b"<script>alert(1)</script>")
    huge = tmp_path / "huge.png"
    Image.new("1", (10_000, 10_000)).save(huge)
    heavy = tmp_path / f"heavy{EVIL}.png"
    heavy.write_bytes(b"\0" * 21_000_000)
    for file, message in ((text, "is not an image"), (huge, "too many pixels")):
        page.locator("#image-file input").set_input_files(file)
        page.locator("#image-said [role=alert]").get_by_text(message).wait_for()
        page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    page.locator("#image-file input").set_input_files(heavy)
    page.get_by_text("exceed the maximum allowed size").first.wait_for()
    assert "epsilon" in explained(page, 4)  # and goes on


def test_two_visitors(visit):
    one, other = visit(), visit()
    for page, sample in ((one, 1), (other, 2)):
        page.locator("#image-samples button").nth(sample).click()
    for page, sample in ((one, 1), (other, 2)):
        name = zoo.samples()[sample].name
        page.locator("#image-said").get_by_text(f"{name}: the model says").wait_for()
        assert zoo.samples()[3 - sample].name not in page.locator("#image-said").inner_text()


def test_a_text(visit):
    page = visit()
    page.get_by_role("tab", name="Text").click()
    page.locator("#text-explain").click()
    page.locator("#text-coloured").get_by_text("class blame").wait_for()
    assert "blame" in page.locator("#text-predictions").inner_text()
    page.locator("#text-deeper").click()
    page.locator("#text-heads img").click(position={"x": 5, "y": 5})
    page.wait_for_selector("#text-map img")
    shots(page, "text", [(s, w) for s in ("light", "dark") for w in (1400, 390)])
    assert "not" in saved(page, "Page (HTML)").read_text(encoding="utf-8")
    # And texts that could do harm.
    typed = page.locator("#text-input textarea")
    typed.fill("not <script>alert(1)</script>")
    page.locator("#text-explain").click()
    page.locator("#text-coloured").get_by_text("[mask]").first.wait_for()
    typed.fill("the " * 10_000)
    page.locator("#text-explain").click()
    page.locator("#text-said [role=alert]").wait_for()


def test_a_store(visit):
    page = visit()
    page.get_by_role("tab", name="Stores").click()
    page.locator("#store-rows").get_by_text("00.png").wait_for()
    page.locator("#store-next").click()
    page.locator("#store-rows").get_by_text(EVIL).wait_for()
    shots(page, "store")
