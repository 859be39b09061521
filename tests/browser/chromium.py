"""A headless Chromium, driven by Selenium, that shows the page of a vnic."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from tests.integration.process import wait_for

SIZE = (1280, 860)
PATIENCE_S = 120
"""Chromium may take this long to start, or to run a script, on a machine that is busy."""


class Window:
    """A window of the browser with the page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.handle = driver.current_window_handle

    def front(self) -> None:
        self.driver.switch_to.window(self.handle)

    def open(self, url: str) -> None:
        """Until it is connected."""
        self.driver.get(url)
        self.await_connected()

    def await_connected(self) -> None:
        wait_for(lambda: self.text("connection") == "connected", PATIENCE_S)

    def run(self, script: str, *arguments: object) -> Any:
        """The value of an async function's body, which has `page`, the module of the page."""
        wrapped = (
            "const done = arguments[arguments.length - 1];"
            "const given = [...arguments].slice(0, -1);"
            'import("/static/app.js").then(async (page) => {' + script + "})"
            ".then((value) => done({ value }), (error) => done({ error: `${error.stack}` }));"
        )
        answer = self.driver.execute_async_script(wrapped, *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, element_id: str) -> str:
        """What is written there, also while it is not in view."""
        with contextlib.suppress(StaleElementReferenceException):
            return str(self.driver.find_element(By.ID, element_id).get_attribute("textContent"))
        return ""

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the element's box: that has to be a part of it."""
        self.find(selector).click()

    def click_cable(self, key: str) -> None:
        """With the mouse, a little way along the line."""
        at = self.run(
            "const line = document.querySelector(`[data-link='${given[0]}'] .hit`);"
            "const point = line.getPointAtLength(line.getTotalLength() * 0.6);"
            "const place = point.matrixTransform(line.getScreenCTM());"
            "return [place.x, place.y];",
            key,
        )
        mouse = webdriver.ActionChains(self.driver, duration=0)
        mouse.w3c_actions.pointer_action.move_to_location(round(at[0]), round(at[1]))  # type: ignore[no-untyped-call]
        mouse.click().perform()

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def cable(self, key: str) -> dict[str, Any]:
        """What the drawing shows of an end."""
        found: dict[str, Any] = self.run(
            "const half = document.querySelector(`[data-link='${given[0]}']`);"
            "if (!half) return {};"
            "const fact = half.querySelector('.fact').textContent;"
            "return { words: [...half.classList], fact, plugged: half.getAttribute('aria-checked') === 'true' };",
            key,
        )
        return found

    def problems(self) -> list[str]:
        """Errors that the browser logged since the last call, but for connections that a server did not take."""
        return [
            each["message"]
            for each in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if "ERR_CONNECTION_REFUSED" not in each["message"]
            and "ERR_CONNECTION_RESET" not in each["message"]
        ]


@contextlib.contextmanager
def chromium(size: tuple[int, int] = SIZE) -> Iterator[Window]:
    """A browser with one window. It uses no network but 127.0.0.1, and leaves nothing."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = webdriver.ChromeOptions()
        for argument in (
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--force-prefers-reduced-motion",
            f"--user-data-dir={folder}",
            f"--window-size={size[0]},{size[1]}",
        ):
            options.add_argument(argument)
        if os.geteuid() == 0 or not os.path.exists("/proc/self/ns/user"):
            options.add_argument("--no-sandbox")
        options.binary_location = "/usr/bin/chromium"
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service("/usr/bin/chromedriver", env={**os.environ, "HOME": folder})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_page_load_timeout(PATIENCE_S)
            driver.set_script_timeout(PATIENCE_S)
            yield Window(driver)
        finally:
            driver.quit()


ENTER, SPACE, TAB, ESCAPE = Keys.ENTER, Keys.SPACE, Keys.TAB, Keys.ESCAPE
