"""Announces public names that change, for two minor versions."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Renamed(NamedTuple):
    """Describes a public name that has another one now.

    Attributes:
      to: the new name, in the same module.
      since: the version that announced it, such as "0.2"; two minor versions later the old name goes.
    """

    to: str
    since: str

    @property
    def until(self) -> str:
        """Returns the version that no longer has the old name."""
        major, minor = map(int, self.since.split(".")[:2])
        return f"{major}.{minor + 2}"

    def is_over(self, version: str) -> bool:
        """Tells whether a version must not have the old name any more."""
        numbers = lambda text: [int(part) for part in text.split(".")[:2]]
        return numbers(version) >= numbers(self.until)


def old_names(module: str, names: Mapping[str, Renamed]) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a module: an old name warns, and gives what has the new one.

    Args:
      module: the module's ``__name__``.
      names: what was renamed, by the old names; the module's ``RENAMED``.

    Raises:
      AttributeError: by the function returned, for names that the module never had.

    Example:
      >>> import jaxbound._deprecation as module
      >>> with warnings.catch_warnings(record=True) as found:
      ...     warnings.simplefilter("always")
      ...     old_names(module.__name__, {"warn": Renamed("warnings", "0.1")})("warn") is warnings
      True
      >>> print(found[0].message)
      jaxbound._deprecation.warn is jaxbound._deprecation.warnings since 0.1; the old name goes in 0.3
    """

    def old_name(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        now = names[name]
        warnings.warn(
            f"{module}.{name} is {module}.{now.to} since {now.since}; the old name goes in {now.until}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], now.to)

    return old_name
