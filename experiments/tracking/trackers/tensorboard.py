"""TensorBoard as a tracker: event files in the run folder."""

from __future__ import annotations

import os
import re
import shlex
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.run.journal import MetricsEvent
from experiments.tracking.trackers.base import RunInfo, StoredRun, Tracker, make_folder
from experiments.trial.parameters import mask_password

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FOLDER = "tensorboard"
IMAGES = (".png", ".jpg", ".jpeg", ".gif")
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
"""Of a record of TensorFlow's: the length and its checksum, and the checksum of the content."""


class TensorBoard(Tracker):
    """Writes the metrics, the configuration as text, and images to `tensorboard/events.out.tfevents...` of the run folder.

    All attempts of a run share one file. What it holds is read again when a process opens it, so no point is there twice.
    """

    is_component = True
    _path: Path
    _images: set[str]

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        """Continue the event file of the run, or begin one with the configuration."""
        folder = make_folder(run, FOLDER)
        paths = sorted(path for path in folder.glob("events.out.tfevents.*.lathe") if not path.is_symlink())
        for path in paths if fresh else []:
            path.unlink()
        last_steps, self._images = dict[str, int](), set()
        if paths and not fresh:
            self._path = paths[-1]
            for event in _read(self._path):
                for value in event.summary.value:
                    if value.HasField("image"):
                        self._images.add(value.tag)
                    last_steps[value.tag] = max(event.step, last_steps.get(value.tag, event.step))
        else:
            self._path = folder / f"events.out.tfevents.{time.time():.6f}.lathe"
        if not self._path.exists() or not self._path.stat().st_size:
            self._begin(run)
        page = f"tensorboard --logdir {shlex.quote(str(run.trial.runs_dir))}"
        return StoredRun(self._path.name, has_points=bool(last_steps), last_steps=last_steps, page=page)

    def _begin(self, run: RunInfo) -> None:
        """Write the first record, which names the format, and the configuration."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        text = mask_password(yaml.safe_dump(run.trial.config, sort_keys=False, allow_unicode=True))
        markdown = "\n".join(f"    {line}" for line in [f"# run {run.trial.folder.name}", *text.splitlines()])
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        config = Summary.Value(
            tag="config", metadata=plugin, tensor=TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
        )
        self._append(
            [
                Event(wall_time=run.started, file_version="brain.Event:2"),
                Event(wall_time=run.started, step=0, summary=Summary(value=[config])),
            ]
        )

    def log_metrics(self, points: Sequence[MetricsEvent]) -> None:
        """Append one event per step, and send it to the disk."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._append(
            [
                Event(
                    wall_time=point["time"],
                    step=point["step"],
                    summary=Summary(
                        value=[Summary.Value(tag=name, simple_value=value) for name, value in point["metrics"].items()]
                    ),
                )
                for point in points
            ]
        )

    def log_artifact(self, path: Path, name: str) -> None:
        """Show the images of an artifact; of ``samples/step_200/a.png`` the step is 200."""
        from PIL import Image
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            inside = f"{name}/{file.relative_to(path).as_posix()}" if path.is_dir() else name
            if file.suffix.lower() not in IMAGES or inside in self._images:
                continue
            if file.is_symlink() or not file.is_file():  # a link could lead out of the run
                continue
            with Image.open(file) as image:
                width, height = image.size
            picture = Summary.Image(encoded_image_string=file.read_bytes(), width=width, height=height)
            step = re.search(r"step_?(\d+)", inside)
            self._append(
                [
                    Event(
                        wall_time=file.stat().st_mtime,
                        step=int(step[1]) if step else 0,
                        summary=Summary(value=[Summary.Value(tag=inside, image=picture)]),
                    )
                ]
            )
            self._images.add(inside)

    def _append(self, events: Sequence[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> Iterator[Event]:
    """Read the events of a file, and cut off a record that a killed process has not finished."""
    from tensorboard.compat.proto.event_pb2 import Event

    content, end = path.read_bytes(), 0
    while len(content) >= end + _HEADER_BYTES:
        (size,) = struct.unpack_from("<Q", content, end)
        start, stop = end + _HEADER_BYTES, end + _HEADER_BYTES + size + _FOOTER_BYTES
        if stop > len(content):
            break
        yield Event.FromString(content[start : stop - _FOOTER_BYTES])
        end = stop
    if end < len(content):
        os.truncate(path, end)
