"""Lists exit codes, and describes errors in a line."""

from __future__ import annotations

import jaxbound as jb

# 2 is that of wrong arguments, by argparse.
CODES = {"unsat": 0, "sat": 1, "unknown": 3, "timeout": 4}
ERROR, INTERRUPTED = 5, 130

# What a file or an option may be to blame for: the message says it all.
SAID = (ValueError, TypeError, OSError, ModuleNotFoundError, jb.UnsupportedPrimitiveError)


def described(error: BaseException) -> str:
    """Returns an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}"
    elif isinstance(error, SAID):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()).replace(":;", ":")
