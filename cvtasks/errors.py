"""What a user can cause. Each error is one line: what is wrong, where, what was expected, what to type."""

from __future__ import annotations


class CvtasksError(Exception):
    """The run failed for a reason that the message explains; no traceback is shown."""

    exit_code = 1


class ConfigError(CvtasksError):
    """What was typed, or a YAML file, is wrong. The message names the key and the nearest right one."""

    exit_code = 2


class DataError(CvtasksError):
    """A data set is wrong. The message names the file and the record in it."""

    exit_code = 2


class WeightsError(CvtasksError):
    """A weights file or checkpoint is missing, damaged, or made for another model."""

    exit_code = 2


class NonFiniteLossError(CvtasksError):
    """The loss is no longer a finite number. The message names step, term, learning rate and images."""

    exit_code = 3


class OutOfMemoryError(CvtasksError):
    """The device ran out of memory. The message names the batch and what to type instead."""

    exit_code = 4


class OutOfDiskError(CvtasksError):
    """The disk is full; what was written before is kept."""

    exit_code = 5

    def __init__(self, path: object, *, then: str = "type the same again") -> None:
        """path: the file or folder that could not be written. then: what to type when there is room."""
        super().__init__(f"{path}: the disk is full; what was written before is kept; make room, then {then}")
        self.path = path


class Interrupted(CvtasksError):
    """Ctrl-C or a signal stopped the run after its state was saved. The message says how to go on."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
