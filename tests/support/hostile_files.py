"""Shared files that do harm or are broken, by the name of the file; what is said of each stands in tests/bad_inputs/shared."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.shares import (
    WEIGHTS,
    bundled,
    code,
    member,
    packed,
    padded,
    put,
    tar,
    text,
    untracked,
    values,
    zipped,
)

Builder = Callable[[Path], None]
EVIL = "import pathlib\npathlib.Path('executed').touch()\nclass Evil:\n    def forward(self): ...\n"


def says(key: str, value: Any, *overrides: str) -> Builder:
    """A file that is whole, but for one value."""
    return lambda path: _write(path, put(values(*overrides), key, value))


def sets(key: str, value: Any, *overrides: str) -> Builder:
    """A file that is whole, but for one value of its configuration, and that again where it stands twice."""

    def build(path: Path) -> None:
        told = put(values(*overrides), f"configuration.{key}", value)
        _write(path, put(told, key, value) if key in ("name", "note") else told)

    return build


def lacks(key: str) -> Builder:
    return lambda path: _write(path, {name: value for name, value in values().items() if name != key})


def reads(before: str, after: str) -> Builder:
    """A file of which one place is written otherwise, as no program would write it."""

    def build(path: Path) -> None:
        assert before in text()
        path.write_text(text().replace(before, after, 1), encoding="utf-8")

    return build


def holds(content: bytes) -> Builder:
    return lambda path: _bytes(path, content)


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _write(path: Path, told: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=False), encoding="utf-8")


def archived(*members: bytes) -> Builder:
    """An archive that begins well, and goes on with these."""
    return lambda path: bundled(path, more=members)


def with_code(*members: bytes, patch: bytes = b"", **changed: Any) -> Builder:
    """An archive whose code has these files that git did not know."""

    def build(path: Path) -> None:
        archive = untracked(*members) if members else b""
        files = {"code/main.patch": patch} if patch else {}
        files |= {"code/main-untracked.tar.gz": zipped(archive)} if archive else {}
        bundled(path, files, {**values(), "code": [code(patch, archive, **changed)]})

    return build


def laughs(path: Path) -> None:
    """A billion laughs: ten lines that are gigabytes once they are followed."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path.write_text("lathe_share: 1\n" + "\n".join(lines) + "\n")


def cut(path: Path) -> None:
    bundled(path)
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    """One wrong byte in the checksum of the whole."""
    bundled(path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(bytes(content))


def exchanged(path: Path) -> None:
    bundled(path, listed={"weights/model.safetensors": "0" * 64})


def unnamed(path: Path) -> None:
    bundled(path, listed={})


def missing(path: Path) -> None:
    bundled(path, {}, listed={"weights/model.safetensors": "0" * 64})


def bomb(path: Path) -> None:
    bundled(path, {"weights/model.safetensors": WEIGHTS[:10] + bytes(20_000_000)})


def shared_by_two(path: Path) -> None:
    """One file that is to be unpacked for every entry of code."""
    archive = untracked(member("a.py", b"x"))
    entry = code(archive=archive)
    bundled(path, {"code/main-untracked.tar.gz": zipped(archive)}, {**values(), "code": [entry, entry]})


def bombs(path: Path) -> None:
    """Files of which each alone may come out."""
    archive = untracked(member("a.py", bytes(70_000_000)))
    entries = [code(archive=archive, untracked=f"{number}-untracked.tar.gz") for number in range(2)]
    bundled(path, {f"code/{entry['untracked']}": zipped(archive) for entry in entries}, {**values(), "code": entries})


def evil_package(path: Path) -> None:
    (path.parent / "evil.py").write_text(EVIL)
    sets("model._target_", "evil.Evil")(path)


def evil_optimizer(path: Path) -> None:
    (path.parent / "torch").mkdir()
    (path.parent / "torch" / "__init__.py").write_text(EVIL)
    sets("optimizer._target_", "torch.load")(path)


def longest(kind: bytes, name: str) -> bytes:
    """A header that announces a further header, of 8 GB."""
    return member("././@LongLink" if kind != tarfile.XHDTYPE else "x", type=kind, size=8**11 - 1) + padded(
        name.encode()
    )


FILES: dict[str, Builder] = {
    # What YAML could be made to do.
    "laughs.yaml": laughs,
    "python_object.yaml": reads("note: null", "note: !!python/object/apply:os.system ['touch executed']"),
    "python_name.yaml": reads("seed: 0", "seed: !!python/name:os.getcwd ''"),
    "own_type.yaml": reads("note: null", "note: !reader /etc/passwd"),
    "merged.yaml": reads("seeds:", "<<: {resume: true}\nseeds:"),
    "anchor.yaml": reads("note: null", "note: &n null"),
    "deep.yaml": reads("note: null", f"note: {'[' * 5000}{']' * 5000}"),
    "many.yaml": reads("note: null", f"note: [{'1,' * 250_000}]"),
    "large.yaml": holds(b"lathe_share: 1 # " + b"x" * 20_000_000),
    "documents.yaml": reads("seeds:", "---\nseeds:"),
    "list.yaml": holds(b"- lathe_share: 1\n"),
    "empty.yaml": holds(b""),
    "garbage.yaml": holds(bytes(range(128, 256)) * 8),
    "picture.yaml": holds(b"\x89PNG\r\n\x1a\n" + bytes(64)),
    "utf16.yaml": holds("lathe_share: 1\n".encode("utf-16")),
    "cut.yaml": lambda path: _bytes(path, text().encode()[:1500]),
    "open_quote.yaml": reads("note: null", 'note: "a'),
    "twice.yaml": reads("  max_steps: 300", "  max_steps: 300\n  max_steps: 100000"),
    "twice_escaped.yaml": reads("  max_steps: 300", '  max_steps: 300\n  "max\\x5fsteps": 100000'),
    "date.yaml": reads("note: null", "note: 2026-11-24"),
    "number_key.yaml": reads("seed: 0", "1: 0"),
    "list_key.yaml": reads("seed: 0", "? [seed]\n  : 0"),
    "long_key.yaml": says(f"configuration.tags.{'k' * 251}", "v"),
    "long_text.yaml": sets("note", "n" * 70_000),
    "digits.yaml": reads("seed: 0", "seed: " + "9" * 5000),
    "huge.yaml": reads("max_steps: 300", "max_steps: 99999999999999999999"),
    "hexadecimal.yaml": reads("max_steps: 300", "max_steps: 0xffffffffffffffff"),
    "terminal.yaml": reads("name: ", 'name: "\\e]0;owned\\a" #'),
    "right_to_left.yaml": sets("tags.a", "lathe \u202egnp.exe"),
    "invisible.yaml": sets("model._target_", "modules.model.lenet.Le\u200bNet"),
    # What is no shared file, or none of this version.
    "later.yaml": says("lathe_share", 2),
    "version_text.yaml": says("lathe_share", "1"),
    "version_true.yaml": says("lathe_share", True),
    "no_version.yaml": lacks("lathe_share"),
    "no_code.yaml": lacks("code"),
    "typo.yaml": says("trialid", "0123456789"),
    "no_map.yaml": says("configuration", ["model=lenet"]),
    "expected_list.yaml": says("expected", [1, 2]),
    "metric_list.yaml": says("expected.metrics.val/loss_nats", [1.0, 2.0]),
    "steps_text.yaml": says("expected.metrics.train/loss_nats.steps", ["1", "2", "3"]),
    "steps_missing.yaml": says("expected.metrics.train/loss_nats.steps", [1, 2]),
    "steps_descend.yaml": says("expected.metrics.train/loss_nats.steps", [1, 20, 10]),
    "steps_negative.yaml": says("expected.metrics.train/loss_nats.steps", [-1, 10, 20]),
    "trial_id.yaml": says("trial_id", "../../../x"),
    "sha256.yaml": says("code.0.sha256", "abc"),
    "git_option.yaml": says("code.0.git_sha", "--upload-pack=touch executed"),
    "code_folder.yaml": says("code.0.name", "../../.ssh"),
    "code_list.yaml": says("code", ["main"]),
    "code_key.yaml": says("code.0.url", "https://example.org/x.git"),
    "package.yaml": says("environment.packages.torch", "2.13\n--index-url http://example.org"),
    "package_name.yaml": says("environment.packages.-r /etc/passwd", "1.0"),
    "platform.yaml": says("environment.platform", "x" * 300),
    "name_folder.yaml": says("name", "../../../name"),
    "other_name.yaml": says("name", "other"),
    "other_seed.yaml": says("seeds.seed", 7),
    "metric_name.yaml": says("expected.metrics.val/[loss](javascript:1)", {"steps": [1], "values": [1.0]}),
    "metric_long.yaml": says(f"expected.metrics.{'m' * 240}", {"steps": [1], "values": [1.0]}),
    "split_name.yaml": says("data.splits.a b", {"digest": "0", "num_examples": 1}),
    "num_files.yaml": says("data.names_and_sizes_sha256", "0" * 64),
    "cpu_threads.yaml": says("environment.cpu_threads", 10**9),
    "many_checkouts.yaml": says("code", [code() for _ in range(17)]),
    "sha_50.yaml": says("code.0.git_sha", "0" * 50),
    "filler.yaml": sets("name", "a\u3164b"),
    "many_settings.yaml": sets("tags", {f"k{number}": "v" for number in range(5000)}),
    # What may run.
    "system.yaml": sets("model", {"_target_": "os.system", "command": "touch executed"}),
    "evil_package.yaml": evil_package,
    "torch_load.yaml": evil_optimizer,
    "imported.yaml": sets("model._target_", "modules.model.lenet.Tensor"),
    "builtins.yaml": sets("objective", {"_target_": "builtins.exec", "source": "open('executed', 'w')"}),
    "nested_target.yaml": sets("model.conv_channels", [{"_target_": "subprocess.run", "args": ["touch", "executed"]}]),
    "tag_target.yaml": sets("tags.a", {"_target_": "os.system", "command": "touch executed"}),
    "homoglyph.yaml": sets("model._target_", "modules.model.len\u0435t.LeNet"),
    "experiments.yaml": sets("model._target_", "experiments.run.journal.Journal"),
    "dunder.yaml": sets("model._target_", "modules.model.lenet.LeNet.__init__.__globals__"),
    "launcher_inside.yaml": sets("model", {"_target_": "launchers.slurm.Slurm", "python": "touch executed"}),
    "positional.yaml": sets("model._args_", ["x"]),
    "later_given.yaml": sets("model._partial_", True),
    # What it may read.
    "secret_note.yaml": sets("note", "${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "secret_tag.yaml": sets("tags.a", "${oc.env:AWS_SECRET_ACCESS_KEY,none}"),
    "secret_part.yaml": sets("model.hidden_size", "${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "secret_path.yaml": sets("runs_dir", "${oc.env:HOME}/.ssh"),
    "secret_root.yaml": sets("data_root", "${oc.env:LATHE_DATA,/etc}"),
    "nested_reference.yaml": sets("runs_dir", "${oc.env:LATHE_RUNS,${oc.env:HOME}}"),
    "resolver.yaml": sets("note", "${oc.decode:'[1]'}"),
    "follows.yaml": sets("model.num_classes", "${data.num_classes}"),
    "key_reference.yaml": sets("tags", {"${oc.env:HOME}": "a"}),
    "data_folder.yaml": sets("data.folder", "../../../etc", "data=image_folder"),
    "data_absolute.yaml": sets("data.folder", "/etc", "data=image_folder"),
    "data_home.yaml": sets("data.folder", "~/.ssh", "data=image_folder"),
    "data_backslash.yaml": sets("data.folder", "..\\..\\etc", "data=image_folder"),
    "data_file.yaml": sets("data.files", {"../../etc/passwd": "0" * 64}, "data=cifar10"),
    "data_url.yaml": sets("data.folder", "file:///etc", "data=image_folder"),
    # Where it may write, and what it may take.
    "runs_dir.yaml": sets("runs_dir", "/tmp/elsewhere"),
    "runs_dir_up.yaml": sets("runs_dir", "../.."),
    "data_root.yaml": sets("data_root", "../../../etc"),
    "root.yaml": sets("data.root", "/", "data=image_folder"),
    "slurm.yaml": sets("launcher", {"_target_": "launchers.slurm.Slurm", "python": "touch executed;"}),
    "setup.yaml": sets("hardware.slurm", {"setup": ["touch executed"], "sbatch": {"wrap": "touch executed"}}),
    "store.yaml": sets("tracking.store", "http://example.org:5000"),
    "store_file.yaml": sets("tracking.store", "sqlite:////home/me/.bashrc"),
    "resume.yaml": sets("resume", True),
    "workers.yaml": sets("num_data_workers", 100_000),
    "devices.yaml": sets("hardware.devices_per_node", 100_000),
    "threads.yaml": sets("hardware.cpu_threads", 10**9),
    "no_number.yaml": reads("lr: 0.001", "lr: .nan"),
    "infinite.yaml": reads("lr: 0.001", "lr: .inf"),
    "overflow.yaml": reads("lr: 0.001", "lr: 1.0e+999"),
    "unknown_key.yaml": sets("checkpoints_dir", "x"),
    "wrong_type.yaml": sets("max_steps", "many"),
    "no_model.yaml": lambda path: _write(path, {**values(), "configuration": {}}),
    "batch.yaml": sets("batch_size_global", 100_000),
    # What an archive could be made to do.
    "cut.tar.gz": cut,
    "flipped.tar.gz": flipped,
    "no_tar.tar.gz": holds(zipped(b"lathe_share: 1\n" * 100)),
    "magic.tar.gz": holds(b"\x1f\x8b" + b"no archive at all"),
    "nothing.tar.gz": holds(packed()),
    "behind.tar.gz": holds(zipped(tar([member("share.yaml", text().encode())]) + b"more")),
    "up.tar.gz": archived(member("../escaped", b"x")),
    "up_inside.tar.gz": archived(member("code/../../escaped.patch", b"x")),
    "absolute.tar.gz": archived(member("/tmp/escaped", b"x")),
    "link.tar.gz": archived(member("code/main.patch", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard_link.tar.gz": archived(member("code/main.patch", type=tarfile.LNKTYPE, linkname="share.yaml")),
    "device.tar.gz": archived(member("code/main.patch", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "fifo.tar.gz": archived(member("code/main.patch", type=tarfile.FIFOTYPE)),
    "folder.tar.gz": archived(member("code", type=tarfile.DIRTYPE)),
    "gnu_name.tar.gz": archived(longest(tarfile.GNUTYPE_LONGNAME, "a" * 500)),
    "pax_name.tar.gz": archived(longest(tarfile.XHDTYPE, "500 path=" + "a" * 490)),
    "long_name.tar.gz": archived(member(f"code/{'a' * 90}.patch", b"x")),
    "strange_name.tar.gz": archived(member("code/\u202ehctap.main\u001b[2J.patch", b"x")),
    "program.tar.gz": archived(member("setup.py", b"open('executed', 'w')")),
    "again.tar.gz": archived(member("weights/model.safetensors", WEIGHTS)),
    "second.tar.gz": holds(packed(member("weights/model.safetensors", WEIGHTS), member("share.yaml", text().encode()))),
    "exchanged.tar.gz": exchanged,
    "unnamed.tar.gz": unnamed,
    "missing.tar.gz": missing,
    "bomb.tar.gz": bomb,
    "announced.tar.gz": archived(member("code/main.patch", size=10**13)),
    "pickle.tar.gz": lambda path: bundled(path, {"weights/model.safetensors": pickle.dumps({"weight": [0.0] * 99})}),
    "code_up.tar.gz": with_code(member("../escaped.py", b"x")),
    "code_absolute.tar.gz": with_code(member("/tmp/escaped.py", b"x")),
    "code_link.tar.gz": with_code(member("data", type=tarfile.SYMTYPE, linkname="../../.ssh")),
    "code_behind_link.tar.gz": with_code(
        member("a", type=tarfile.SYMTYPE, linkname="b"), member("a/escaped.py", b"x")
    ),
    "code_hook.tar.gz": with_code(member("modules/.Git/hooks/post-checkout", b"touch executed")),
    "code_device.tar.gz": with_code(member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "code_twice.tar.gz": with_code(member("a.py", b"x"), member("a.py", b"y")),
    "code_shared.tar.gz": shared_by_two,
    "code_bombs.tar.gz": bombs,
    "code_many.tar.gz": with_code(*(member(f"{number}.py") for number in range(20_001))),
    "code_deep.tar.gz": with_code(member("a/" * 64 + "b", b"x")),
    "code_headers.tar.gz": with_code(*[member("x", b"12 path=abc\n", type=tarfile.XHDTYPE)] * 3000),
    "code_bomb.tar.gz": with_code(member("a.py", bytes(129_000_000))),
    "code_sum.tar.gz": with_code(patch=b"diff --git a/x b/x\n", sha256="0" * 64),
    "code_cut.tar.gz": lambda path: bundled(
        path, {"code/main-untracked.tar.gz": b"\x1f\x8b"}, {**values(), "code": [code(archive=b"x")]}
    ),
    "code_strange.tar.gz": lambda path: bundled(path, {"code/other.patch": b"x"}),
    "alone.yaml": says("bundle", {"weights/model.safetensors": "0" * 64}),
    "code_alone.yaml": says("code.0.diff", "main.patch"),
    "pipe.yaml": lambda path: os.mkfifo(path),
    "place.yaml": lambda path: path.mkdir(),
}  # fmt: skip
