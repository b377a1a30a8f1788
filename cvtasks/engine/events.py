"""TensorBoard's event file, written in the foreground.

torch's SummaryWriter writes in a thread: where the disk is full that thread dies with a traceback, and the run at some
later call. It also makes every picture a second time, which takes 200 ms.
"""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class EventFile:
    """A new `events.out.tfevents.*` in a folder. Every method raises OSError where it cannot be written.

    purge: TensorBoard forgets what older files of the folder hold from this step on.
    """

    def __init__(self, folder: Path, *, purge: int | None = None) -> None:
        # Imported where a run begins: evaluating and predicting do without.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # Its files are read in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        value = self._summary.Value
        self._write(
            step=step, summary=self._summary(value=[value(tag=k, simple_value=v) for k, v in values.items()])
        )

    def picture(self, step: int, name: str, image: Any) -> None:
        """image: uint8 [3, H, W]"""
        png = io.BytesIO()
        picture = Image.fromarray(np.moveaxis(np.asarray(image), 0, 2))
        picture.save(png, "PNG")
        content = self._summary.Image(
            height=picture.height, width=picture.width, colorspace=3, encoded_image_string=png.getvalue()
        )
        self._write(step=step, summary=self._summary(value=[self._summary.Value(tag=name, image=content)]))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()
