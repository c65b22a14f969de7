"""What is wrong with settings, told all at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SettingsError

__all__ = ["Mistakes"]


class Mistakes:
    """Collects errors, so that nobody has to mend one to see the next."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def note(self, error: SettingsError) -> None:
        """Keep an error for `tell`."""
        self._said.append(str(error))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Go on after a SettingsError of the block."""
        try:
            yield
        except SettingsError as error:
            self.note(error)

    def tell(self) -> None:
        """Raise if anything was noted.

        :raises SettingsError: with a line for each mistake.
        """
        if self._said:
            raise SettingsError("\n".join(self._said))
