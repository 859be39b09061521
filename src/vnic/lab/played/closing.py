"""`Closing`: the base of the played sides that a `with` statement closes, and of the tests' fakes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """`close` is called at the end of the `with`, also after an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...
