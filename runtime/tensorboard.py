"""TensorBoard's curves of a run.

Written here and not by SummaryWriter, whose thread dies with a traceback where the disk is full.
"""

import itertools
import os
import socket
import time
from pathlib import Path

from torch import Tensor

from runtime.console import say

NUMBERS = itertools.count()  # of the files of this process, which are read in the order of their names


class Events:
    """A new file in `folder`; what older ones there hold of later epochs than `told` counts no more."""

    def __init__(self, folder: Path, told: int):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now = time.time()
        self.path = folder / f"events.out.tfevents.{now:.0f}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS):06}"
        self.told = told  # epochs whose numbers are in the files
        self.failed = False
        start = SessionLog(status=SessionLog.START)
        self.waiting = [Event(wall_time=now, file_version="brain.Event:2"),  # for the first epoch
                        Event(wall_time=now, step=told + 1, session_log=start)]

    def __call__(self, history: list[dict], examples: list[list[Tensor]]) -> None:
        """Adds the epochs that are new; the first failure, most of all a full disk, ends it with a sentence."""
        if self.failed:
            return
        try:
            from tensorboard.summary.writer.record_writer import RecordWriter

            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("ab") as file:
                writer = RecordWriter(file)
                for event in [*self.waiting, *map(event_of, history[self.told :])]:
                    writer.write(event.SerializeToString())
            self.waiting = []
            self.told = len(history)
        except Exception as error:
            self.failed = True
            say(f"TensorBoard's curves end with epoch {self.told}, as {self.path} cannot be written: {error}")


def event_of(row: dict):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"]
    return Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values))
