"""Ctrl-C and a scheduler's signals: finish the step, save, say how to go on. A second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Interrupt:
    """While it is entered, a signal sets `received` instead of ending the process."""

    received: int | None = None

    def __enter__(self) -> Interrupt:
        # Signals reach the main thread alone; elsewhere (a test, a notebook) they stay as they are.
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # SIGTERM often comes twice (`timeout` sends it to the process and to its group): only Ctrl-C is a wish.
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        # Not through Python's own streams: a handler may have interrupted just them.
        os.write(2, b"\nfinishing the step and saving; Ctrl-C (again) stops at once\n")
