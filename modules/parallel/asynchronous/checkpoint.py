"""Converts optimizer state between server shards, which hold pieces of parameters, and checkpoints, which hold whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from modules.parallel.asynchronous.flat_parameters import FlatParameters, Piece
from modules.parallel.asynchronous.server_process import marked_file, snapshot_file
from modules.parallel.asynchronous.server_shard import ShardSnapshot

Entries = dict[str, Tensor | float]
Bounds = Sequence[tuple[int, int]]


def read_shards(folder: Path, flat: FlatParameters, bounds: Bounds) -> dict[str, Entries]:
    """Read the state of each parameter from the files of the servers' marked copies."""
    parts: dict[str, list[tuple[Piece, Entries]]] = {}
    for number, (start, stop) in enumerate(bounds):
        snapshot = ShardSnapshot.read(marked_file(folder, number))
        for piece, entries in zip(flat.pieces(start, stop), snapshot.entries, strict=True):
            parts.setdefault(piece.name, []).append((piece, entries))
    return {name: _joined(parts, flat.shapes[name]) for name, parts in parts.items() if parts[0][1]}


def _joined(parts: list[tuple[Piece, Entries]], shape: tuple[int, ...]) -> Entries:
    first, entries = parts[0]
    if first.is_whole:
        return entries
    return {
        key: torch.cat([part[key].flatten() for _, part in parts]).view(shape)  # type: ignore[union-attr]
        if isinstance(value, Tensor) and tuple(value.shape) == first.shape
        else value
        for key, value in entries.items()
    }


def write_shards(folder: Path, flat: FlatParameters, bounds: Bounds, optimizer: Optimizer) -> None:
    """Write the snapshot that each server will restore, from whole parameters and an optimizer over them."""
    vector = flat.collect(torch.empty(flat.size, dtype=flat.dtype))
    buffers = flat.take_buffers(torch.empty(flat.num_buffers, dtype=torch.float64))
    for number, (start, stop) in enumerate(bounds):
        entries = [
            _cut(piece, optimizer.state.get(flat.parameters[piece.name], {})) for piece in flat.pieces(start, stop)
        ]
        ShardSnapshot(0, vector[start:stop].clone(), buffers, entries).write(snapshot_file(folder, number))


def _cut(piece: Piece, entries: Entries) -> Entries:
    whole = {key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in entries.items()}
    if piece.is_whole:
        return {key: value.contiguous() if isinstance(value, Tensor) else value for key, value in whole.items()}
    size = piece.stop - piece.start
    return {
        key: value.flatten()[piece.offset : piece.offset + size].clone()
        if isinstance(value, Tensor) and value.dim() > 0
        else value
        for key, value in whole.items()
    }
