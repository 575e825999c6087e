"""The pages of a logged model in a browser, from the list of models to the registered version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.experiments.tracking.test_ui import browser, close_assistant, origin, served
from tests.experiments.tracking.test_ui_sweep import keep, shows, waiter
from tests.support.preloaded import make_command
from tests.support.waiting import PATIENCE_S

KIND = "?workflowType=machine_learning"


@pytest.mark.slow
def test_model_and_its_version_show_inputs_and_answers(runs_dir: Path, tmp_path: Path, preloaded: Path) -> None:
    from selenium.webdriver.common.by import By

    own = ["name=digits_lenet", "tracking.register_as=digits-lenet", f"runs_dir={runs_dir}"]
    command = [*make_command(preloaded), "run", "model=lenet", "max_steps=20", *own]
    subprocess.run(command, check=True, timeout=PATIENCE_S, capture_output=True)
    with served(runs_dir) as (_, address), browser(tmp_path / "profile") as driver:
        wait = waiter(driver)
        driver.get(address)
        shows(driver, "digits_lenet")
        close_assistant(driver)
        driver.get(f"{address.partition('/runs')[0]}/models{KIND}")
        shows(driver, "digits_lenet", "Ready")
        page = wait(lambda d: d.find_elements(By.LINK_TEXT, "digits_lenet"))[0].get_attribute("href")
        driver.get(f"{page}{KIND}")
        shows(
            driver,
            "inputs: images",
            "outputs: as lathe predict",
            "outputs or probabilities or labels",
            "Ready",
        )
        shows(
            driver, "val/accuracy_top1", "test/accuracy_top1", "mlflow models serve --env-manager local -m models:/m-"
        )
        shows(driver, "Model versions digits-lenet v1")
        assert "Not registered" not in driver.find_element(By.TAG_NAME, "body").text
        keep(driver, "model")
        wait(lambda d: d.find_elements(By.LINK_TEXT, "Artifacts"))[0].click()
        shows(driver, "MLmodel", "requirements.txt", "input_example.json")
        driver.get(f"{origin(address)}/#/models/digits-lenet/versions/1{KIND}")
        shows(driver, "Version 1", "Schema", "Inputs (1)")
        wait(lambda d: d.find_elements(By.XPATH, "//*[contains(text(), 'Inputs (1)')]"))[0].click()
        shows(driver, "Tensor (dtype: uint8, shape: [-1,-1,-1,-1])")
