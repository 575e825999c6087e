"""Budget: photos are cut at least as fast as by Pillow and numpy written out (``python -m benchmarks.images``).

Photos made up in the size that is usual in ImageNet, as a folder and as shards; training crops of any area, mirrored by chance,
and the middle for evaluation, at 224 pixels. The peer decodes, cuts, resizes, mirrors and normalises the same photos one by one
with Pillow and numpy. It does so as a whole photo, as one would at first, and with Pillow's `draft`, as ours does: the budget is
held against the latter. Both take turns in one process on one core; CPU seconds decide.

At last the share of a training's time that it waits for such photos (`perf/data_wait_fraction`), with and without workers.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: images a second and core

import numpy as np
import torch
from PIL import Image

from modules.data.base import Split
from modules.data.image_folder import ImageFolder
from modules.data.image_shards import ImageShards

BUDGET = 1.0
WIDTH, HEIGHT, SIZE, RESIZE, MIN_AREA = 500, 375, 224, 256, 0.08
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_PHOTOS, NUM_TURNS = 64, 8


def photo(seed: int) -> bytes:
    """Coarse colours with fine grain: about 100 kB at quality 90, as ImageNet's photos have."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), 3)
    pixels = np.asarray(coarse, np.float32) + chance.normal(0, 12, (HEIGHT, WIDTH, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write(root: Path, photos: Sequence[bytes]) -> None:
    """Two classes of a folder, and a shard."""
    for split in ("train", "val", "test"):
        for number, content in enumerate(photos):
            folder = root / "folder" / split / f"class_{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:04}.jpg").write_bytes(content)
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "all-0.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
        for number, content in enumerate(photos):
            for ending, data in (("jpg", content), ("cls", str(number % 2).encode())):
                info = tarfile.TarInfo(f"{number:04}.{ending}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


def finished(pixels: np.ndarray) -> np.ndarray:
    """float32 [3, height, width] around 0."""
    normal = (pixels.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def part(content: bytes, chance: np.random.Generator, draft: bool) -> np.ndarray:
    """Inception's crop, by plain Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        area, ratio = width * height * chance.uniform(MIN_AREA, 1), 3 / 4 * (16 / 9) ** chance.uniform()
        wide, high = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
        if draft:
            image.draft("RGB", (int(width * SIZE / wide), int(height * SIZE / high)))
        whole = image.convert("RGB")
    scale = whole.width / width
    left, top = chance.uniform() * (width - wide) * scale, chance.uniform() * (height - high) * scale
    box = (left, top, min(whole.width, left + wide * scale), min(whole.height, top + high * scale))
    pixels = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
    return finished(pixels[:, ::-1] if chance.uniform() < 0.5 else pixels)


def middle(content: bytes, chance: np.random.Generator, draft: bool) -> np.ndarray:
    """Shorter side to 256, the middle 224; both at once."""
    with Image.open(io.BytesIO(content)) as image:
        if draft:
            image.draft("RGB", (RESIZE, RESIZE))
        whole = image.convert("RGB")
    side = min(whole.size) * SIZE / RESIZE
    left, top = (whole.width - side) / 2, (whole.height - side) / 2
    box = (left, top, left + side, top + side)
    return finished(np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)))


def peer(cut: Callable[[bytes, np.random.Generator, bool], np.ndarray], photos: Sequence[bytes], draft: bool) -> None:
    chance = np.random.default_rng(0)
    torch.from_numpy(np.stack([cut(content, chance, draft) for content in photos]))


def ours(split: Split) -> None:
    split.batch(torch.arange(NUM_PHOTOS), torch.Generator().manual_seed(0))


def images_a_second(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return NUM_PHOTOS / (time.process_time() - begin)


def compare(root: Path, photos: Sequence[bytes]) -> bool:
    settings = (RESIZE, SIZE, True, (3, SIZE, SIZE), 3 * SIZE * SIZE, 2, MIN_AREA, MEAN, STD)
    shards = dict.fromkeys(("train", "val", "test"), "all-*.tar")
    folder = ImageFolder(str(root), "folder", None, *settings)
    shard = ImageShards(str(root), "shards", shards, None, *settings)
    kept = True
    print("| crops | folder | shards | peer | peer without draft | ratio to the peer | budget |\n" + "|---" * 7 + "|")
    for name, split, cut in (("training", "train", part), ("evaluation", "val", middle)):
        splits = [folder.load(split), shard.load(split)]
        works: list[Callable[[], None]] = [
            *(lambda one=one: ours(one) for one in splits),
            *(lambda draft=draft, cut=cut: peer(cut, photos, draft) for draft in (True, False)),
        ]
        for work in works:
            work()
        speeds = np.zeros((NUM_TURNS, len(works)))
        for turn in range(NUM_TURNS):
            for number in range(len(works)):
                place = (turn + number) % len(works)
                speeds[turn, place] = images_a_second(works[place])
        ratios = [float(np.median(speeds[:, own] / speeds[:, 2])) for own in (0, 1)]
        told = " | ".join(f"{speed:.0f}" for speed in np.median(speeds, axis=0))
        print(f"| {name} | {told} | {ratios[0]:.2f}, {ratios[1]:.2f} | >= {BUDGET} |", flush=True)
        kept &= min(ratios) >= BUDGET
    return kept


def wait_fraction(root: Path, num_workers: int) -> float:
    """Of a training of inception_v1 by batches of 16; the median over its points after the first."""
    command = [
        sys.executable, "-m", "experiments.cli", "run", "experiment=inception_v1_imagenet", "data=imagenet_shards",
        "parallel=single", "hardware=local", f"data_root={root}", "data.folder=shards", "data.num_train=null",
        "data.shards={train: 'all-*.tar', val: 'all-*.tar', test: 'all-*.tar'}", "data.num_classes=2", "max_epochs=null",
        "max_steps=9", "batch_size_global=16", "batch_size_eval=16", "log_every_steps=2", "evaluator.top_k=[1]",
        f"num_data_workers={num_workers}", "tracking=off", f"runs_dir={root}/runs_{num_workers}", "checkpoint.best_metric=null",
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    journals = list((root / f"runs_{num_workers}").rglob("journal.jsonl"))
    if told.returncode or not journals:
        raise RuntimeError(f"{' '.join(command)} failed: {told.stderr or told.stdout}")
    events = [json.loads(line) for line in journals[0].read_text().splitlines()]
    points = [event["metrics"] for event in events if event["event"] == "metrics"]
    shares = [point["perf/data_wait_fraction"] for point in points if "perf/data_wait_fraction" in point]
    return float(median(shares[1:]))


def main() -> int:
    torch.set_num_threads(1)
    photos = [photo(seed) for seed in range(NUM_PHOTOS)]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, photos)
        size_kb = sum(map(len, photos)) / len(photos) / 1e3
        print(f"{NUM_PHOTOS} photos of {WIDTH}x{HEIGHT}, {size_kb:.0f} kB each; images/s and core")
        kept = compare(root, photos)
        for num_workers in (0, 1):
            print(
                f"perf/data_wait_fraction of inception_v1, num_data_workers={num_workers}: {wait_fraction(root, num_workers):.3f}"
            )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
