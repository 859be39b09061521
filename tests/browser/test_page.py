"""The page in a real browser: pull a cable and see the guest follow, and what else a user does there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.browser.chromium import ENTER, SPACE, Window
from tests.browser.vnic_page import VnicPage, cable, page_of
from tests.integration.process import Place, new_place, wait_for
from tests.integration.process import guest_on as plugged_in

A, B = "nic:a.eth1", "nic:b.eth1"


@pytest.fixture(scope="module")
def shared() -> Iterator[VnicPage]:
    """For tests that leave its links as they are."""
    with (
        new_place() as place,
        page_of(place, *cable("a.eth1", "b.eth1")) as page,
        plugged_in(place.path("a.eth1.sock")),
        plugged_in(place.path("b.eth1.sock")),
    ):
        yield page


@pytest.fixture
def place() -> Iterator[Place]:
    with new_place() as made:
        yield made


def link(page: VnicPage, name: str) -> dict[str, object]:
    with contextlib.closing(page.qmp()) as qmp:
        found: dict[str, object] = qmp.value("query-links", {"name": name})[0]
        return found


def is_shown(window: Window, key: str, *words: str) -> bool:
    return set(words) <= set(window.cable(key).get("words", ()))


def test_a_click_pulls_the_cable_and_the_guest_sees_it(window: Window, place: Place) -> None:
    with (
        page_of(place, *cable("a.eth1", "b.eth1")) as page,
        plugged_in(place.path("a.eth1.sock")) as guest,
        plugged_in(place.path("b.eth1.sock")) as far,
    ):
        window.open(page.url)
        wait_for(lambda: is_shown(window, A, "up", "seen") and is_shown(window, B, "up", "seen"))
        window.click_cable(A)
        wait_for(lambda: not guest.sees_up() and not far.sees_up())
        wait_for(lambda: is_shown(window, A, "down", "seen", "pulled"))
        assert window.cable(A)["fact"] == "operator"
        assert not window.cable(A)["plugged"]
        wait_for(lambda: is_shown(window, B, "lower", "seen"))
        assert window.cable(B)["fact"] == "far-end"
        assert window.text("link-name") == "a.eth1"
        wait_for(lambda: "set_link a.eth1 off" in window.text("holds"))
        wait_for(lambda: "it saw down" in window.text("facts"))
        window.click_cable(B)  # the second click, at whichever end
        wait_for(lambda: guest.sees_up() and far.sees_up())
        wait_for(lambda: is_shown(window, A, "up", "seen") and window.cable(A)["plugged"])


def test_a_guest_that_does_not_look_is_shown_as_one_that_has_not_seen_it(
    window: Window, place: Place
) -> None:
    with (
        page_of(place, *cable("a.eth1", "b.eth1")) as page,
        plugged_in(place.path("a.eth1.sock")) as guest,
        plugged_in(place.path("b.eth1.sock")),
    ):
        window.open(page.url)
        wait_for(lambda: is_shown(window, A, "up", "seen"))
        guest.obeys.clear()
        window.click_cable(A)
        wait_for(lambda: is_shown(window, A, "down", "unseen"))
        wait_for(lambda: "it has not seen down yet: it last saw up" in window.text("facts"))
        guest.obeys.set()
        wait_for(lambda: is_shown(window, A, "down", "seen"))
        wait_for(lambda: "guest saw it after" in window.text("changes"))


def test_a_reload_shows_the_same(window: Window, shared: VnicPage) -> None:
    window.open(shared.url)
    window.run("page.select(given[0])", B)
    wait_for(lambda: window.text("link-name") == "b.eth1")
    window.driver.refresh()
    window.await_connected()
    wait_for(lambda: window.text("link-name") == "b.eth1")
    wait_for(lambda: is_shown(window, B, "up", "seen", "selected"))


def test_two_browsers_show_what_either_does(window: Window, place: Place) -> None:
    with page_of(place, *cable("a.eth1", "b.eth1", ",follow=operator")) as page:
        window.open(page.url)
        first = window.handle
        window.driver.switch_to.new_window("window")
        other = Window(window.driver)
        try:
            other.open(page.url)
            wait_for(lambda: is_shown(other, A, "up"))
            other.click_cable(A)
            wait_for(lambda: is_shown(other, A, "down", "pulled"))
            window.front()
            wait_for(lambda: is_shown(window, A, "down", "pulled"))
            window.click_cable(A)
            wait_for(lambda: is_shown(window, A, "up"))
            other.front()
            wait_for(lambda: is_shown(other, A, "up"))
        finally:
            other.front()
            window.driver.close()
            window.driver.switch_to.window(first)


def test_a_vnic_that_ends_and_starts_again_is_found_again(window: Window, place: Place) -> None:
    network = cable("a.eth1", "b.eth1", ",follow=operator")
    with page_of(place, *network) as page:
        window.open(page.url)
        window.run("page.select(given[0])", A)
        port = page.url.split(":")[2].split("/")[0]
    wait_for(lambda: "gone" in window.text("connection"))
    assert window.run("return document.body.classList.contains('stale')")
    with page_of(place, *network, "-netdev", "echo,id=new0", web=port):
        window.await_connected()
        wait_for(lambda: window.run("return Boolean(document.querySelector(`[data-node='netdev new0']`))"))
        assert window.text("link-name") == "a.eth1"
        wait_for(lambda: is_shown(window, A, "up"))
        window.click_cable(A)
        wait_for(lambda: is_shown(window, A, "down", "pulled"))


def test_what_is_added_and_deleted_appears_and_goes(window: Window, place: Place) -> None:
    with page_of(place, "-netdev", "echo,id=net0") as page, contextlib.closing(page.qmp()) as qmp:
        window.open(page.url)
        nic = {"driver": "virtio-net", "id": "nic0", "netdev": "net0"}
        attach = {"attach.type": "vhost-user", "attach.path": place.path("nic0.sock")}
        assert "return" in qmp.ask("device_add", {**nic, **attach})
        wait_for(lambda: is_shown(window, "nic:nic0", "up", "none"))
        with plugged_in(place.path("nic0.sock")):
            wait_for(lambda: is_shown(window, "nic:nic0", "up", "seen"))
        assert "return" in qmp.ask("netdev_del", {"id": "net0"})
        wait_for(lambda: window.cable("nic:nic0").get("fact") == "no-peer")
        assert "return" in qmp.ask("device_del", {"id": "nic0"})
        wait_for(lambda: not window.cable("nic:nic0"))


def test_the_keyboard_does_it_all(window: Window, place: Place) -> None:
    with page_of(place, *cable("a.eth1", "b.eth1", ",follow=operator")) as page:
        window.open(page.url)
        wait_for(lambda: is_shown(window, A, "up"))
        window.run("document.querySelector('#drawing [tabindex=\"0\"]').focus()")
        focused = "return document.activeElement.dataset.link ?? document.activeElement.dataset.node ?? ''"
        for _ in range(4):
            if window.run(focused) == A:
                break
            window.press("\ue012" if window.run(focused) in (B, "vm b") else "\ue014")  # left, right
        assert window.run(focused) == A
        window.press(SPACE)
        wait_for(lambda: is_shown(window, A, "down", "pulled"))
        assert window.run(focused) == A
        window.press(ENTER)
        wait_for(lambda: window.text("link-name") == "a.eth1")
        window.press("p")
        wait_for(lambda: is_shown(window, A, "up"))
        window.press("2", "/", "b.e")
        wait_for(
            lambda: window.run("return document.querySelectorAll('#links-body tr').length") == 2
        )  # and b.eth1-end
        assert window.run("return document.activeElement.id") == "filter"


def test_sliders_impair_and_show_what_others_did(window: Window, shared: VnicPage) -> None:
    window.open(shared.url)
    with contextlib.closing(shared.qmp()) as qmp:
        window.run("page.select(given[0]); document.getElementById('impair-part').open = true", A)
        window.find("#impair-delay").send_keys("\ue014" * 8)  # right

        def texts() -> list[str]:
            return [each["text"] for each in qmp.value("query-impairments", {"name": "a.eth1"})]

        wait_for(lambda: texts() == ["delay 20ms"])
        wait_for(lambda: "delay 20ms" in window.text("facts"))
        assert "return" in qmp.ask("link-impair", {"name": "a.eth1", "loss": "10%", "delay": "0"})
        exact = "return document.querySelector(`[aria-label='${given[0]}, exactly']`).value"
        wait_for(lambda: window.run(exact, "Loss") == "10%" and window.run(exact, "Delay") == "0ms")
        window.run("document.querySelector(`[aria-label='Rate, exactly']`).focus()")
        window.press("\ue009a\ue000", "nonsense", ENTER)  # all of what is there
        wait_for(
            lambda: "expects a rate" in window.run("return document.querySelector('.problem').textContent")
        )
        window.run("[...document.querySelectorAll('#impair button')].at(-1).click()")
        wait_for(lambda: texts() == [])
    assert [each for each in window.problems() if "SEVERE" in each] == []


def test_the_time_line_leads_from_a_change_to_its_cause(window: Window, shared: VnicPage) -> None:
    window.open(shared.url)
    wait_for(lambda: is_shown(window, B, "up"))
    with contextlib.closing(shared.qmp()) as qmp:
        for up in (False, True):
            assert "return" in qmp.ask("set_link", {"name": "a.eth1", "up": up})
    wait_for(lambda: is_shown(window, B, "up", "seen") and is_shown(window, A, "up", "seen"))
    newest = (
        "return page.store.changes(given[0]).findLast((each) => each.link === 'down')?.['caused-by'] ?? null"
    )
    wait_for(lambda: window.run(newest, B) is not None)
    window.run("page.select(given[0])", B)
    wait_for(lambda: window.run("return document.querySelectorAll('#changes .down button').length") > 0)
    window.run("document.querySelector('#changes .down button').click()")
    wait_for(lambda: "b.eth1-end down" in window.text("changes") and "a.eth1 down" in window.text("changes"))
    for expected in ("b.eth1-end", "a.eth1"):
        window.click("#to-cause")
        wait_for(lambda expected=expected: window.text("link-name") == expected)  # type: ignore[misc]
    assert not window.find("#to-cause").is_enabled()
    window.press("3")
    wait_for(lambda: "far-end" in window.text("log-body"))
    painted = (
        "const canvas = document.getElementById('timeline');"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return new Set(new Uint32Array(data.buffer)).size"
    )
    wait_for(lambda: window.run(painted) > 5)


def test_a_policy_that_may_only_look_takes_the_buttons_away(window: Window, place: Place) -> None:
    with page_of(place, *cable("a.eth1", "b.eth1", ",follow=operator"), web="0,policy=readonly") as page:
        window.open(page.url)
        wait_for(lambda: is_shown(window, A, "up"))
        window.click_cable(A)
        wait_for(lambda: "may look, and change nothing" in window.text("said"))
        assert not window.find("#toggle").is_enabled()
        assert window.find("#read-only").is_displayed()
        assert link(page, "a.eth1")["link"] == "up"


def test_a_wrong_token_is_told(window: Window, shared: VnicPage) -> None:
    window.driver.get(f"{shared.url}x")
    assert "token is missing here" in window.driver.page_source
    window.problems()  # the 403


def test_all_that_can_be_reached_has_a_name(window: Window, shared: VnicPage) -> None:
    """What a screen reader says of a button, a field, a switch."""
    window.open(shared.url)
    for view in ("drawing", "table", "log"):
        window.run("page.select(given[0]); document.getElementById(given[1]).click()", A, f"tab-{view}")
        wait_for(lambda: is_shown(window, A, "selected"))
        tree = window.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = (
            "button",
            "switch",
            "slider",
            "textbox",
            "searchbox",
            "combobox",
            "checkbox",
            "spinbutton",
            "tab",
        )
        found = [each for each in tree if each.get("role", {}).get("value") in roles and not each["ignored"]]
        assert len(found) > 10
        assert [each for each in found if not each.get("name", {}).get("value")] == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_nothing_is_wider_than_the_screen(window: Window, shared: VnicPage, width: int, scheme: str) -> None:
    def emulate(what: str, **words: object) -> None:
        window.driver.execute_cdp_cmd(f"Emulation.{what}", words)

    emulate("setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 800)
    emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        window.open(shared.url)
        window.run("page.select(given[0])", A)
        wait_for(lambda: is_shown(window, A, "selected"))
        assert window.run("return document.documentElement.scrollWidth") <= width
        paper = window.run("return getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(14, 18, 24)" if scheme == "dark" else "rgb(245, 246, 248)")
        assert window.find("#toggle").is_displayed()
    finally:
        window.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        emulate("setEmulatedMedia", features=[])
