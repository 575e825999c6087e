"""TensorBoard as a tracker: event files in the run folder."""

from __future__ import annotations

import os
import shlex
import struct
import time
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.run.journal import MetricsEvent
from experiments.tracking.trackers.base import RunInfo, StoredRun, Tracker, make_folder
from experiments.tracking.trackers.media import MediaFile, find_media, read_histograms
from experiments.trial.parameters import mask_password

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FOLDER = "tensorboard"
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
"""Of a record of TensorFlow's: the length and its checksum, and the checksum of the content."""


class TensorBoard(Tracker):
    """Writes metrics, the configuration as text, and what callbacks made, to files in the folder `tensorboard` of the run.

    All attempts of a run share one file, `events.out.tfevents...`. What it holds is read again when a process opens it, so no
    point is there twice.
    """

    is_component = True
    _path: Path
    _media: set[tuple[str, int]]
    """Tags and steps of what is not a metric."""

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        """Continue the event file of the run, or begin one with the configuration."""
        folder = make_folder(run, FOLDER)
        paths = sorted(path for path in folder.glob("events.out.tfevents.*.lathe") if not path.is_symlink())
        for path in paths if fresh else []:
            path.unlink()
        last_steps, self._media = dict[str, int](), set()
        if paths and not fresh:
            self._path = paths[-1]
            for event in _read(self._path):
                for value in event.summary.value:
                    if not value.HasField("simple_value"):
                        self._media.add((value.tag, event.step))
                        continue
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
        from tensorboard.compat.proto.summary_pb2 import Summary

        text = mask_password(yaml.safe_dump(run.trial.config, sort_keys=False, allow_unicode=True))
        markdown = "\n".join(f"    {line}" for line in [f"# run {run.trial.folder.name}", *text.splitlines()])
        self._append(
            [
                Event(wall_time=run.started, file_version="brain.Event:2"),
                Event(wall_time=run.started, step=0, summary=Summary(value=[_make_text("config", markdown)])),
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
        """Show the images of an artifact, and the sounds, texts and histograms that callbacks made."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for media in find_media(path, name):
            values = [value for value in _make_values(media) if (value.tag, media.step) not in self._media]
            if values:
                time_made = media.path.stat().st_mtime
                self._append([Event(wall_time=time_made, step=media.step, summary=Summary(value=values))])
            self._media |= {(value.tag, media.step) for value in values}

    def _append(self, events: Sequence[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
            file.flush()
            os.fsync(file.fileno())


def _make_values(media: MediaFile) -> list[Any]:
    """What an event holds for a file."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    if media.kind == "histograms":
        return [
            Summary.Value(
                tag=each.name,
                histo=HistogramProto(
                    min=each.low, max=each.high, num=sum(each.counts), sum=each.mean * sum(each.counts),
                    sum_squares=(each.std**2 + each.mean**2) * sum(each.counts), bucket_limit=each.edges[1:], bucket=each.counts,
                ),
            )
            for each in read_histograms(media.path)
        ]  # fmt: skip
    content = media.path.read_bytes()
    if media.kind == "text":
        return [
            _make_text(media.tag, "\n".join(f"    {line}" for line in content.decode(errors="replace").splitlines()))
        ]
    if media.kind == "sound":
        with wave.open(str(media.path), "rb") as sound:
            audio = Summary.Audio(
                sample_rate=sound.getframerate(), num_channels=sound.getnchannels(), length_frames=sound.getnframes(),
                encoded_audio_string=content, content_type="audio/wav",
            )  # fmt: skip
        return [Summary.Value(tag=media.tag, audio=audio)]
    from PIL import Image

    with Image.open(media.path) as image:
        picture = Summary.Image(encoded_image_string=content, width=image.width, height=image.height)
    return [Summary.Value(tag=media.tag, image=picture)]


def _make_text(tag: str, markdown: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    return Summary.Value(tag=tag, metadata=plugin, tensor=tensor)


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
