"""A sweep in MLflow's UI in a browser: its page, its parent run, a trial, and a comparison."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments.sweep.sweep import Sweep
from experiments.tracking import mlflow_view
from experiments.tracking.sweep_sync import sync_all
from tests.experiments.tracking.test_ui import browser, close_assistant, origin, served
from tests.support.preloaded import make_command
from tests.support.variants import IS_LONG
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

IMAGES = Path(__file__).parents[3] / "docs" / "images"
SPACE = ("optimizer.lr=0.001,0.003,0.01,0.03", "batch_size_global=32,128")
LENGTH = ("max_steps=100", "eval_every_steps=10", "log_every_steps=5", "sweep.name=lr_batch")


def swept(server: Path, runs_dir: Path) -> Sweep:
    """Run a real sweep of a small network and sync it."""
    command = [*make_command(server), "run", "-m", "model=mlp", *SPACE, *LENGTH, f"runs_dir={runs_dir}"]
    done = subprocess.run(
        [*command, "tracking.sync=off"], check=True, timeout=PATIENCE_S, capture_output=True, text=True
    )
    hint = f"`lathe ui --sweep {runs_dir}/lr_batch` compares the trials in MLflow; run `lathe sync"
    assert hint in done.stdout
    assert sync_all(runs_dir).failures == ()
    return Sweep(runs_dir / "lr_batch")


def keep(driver: WebDriver, name: str) -> None:
    """Save a screenshot for the docs if LATHE_SCREENSHOT is set."""
    if os.environ.get("LATHE_SCREENSHOT"):
        from PIL import Image

        with Image.open(BytesIO(driver.get_screenshot_as_png())) as picture:
            small = picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            small.save(IMAGES / f"mlflow-{name}.png", optimize=True)


def waiter(driver: WebDriver) -> Callable[..., Any]:
    """Wait for an element; the page itself never stops loading."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, PATIENCE_S, ignored_exceptions=[Exception]).until


def shows(driver: WebDriver, *texts: str) -> None:
    from selenium.webdriver.common.by import By

    def text() -> str:
        return " ".join(driver.find_element(By.TAG_NAME, "body").text.split())

    waiter(driver)(lambda _: all(expected in text() for expected in texts))


def names(driver: WebDriver) -> list[str]:
    """List the runs on a page from top to bottom."""
    from selenium.webdriver.common.by import By

    links = driver.find_elements(By.CSS_SELECTOR, "[role='row'] a[href*='/runs/']")
    rows = {link.location["y"]: link.text for link in links if link.text.startswith(("lr=", "lr_batch"))}
    return [rows[row] for row in sorted(rows)]


def best_first(sweep: Sweep) -> list[float]:
    entries = sweep.ledger().read().entries.values()
    return sorted((entry.value or 0.0 for entry in entries), reverse=True)


@pytest.mark.slow
def test_sweep_is_shown_in_the_browser(tmp_path: Path, preloaded: Path) -> None:
    from selenium.webdriver.common.by import By

    sweep = swept(preloaded, tmp_path)
    with served(tmp_path, "--sweep", "lr_batch") as (_, address), browser(tmp_path / "profile") as driver:
        assert address == mlflow_view.make_link(sweep, origin(address))
        driver.set_window_size(1300, 1500)
        driver.get(address)
        close_assistant(driver)
        shows(driver, "sweep lr_batch", "Sweep (4)", "Parallel Coordinates", "Curves (2)", "8 matching runs")
        drawn = ".parcoords, svg.main-svg .scatterlayer .trace, svg.main-svg .contourlayer .contour"
        waiter(driver)(lambda _: len(driver.find_elements(By.CSS_SELECTOR, drawn)) >= 18)  # 2 x 8 dots, and the others
        shows(
            driver, "optimizer.lr vs. delivered/val/accuracy_top1", "batch_size_global vs. delivered/val/accuracy_top1"
        )
        keep(driver, "sweep")
        see_the_table(driver, sweep)
        see_the_parent_and_a_trial(driver, sweep, address)
        if IS_LONG:  # a page of MLflow alone
            see_a_comparison(driver, sweep, address)
        see_a_plain_link(driver, sweep, address)


def see_the_table(driver: WebDriver, sweep: Sweep) -> None:
    """Check the same view as a table: trials without the parent, best first."""
    from selenium.webdriver.common.by import By

    driver.find_element(By.XPATH, "//label[.//input[@value='TABLE']]").click()
    shows(driver, "Parameters", "optimizer.lr", "batch_size_global", "delivered/val/accuracy_top1", "Duration")
    waiter(driver)(lambda _: len(names(driver)) == 8)
    cells = driver.find_elements(By.CSS_SELECTOR, "[role='gridcell'][col-id*='accuracy_top1']")
    values = {cell.location["y"]: float(cell.text) for cell in cells if cell.text}
    assert [values[row] for row in sorted(values)] == pytest.approx(sorted(values.values(), reverse=True))
    assert max(values.values()) <= best_first(sweep)[0]
    driver.set_window_size(1300, 800)
    keep(driver, "table")
    driver.set_window_size(1300, 1500)


def see_the_parent_and_a_trial(driver: WebDriver, sweep: Sweep, address: str) -> None:
    """Check the link from the note of the parent to the view, and the charts and data of a trial."""
    from selenium.webdriver.common.by import By

    synced = json.loads((sweep.folder / "sync.json").read_text())
    runs = f"{origin(address)}/#/experiments/{synced['experiment_id']}/runs"
    driver.get(f"{runs}/{synced['run_id']}?workflowType=machine_learning")
    shows(driver, "all trials side by side", "Best:", "sweep/best_value", "space.optimizer.lr")
    trial = next(iter(synced["children"].values()))[0]
    driver.find_element(By.LINK_TEXT, "all trials side by side").click()
    driver.switch_to.window(driver.window_handles[-1])  # MLflow opens links of a note beside the page
    shows(driver, "sweep lr_batch", "Parallel Coordinates")
    driver.get(f"{runs}/{trial}?workflowType=machine_learning")
    shows(driver, "lr=0.001, batch_size_global=32", "Parent run", "digits/train", "Train", "overrides")
    driver.set_window_size(1300, 1200)
    driver.get(f"{runs}/{trial}/model-metrics?workflowType=machine_learning")
    driver.refresh()
    shows(driver, "val (", "train (")
    box = driver.find_element(By.CSS_SELECTOR, "input[placeholder='Search metric charts']")
    box.send_keys("train/loss|val/")
    shows(driver, "accuracy_top1", "loss_nats")
    plot = "svg.main-svg .scatterlayer .trace path.js-line"
    waiter(driver)(lambda _: len(driver.find_elements(By.CSS_SELECTOR, plot)) >= 3)
    keep(driver, "metrics")


def see_a_comparison(driver: WebDriver, sweep: Sweep, address: str) -> None:
    """Check MLflow's own page that compares runs."""
    from selenium.webdriver.common.by import By

    synced = json.loads((sweep.folder / "sync.json").read_text())
    runs = json.dumps([run for run, _ in synced["children"].values()])
    shown = json.dumps([synced["experiment_id"]])
    driver.get(f"{origin(address)}/#/compare-runs?runs={runs}&experiments={shown}&workflowType=machine_learning")
    shows(driver, "Comparing 8 Runs from 1 Experiment", "Parallel Coordinates Plot", "lr=0.001,", "Show diff only")
    waiter(driver)(lambda _: driver.find_elements(By.CSS_SELECTOR, ".parcoords"))
    keep(driver, "compare")


def see_a_plain_link(driver: WebDriver, sweep: Sweep, address: str) -> None:
    """Check the link without a saved view: the same trials in the same order."""
    with closing(sqlite3.connect(sweep.runs_dir / "mlflow.db")) as connection:
        connection.execute("delete from experiment_tags")
        connection.commit()
    sync = json.loads((sweep.folder / "sync.json").read_text())
    (sweep.folder / "sync.json").write_text(json.dumps({**sync, "view_key": ""}))
    link = mlflow_view.make_link(sweep, origin(address))
    assert re.search(r"searchFilter=.*lathe\.sweep_key", link)
    driver.get("about:blank")
    driver.get(link)
    shows(driver, "8 matching runs", "Sort: delivered/val/accuracy_top1")
    waiter(driver)(lambda _: len(names(driver)) == 8)
