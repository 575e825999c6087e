"""The page of a report in a browser, for a real sweep."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments.core.figures import DARK, INK, MUTED, PAPER
from experiments.sweep.ledger import Ledger
from tests.conftest import Lathe
from tests.experiments.results.report.test_report import HOSTILE, reported
from tests.experiments.tracking.test_ui import CHROMIUM, DRIVER, FLAGS
from tests.support import ledgers
from tests.support.recorded_sweeps import VALUE, make_swept, run_trial

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

SWEEP = (
    "lr_batch", "data=digits", "max_steps=60", "eval_every_steps=10", "checkpoint.every_steps=60", "tracking=off",
)  # fmt: skip
IMAGES = Path(__file__).parents[4] / "docs" / "images"
HEIGHT = 1570
MAX_BYTES = 200_000
"""Size of an image in docs/."""
MESSAGES, REQUESTS = "browser", "performance"
MIN_CONTRAST = 4.5
"""For text, by WCAG 2."""


@contextmanager
def opened(page: Path, profile: Path) -> Iterator[WebDriver]:
    """Open the page in a browser that logs every message and every request."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER}: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {MESSAGES: "ALL", REQUESTS: "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        messages(driver, REQUESTS)  # drop those of the empty first page
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


def messages(driver: WebDriver, kind: str) -> list[dict[str, Any]]:
    """Return the log entries since the last call."""
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def requested(driver: WebDriver) -> set[str]:
    """Return the URLs requested since the last call, without those inside the page."""
    events = [json.loads(entry["message"])["message"] for entry in messages(driver, REQUESTS)]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = {params["request"]["url"].partition("#")[0] for params in requests}
    return {url for url in urls if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))}


def column(driver: WebDriver, table: str, name: str) -> list[str]:
    """Return the texts of a column, in the order on the screen."""
    script = """
      const table = document.querySelector(arguments[0]);
      const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.title === arguments[1]);
      return [...table.tBodies[0].rows].map(row => row.cells[at].textContent);
    """
    texts: list[str] = driver.execute_script(script, table, name)
    return texts


def sort_by(driver: WebDriver, table: str, name: str) -> str | None:
    """Click a column header; return the sort order after that."""
    head = driver.find_element("css selector", f"{table} th[title='{name}']")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", head)
    head.find_element("tag name", "button").click()
    return head.get_attribute("aria-sort")


def emulate(driver: WebDriver, scheme: str, media: str = "screen") -> str:
    """Emulate a light or dark colour scheme; return the background colour of a section."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    return str(driver.execute_script("return getComputedStyle(document.querySelector('section')).backgroundColor"))


def photograph(driver: WebDriver, path: Path, height: int) -> None:
    """Save the top of the page as an image with 256 colours, a third of the size."""
    from PIL import Image

    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    driver.execute_script("window.scrollTo({top: 0, behavior: 'instant'})")
    size = {"width": 1160, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    path.write_bytes(base64.b64decode(taken))
    whole = Image.open(path).convert("RGB")
    few = whole.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


@pytest.mark.slow
def test_page_of_a_real_sweep_works_in_a_browser(tmp_path: Path, lathe: Lathe) -> None:
    swept = lathe("sweep", *SWEEP)
    assert swept.returncode == 0, swept.stderr
    done = lathe("report", "lr_batch")
    assert (done.returncode, done.stderr) == (0, "")
    page = tmp_path / "runs" / "lr_batch" / "report" / "report.html"
    assert done.stdout.splitlines()[0] == f"page     {page}"
    assert "MLflow" not in done.stdout  # tracking=off
    entries = Ledger(page.parent.parent).read().entries
    with opened(page, tmp_path / "profile") as driver:
        assert column(driver, "#trials table", "trial")  # the page is rendered
        values = {entry.id: entry.value or 0.0 for entry in entries.values()}
        shown = zip(column(driver, "#trials table", "trial"), column(driver, "#trials table", VALUE), strict=True)
        assert {trial: float(text) for trial, text in shown} == pytest.approx(values, abs=5e-5)
        assert sort_by(driver, "#trials table", VALUE) == "ascending"
        rising = [float(text) for text in column(driver, "#trials table", VALUE)]
        assert rising == sorted(rising)
        assert rising[0] < rising[-1]
        assert sort_by(driver, "#trials table", VALUE) == "descending"
        assert [float(text) for text in column(driver, "#trials table", VALUE)] == rising[::-1]
        assert sort_by(driver, "#trials table", "trial") == "ascending"
        assert column(driver, "#trials table", "trial") == sorted(entries)

        assert emulate(driver, "light") == "rgb(255, 255, 254)"
        photograph(driver, tmp_path / "report-light.png", HEIGHT)
        assert emulate(driver, "dark") == "rgb(23, 27, 32)"
        photograph(driver, tmp_path / "report-dark.png", HEIGHT)

        mark = driver.find_element("css selector", "#parameters svg a use[style*='--best']")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", mark)
        mark.click()
        trial = str(driver.execute_script("return location.hash")).removeprefix("#trial-")
        assert values[trial] == max(values.values())
        assert driver.find_element("css selector", "tr:target").text.startswith(trial)

        described = [
            figure.get_attribute("aria-label") for figure in driver.find_elements("css selector", "figure svg")
        ]
        assert len(described) == 5
        assert all(described)
        assert driver.find_elements("css selector", "figure svg g > title")
        wide = driver.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide == 0

        assert emulate(driver, "dark", media="print") == "rgb(255, 255, 254)"
        printed = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"]
        assert base64.b64decode(printed).startswith(b"%PDF")
        assert requested(driver) == {page.as_uri()}
        assert messages(driver, MESSAGES) == []
    for name in ("report-light.png", "report-dark.png"):
        assert (tmp_path / name).stat().st_size < MAX_BYTES
        if os.environ.get("LATHE_SCREENSHOT"):
            IMAGES.mkdir(parents=True, exist_ok=True)
            (IMAGES / name).write_bytes((tmp_path / name).read_bytes())


@pytest.mark.slow
def test_page_works_without_scripts_and_hostile_values_run_nothing(tmp_path: Path) -> None:
    sweep = make_swept(
        tmp_path, [{"name": f"{HOSTILE}{number}"} for number in range(9)], sync="off", description=HOSTILE
    )
    for number, trial in enumerate(ledgers.ids(9)):
        run_trial(sweep, trial, number / 10)
    reported(sweep)
    page = sweep.folder / "report" / "report.html"
    with opened(page, tmp_path / "profile") as driver:
        assert driver.execute_script("return document.scripts.length") == 1
        assert column(driver, "#trials table", "name")[0] == f"{HOSTILE}8"
        assert messages(driver, MESSAGES) == []
        assert requested(driver) == {page.as_uri()}
        refused: Any = driver.execute_script(  # the policy refuses even a script element
            "const s = document.createElement('script'); s.textContent = 'window.wasRun = 1'; document.body.append(s); "
            "return window.wasRun ?? null"
        )
        assert refused is None
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.refresh()
        body = driver.find_element("tag name", "body").text
        assert all(trial in body for trial in ledgers.ids(9))
        assert f"lathe reproduce {sweep.folder}/b00000000008" in body
        assert driver.find_elements("css selector", "th button") == []


@pytest.mark.parametrize("colour", [INK, MUTED])
def test_text_has_enough_contrast_in_light_and_dark(colour: str) -> None:
    assert contrast(colour, PAPER) >= MIN_CONTRAST
    assert contrast(DARK[colour], DARK[PAPER]) >= MIN_CONTRAST


def contrast(one: str, other: str) -> float:
    """Compute the contrast of two colours, between 1 and 21. Source: WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
