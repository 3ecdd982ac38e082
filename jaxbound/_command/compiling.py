"""Measures how long XLA compiles."""

from __future__ import annotations

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class Compiling:
    """Sums the seconds that XLA compiles, or reads compiled programs, in a with-statement."""

    seconds = 0.0

    def __enter__(self) -> Compiling:
        jax.monitoring.register_event_duration_secs_listener(self.note)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self.note)

    def note(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == EVENT:
            self.seconds += duration_secs
