"""MLflow's UI in a browser: runs of `lathe run`, served by `lathe ui`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from experiments.core.errors import InputError
from experiments.run.state import is_process_alive
from experiments.tracking.store_uri import StoreError, make_absolute
from experiments.tracking.ui import _make_absolute, runs_page, serve
from tests.support.preloaded import make_command
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver


CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1300",
]


def trained(server: Path, runs_dir: Path, lr: float) -> None:
    """Train softmax regression on the digits for 60 steps, from the command line into the store of ``runs_dir``."""
    overrides = ["model=softmax", "optimizer=sgd", f"optimizer.lr={lr}", f"name='softmax lr={lr}'"]
    length = ["max_steps=60", "eval_every_steps=10", "log_every_steps=2", f"runs_dir={runs_dir}"]
    subprocess.run(
        [*make_command(server), "run", *overrides, *length],
        check=True, timeout=PATIENCE_S, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Path:
    """A folder of runs with one run, lr=0.3, in its store."""
    runs_dir = tmp_path_factory.mktemp("one_run")
    trained(preloaded, runs_dir, 0.3)
    return runs_dir


@contextmanager
def served(runs_dir: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "experiments.cli", "ui", "--runs-dir", str(runs_dir), *flags],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)
        process.stdout.close()


@contextmanager
def browser(profile: Path) -> Iterator[WebDriver]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER}: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def close_assistant(driver: WebDriver) -> None:
    """Close the panel that MLflow opens at the first visit; it covers a quarter of the page."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    button = "[data-component-id='mlflow.assistant.chat_panel.close'], [data-component-id$='setup_close']"
    for element in WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_elements(By.CSS_SELECTOR, button)):
        element.click()
    WebDriverWait(driver, PATIENCE_S).until_not(lambda d: d.find_elements(By.CSS_SELECTOR, button))


def children(pid: int) -> set[int]:
    """List the descendants of a process, from /proc."""
    below: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below.setdefault(int(fields[1]), set()).add(int(path.parent.name))
    descendants, new = set[int](), {pid}
    while new := {child for parent in new for child in below.get(parent, ())}:
        descendants |= new
    return descendants


def origin(address: str) -> str:
    return address.partition("/#/")[0]


def answer(address: str, host: str | None = None) -> int:
    try:
        with urlopen(Request(address, headers={"Host": host} if host else {}), timeout=PATIENCE_S) as response:
            return int(response.status)
    except HTTPError as err:
        err.close()
        return err.code


@only_long  # test_ui_sweep.py sees the same pages with the runs of a sweep, and test_ui_model.py the first page
@pytest.mark.slow
def test_two_runs_are_compared_in_the_browser(one_run: Path, tmp_path: Path, preloaded: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    trained(preloaded, one_run, 0.03)
    with served(one_run) as (_, address), browser(tmp_path / "profile") as driver:

        def text() -> str:
            return driver.find_element(By.TAG_NAME, "body").text

        def shows(*texts: str) -> None:
            WebDriverWait(driver, PATIENCE_S, ignored_exceptions=[Exception]).until(
                lambda _: all(w in text() for w in texts)
            )

        assert address.endswith("/runs?workflowType=machine_learning")
        driver.get(address)
        shows("softmax lr=0.03", "softmax lr=0.3")
        driver.get(f"{address}&compareRunsMode=CHART")
        driver.refresh()
        close_assistant(driver)
        field = (By.CSS_SELECTOR, "input[placeholder='Search metric charts']")
        WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_element(*field)).send_keys("train/loss|val/accuracy")
        shows("softmax lr=0.03", "softmax lr=0.3", "train/loss_nats", "val/accuracy_top1")
        plot = "svg.main-svg .scatterlayer .trace path.js-line"
        WebDriverWait(driver, PATIENCE_S).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, plot)) >= 4)
        picture = tmp_path / "mlflow-ui.png"
        assert driver.save_screenshot(str(picture))
        driver.get(address)
        runs = WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_elements(By.LINK_TEXT, "softmax lr=0.3"))
        driver.get(f"{runs[0].get_attribute('href')}?workflowType=machine_learning")
        shows("train/loss_nats", "Finished")
        search = driver.find_element(By.CSS_SELECTOR, "input[placeholder='Search parameters']")
        search.send_keys("optimizer.lr")
        shows("optimizer.lr", "0.3")
        assert driver.save_screenshot(str(tmp_path / "mlflow-run.png"))
    if os.environ.get("LATHE_SCREENSHOT"):
        images = Path(__file__).parents[3] / "docs" / "images"
        images.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, images / "mlflow-ui.png")


def run_with_links(runs_dir: Path) -> str:
    """Put links and a FIFO beside the artifacts of a run; return its id."""
    folder = next((runs_dir / "artifacts").glob("*/artifacts/trial.yaml")).parent
    for name, target in (("link", runs_dir / "mlflow.db"), ("folder", runs_dir)):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    (folder / "pipe").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe")
    return folder.parent.name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_is_guarded_and_a_signal_ends_it_with_exit_code_0(one_run: Path, number: signal.Signals) -> None:
    before = sorted(path.name for path in one_run.iterdir())
    with served(one_run) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        processes = children(process.pid)
        assert processes
        token = urlsplit(address).path.split("/")[1]
        assert len(token) >= 40
        assert not any(token in Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.pid, *processes))
        assert answer(f"{origin(address)}/health") == 200
        assert (
            answer(f"{origin(address)}/health".replace(token, "x")) == answer(origin(address).replace(token, "")) == 403
        )
        experiment = f"{origin(address)}/ajax-api/2.0/mlflow/experiments/get?experiment_id=1"
        assert answer(experiment) == 200
        assert answer(experiment, host="evil.example") == 403
        for path in ("config", "providers", "message", "%63onfig", "../assistant/config"):
            assert answer(f"{origin(address)}/ajax-api/3.0/mlflow/assistant/{path}") == 403
        files = f"{origin(address)}/get-artifact?run_uuid={run_with_links(one_run)}&path"
        assert answer(f"{files}=trial.yaml") == 200
        assert [answer(f"{files}={path}") for path in ("link", "folder/mlflow.db", "pipe")] == [403, 403, 403]
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE_S) == 0
    wait_until(lambda: not any(is_process_alive(socket.gethostname(), pid, time.time()) for pid in processes))
    assert sorted(path.name for path in one_run.iterdir()) == before


@pytest.mark.slow
def test_kill_9_of_the_command_leaves_no_server(one_run: Path) -> None:
    with served(one_run) as (process, _):
        processes = children(process.pid)
        process.kill()
        wait_until(lambda: not any(is_process_alive(socket.gethostname(), pid, time.time()) for pid in processes))


def test_port_in_use_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StoreError, match=rf"port={port} cannot be used .*; choose another port, or omit it"):
            serve(tmp_path, port=port)


def test_folder_without_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no runs to show: .*mlflow.db is missing; `lathe run` or `lathe sync`"):
        serve(tmp_path)


def test_store_may_be_a_file_or_a_relative_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.db").touch()
    for uri in ("mine.db", "sqlite:///mine.db"):
        assert _make_absolute(uri, "") == f"sqlite:///{tmp_path}/mine.db"
    for uri in ("sqlite:////there/mine.db?timeout=5", "http://mlflow.lab:5000", "postgresql+psycopg2://host/runs"):
        assert _make_absolute(uri, "") == uri
    for uri, problem in (("other.db", "does not exist"), (str(tmp_path), "is a folder")):
        with pytest.raises(InputError, match=f"--store {uri} {problem}; name an SQLite file such as runs/mlflow.db"):
            serve(tmp_path, uri)
    with pytest.raises(InputError, match=r"tracking\.store=other\.db does not exist; name an SQLite file"):
        serve(tmp_path, "other.db", named="tracking.store=")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///./runs/mlflow.db", "runs/mlflow.db"),
        ("sqlite:///runs//mlflow.db", "runs/mlflow.db"),
        ("sqlite:///s", "s"),
        ("sqlite:///sqlite?timeout=5&sqlite=x", "sqlite?timeout=5&sqlite=x"),
    ],
)
def test_only_the_path_of_an_sqlite_store_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_absolute(uri) == f"sqlite:///{tmp_path}/{path}"
    assert make_absolute(make_absolute(uri)) == make_absolute(uri)


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite://", "sqlite:///", "sqlite:///file:x.db?uri=true"])
def test_store_in_memory_has_no_path(uri: str) -> None:
    assert make_absolute(uri) == uri


def test_store_that_is_a_server_only_prints_its_address(tmp_path: Path) -> None:
    lines: list[str] = []
    with socket.socket() as listener:  # bound and not listening: a connection is refused at once
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert serve(tmp_path, store=f"http://user:hush@127.0.0.1:{port}/", say=lines.append) == 0
        assert lines == [f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"]
        assert runs_page(f"http://127.0.0.1:{port}", "lathe") == lines[0]


@pytest.mark.slow
def test_store_that_mlflow_cannot_open_is_an_error(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:  # of a later version of MLflow
        connection.executescript(
            "create table experiments (name); insert into experiments values ('a');"
            "create table alembic_version (version_num); insert into alembic_version values ('later');"
        )
    with pytest.raises(StoreError, match=r"the MLflow server did not start on port=\d+: .*'later'"):
        serve(tmp_path)


def test_damaged_store_is_an_error_before_the_server_starts(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, and it is long enough to be looked at as one" * 20)
    with pytest.raises(StoreError, match=r"is damaged .*; `lathe sync` makes it again from the journals"):
        serve(tmp_path)
