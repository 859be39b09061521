"""The link of an interface netdev beside a kernel that is played: requests, answers, and the end between the two."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.backend.helpers import Lab, run

from vnic.backend.interface.link import InterfaceLink
from vnic.backend.interface_watch import InterfaceWatch
from vnic.backend.options import EchoOptions
from vnic.backend.rtnetlink import ARPHRD_ETHER, IFF_LOWER_UP, IFF_UP, LinkState

UP = LinkState("va", 3, ARPHRD_ETHER, IFF_UP | IFF_LOWER_UP, "up")


class Kernel(InterfaceWatch):
    """Keeps requests until `answer`."""

    def __init__(self) -> None:
        self.asked: list[bool | None] = []
        self._done: list[Callable[[int], None]] = []

    def set_up(self, index: int, up: bool | None, done: Callable[[int], None]) -> None:
        self.asked.append(up)
        self._done.append(done)

    async def was_set_up(self, index: int, up: bool | None) -> int:
        self.asked.append(up)
        return 0

    def answer(self) -> None:
        self._done.pop(0)(0)


def test_answer_that_comes_after_the_netdevs_end_is_the_last() -> None:
    async def main() -> None:
        async with Lab() as lab:
            kernel = Kernel()
            link = InterfaceLink(
                kernel, UP, propagate=True, set_down=False, place="", remedy=lambda words: f"ip {words}"
            )
            link.client = lab.add(EchoOptions(id="net0"))  # no NIC: the interface is to be down
            link.update()
            assert kernel.asked == [False]
            restored = link.restore_interface()
            kernel.answer()  # before `restored` runs, and the new state is not reported any more
            assert kernel.asked == [False]
            await restored
            assert kernel.asked == [False, True]

    run(main())
