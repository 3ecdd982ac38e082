"""Keeps compiled programs for the next process."""

from __future__ import annotations

import os
from pathlib import Path

import jax

LARGEST = 2**31  # bytes of all compiled programs


def keep_compiled_programs(largest: int = LARGEST) -> Path | None:
    """Makes JAX keep compiled programs in the user's cache folder, from which the next process takes them.

    The folder is ``jaxbound`` in ``XDG_CACHE_HOME`` or ``~/.cache``. Those that were not used for longest are removed
    when it has become too large. A folder that is chosen already (``JAX_COMPILATION_CACHE_DIR``) stays as it is.

    Args:
      largest: how many bytes the folder may have at the start.

    Returns:
      the folder, or None if another one is chosen already.

    Example:
      >>> import jaxbound as jb
      >>> _ = jb.keep_compiled_programs()
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore
        return None
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(cache, "jaxbound")
    remove_oldest(folder, largest)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


def remove_oldest(folder: Path, largest: int) -> None:
    """Removes the programs that were not used for longest, until a folder has at most so many bytes."""
    found = []
    for path in folder.glob("*-cache"):
        try:
            state = path.stat()
        except OSError:  # another process was faster
            continue
        found.append((max(state.st_atime, state.st_mtime), state.st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= largest:
            return
        path.unlink(missing_ok=True)
        left -= size
