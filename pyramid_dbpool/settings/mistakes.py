"""What is wrong with settings: told all at once, with the nearest name that is right."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from ..errors import SettingsError

__all__ = ["Mistakes", "known_ones", "nearest"]


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is most like `word`; None if none is much like it.

    >>> nearest("pool_siz", ["pool_size", "pool_timeout"])
    'pool_size'
    """
    found = get_close_matches(word, list(known), 1, cutoff)
    return found[0] if found else None


def known_ones(word: str, known: Iterable[str]) -> str:
    """Say which words are known, the one first that is most like `word`.

    >>> known_ones("sqlit", ["mysql", "sqlite"])
    ' the nearest is sqlite; there are mysql, sqlite'
    """
    words = list(known)
    near = nearest(word, words)
    hint = f" the nearest is {near};" if near else ""
    return f"{hint} there are {', '.join(words)}"


class Mistakes:
    """Collects errors, so that nobody has to mend one to see the next."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def note(self, mistake: str | SettingsError) -> None:
        """Keep one for `tell`."""
        self._said.append(str(mistake))

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
