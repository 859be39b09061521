"""`-web`: who gets the page, and QMP over its WebSocket, from `vnic run` as a process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.browser import Answer, Browser, Closed, Refused, request
from tests.integration.kept_vnic import kept_vnic
from tests.integration.process import Place, Running, new_place, wait_for
from tests.needs import need

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
NETWORK = ("-netdev", "echo,id=net0", "-device", NIC)
URL = re.compile(r"the page is at http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43})\n")


class Page(NamedTuple):
    """A vnic with a page."""

    running: Running
    port: int
    token: str

    def get(self, target: str, **options: object) -> Answer:
        return request(self.port, target, **options)  # type: ignore[arg-type]

    def browser(self, *, token: str | None = None, **options: str) -> Browser:
        return Browser(self.port, f"/qmp?token={token or self.token}", **options)


@contextmanager
def page_of(place: Place, *options: str, web: str = "0") -> Iterator[Page]:
    need("web")
    errors = Path(place.path("err"))
    with open(errors, "w") as output:
        process = place.start("run", *NETWORK, "-web", web, *options, output=output)
    running = Running(place, process, place.qmp_path())
    try:
        printed: list[re.Match[str]] = []

        def is_printed() -> bool:
            printed[:] = URL.finditer(errors.read_text())
            return bool(printed)

        wait_for(is_printed)
        yield Page(running, int(printed[0][1]), printed[0][2])
    finally:
        code, _ = running.end()
    assert code == 0
    assert "Traceback" not in errors.read_text()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One for all tests that leave it as it is, but for its link."""
    with new_place() as place, page_of(place) as made:
        yield made


def test_the_page_takes_the_token(page: Page) -> None:
    index = page.get(f"/?token={page.token}")
    assert index.status == 200
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["cache-control"] == "no-store"
    assert "script-src 'self'" in index.headers["content-security-policy"]
    assert index.headers["referrer-policy"] == "no-referrer"
    assert page.get("/", headers={"Authorization": f"Bearer {page.token}"}).status == 200
    for wrong in ("/", "/?token=", f"/?token={page.token[:-1]}", f"/?token={page.token}x", "/?token=%ff"):
        assert page.get(wrong).status == 403


def test_static_files_are_cached_by_their_hash(page: Page) -> None:
    first = page.get("/static/index.html")
    assert first.status == 200
    again = page.get("/static/index.html", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for missing in ("/static/", "/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd"):
        assert page.get(missing).status == 404


def test_a_browser_pulls_the_cable(page: Page) -> None:
    with page.browser().negotiate() as browser, page.browser().negotiate() as other:
        assert browser.execute("set_link", name="nic0", up=False) == {}
        assert [each["event"] for each in browser.events] == ["LINK_CHANGED"]
        heard = other.message()
        assert heard["event"] == "LINK_CHANGED"
        assert re.fullmatch(r"QMP browser 127\.0\.0\.1:\d+", heard["data"]["cause"]["by"])
        assert other.execute("set_link", name="nic0", up=True) == {}
        assert other.execute("no-such")["class"] == "CommandNotFound"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1:x", "[::1", "a@127.0.0.1"]
)
def test_another_name_of_this_host_is_refused(page: Page, host: str) -> None:
    """DNS rebinding: a page of evil.example, whose name leads here now, has no access."""
    assert page.get(f"/?token={page.token}", headers={"Host": host}).status in (400, 421)


def test_a_page_from_elsewhere_is_refused(page: Page) -> None:
    here = f"http://127.0.0.1:{page.port}"
    page.browser(origin=here).close()
    page.browser(origin="http://LOCALHOST:9000", host="localhost:9000").close()  # a port that SSH forwards
    for origin in (
        "http://evil.example",
        "null",
        f"{here}.evil.example",
        "http://127.0.0.1",
        f"file://{here}",
    ):
        with pytest.raises(Refused, match="403"):
            page.browser(origin=origin)
    with pytest.raises(Refused, match="403"):
        page.browser(token="x" * 43)
    with pytest.raises(Refused, match="421"):
        page.browser(host="evil.example")


def test_only_reading_requests_are_answered(page: Page) -> None:
    target = f"/?token={page.token}"
    assert page.get(target, method="POST").status == 405
    assert page.get(target, method="OPTIONS").status == 405
    assert page.get(target, body=b"x").status == 413
    assert page.get(target, method="HEAD").body == b""
    assert page.get("/qmp").status == 404


def test_quit_is_answered_before_the_end(place: Place) -> None:
    with page_of(place) as page, page.browser().negotiate() as browser:
        assert browser.execute("quit") == {}
        assert [each["event"] for each in browser.events] == ["SHUTDOWN"]
        assert browser.message()["event"] == "LINK_CHANGED"  # the echo goes
        with pytest.raises(Closed, match="1001"):
            browser.message()


def test_browsers_come_back_after_a_restart(place: Place) -> None:
    """By the same URL: the listening socket and the token outlive control, and it is not printed again."""
    need("web")
    with kept_vnic(place, *NETWORK, "-web", "0") as vnic:
        wait_for(lambda: URL.search(vnic.log()))
        printed = URL.findall(vnic.log())
        port, token = int(printed[0][0]), printed[0][1]
        with Browser(port, f"/qmp?token={token}").negotiate() as browser:
            assert browser.execute("set_link", name="nic0", up=False) == {}
            vnic.kill_only()
            with Browser(port, f"/qmp?token={token}").negotiate() as another:  # it waits in the backlog
                [nic] = [each for each in another.execute("query-links") if each["name"] == "nic0"]
                assert nic["link"] == "down"
            assert browser.ends() == 1006
        vnic.reconnect()
        assert URL.findall(vnic.log()) == printed


def test_what_browsers_may_do_is_a_policy(place: Place) -> None:
    with (
        page_of(place, "-monitor-policy", "links") as page,
        page.browser().negotiate() as browser,
    ):
        assert browser.execute("set_link", name="nic0", up=False) == {}
        assert "is not allowed" in browser.execute("quit")["desc"]
    with page_of(place, web="0,policy=readonly") as page, page.browser().negotiate() as browser:
        assert "is not allowed" in browser.execute("set_link", name="nic0", up=False)["desc"]
        assert len(browser.execute("query-links")) == 2


@pytest.mark.parametrize("sandbox", ["off", "on"])
def test_page_with_a_token_of_its_own_within_the_sandbox(place: Place, sandbox: str) -> None:
    need("web")
    token = "a.token_of~its-own"
    secret = Path(place.path("secret"))
    secret.write_text(f"{token}\n")
    secret.chmod(0o600)
    options = ("-sandbox", sandbox, "-web", f"0,token-file={secret}", "-D", "log")
    with place.run(*NETWORK, *options) as running:
        said = _first_line(running)
        assert token not in said
        port = int(re.findall(r"the page is at http://127\.0\.0\.1:(\d+)/\n", said)[0])
        with Browser(port, f"/qmp?token={token}").negotiate() as browser:
            assert browser.execute("set_link", name="nic0", up=False) == {}
        assert request(port, f"/?token={token}").status == 200
    assert token not in Path(place.path("log")).read_text()


def _first_line(running: Running) -> str:
    assert running.process.stderr is not None
    return running.process.stderr.readline()


@pytest.mark.parametrize(
    ("web", "says"),
    [
        ("", "'' is neither PORT nor HOST:PORT"),
        ("65536", "'65536' is neither PORT nor HOST:PORT"),
        (":8080", "':8080' has no host"),
        ("0,policy=any", "Parameter 'policy' expects readonly, links, full, not 'any'"),
        ("0,token=x", "Invalid parameter 'token'"),
        ("0,token-file=/no/such", "token-file=/no/such: No such file or directory"),
        ("0,token-file=/dev/null", "token-file=/dev/null: it is a device, and has to be a plain file"),
        ("0,token-file=/proc/version", "its first line is to be 16 to 256 of"),
        ("192.0.2.1:0", "Failed to bind socket: Cannot assign requested address"),
    ],
)
def test_wrong_options_are_refused(place: Place, web: str, says: str) -> None:
    need("web")
    done = place.command("run", *NETWORK, "-web", web)
    assert done.returncode == 1
    assert done.stderr.startswith("vnic: -web "), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
