"""Shared files that are hostile or damaged, by file name; tests/bad_inputs/shared has the message for each."""

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


def with_value(key: str, value: Any, *overrides: str) -> Builder:
    """A valid file except for one value."""
    return lambda path: _write(path, put(values(*overrides), key, value))


def with_setting(key: str, value: Any, *overrides: str) -> Builder:
    """A valid file except for one value of its configuration; name and description change in both places."""

    def build(path: Path) -> None:
        changed = put(values(*overrides), f"configuration.{key}", value)
        _write(path, put(changed, key, value) if key in ("name", "description") else changed)

    return build


def without(key: str) -> Builder:
    return lambda path: _write(path, {name: value for name, value in values().items() if name != key})


def with_text(before: str, after: str) -> Builder:
    """A valid file except for one replaced text, which `lathe share` would not write."""

    def build(path: Path) -> None:
        assert before in text()
        path.write_text(text().replace(before, after, 1), encoding="utf-8")

    return build


def with_bytes(content: bytes) -> Builder:
    return lambda path: _bytes(path, content)


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=False), encoding="utf-8")


def archived(*members: bytes) -> Builder:
    """An archive that begins correctly and continues with these members."""
    return lambda path: bundled(path, more=members)


def with_code(*members: bytes, patch: bytes = b"", **changed: Any) -> Builder:
    """An archive whose code has these untracked files."""

    def build(path: Path) -> None:
        archive = untracked(*members) if members else b""
        files = {"code/main.patch": patch} if patch else {}
        files |= {"code/main-untracked.tar.gz": zipped(archive)} if archive else {}
        bundled(path, files, {**values(), "code": [code(patch, archive, **changed)]})

    return build


def laughs(path: Path) -> None:
    """A billion laughs: ten lines that expand to gigabytes."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path.write_text("lathe_share: 2\n" + "\n".join(lines) + "\n")


def cut(path: Path) -> None:
    bundled(path)
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    """One wrong byte in the checksum of the archive."""
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
    """One file that every entry of code names."""
    archive = untracked(member("a.py", b"x"))
    entry = code(archive=archive)
    bundled(path, {"code/main-untracked.tar.gz": zipped(archive)}, {**values(), "code": [entry, entry]})


def bombs(path: Path) -> None:
    """Files that are within the limit alone, but not together."""
    archive = untracked(member("a.py", bytes(70_000_000)))
    entries = [code(archive=archive, untracked=f"{number}-untracked.tar.gz") for number in range(2)]
    bundled(path, {f"code/{entry['untracked']}": zipped(archive) for entry in entries}, {**values(), "code": entries})


def evil_package(path: Path) -> None:
    (path.parent / "evil.py").write_text(EVIL)
    with_setting("model._target_", "evil.Evil")(path)


def evil_optimizer(path: Path) -> None:
    (path.parent / "torch").mkdir()
    (path.parent / "torch" / "__init__.py").write_text(EVIL)
    with_setting("optimizer._target_", "torch.load")(path)


def longest(kind: bytes, name: str) -> bytes:
    """A header that announces an extended header of 8 GB."""
    return member("././@LongLink" if kind != tarfile.XHDTYPE else "x", type=kind, size=8**11 - 1) + padded(
        name.encode()
    )


FILES: dict[str, Builder] = {
    # YAML features that are unsafe.
    "laughs.yaml": laughs,
    "python_object.yaml": with_text("description: null", "description: !!python/object/apply:os.system ['touch executed']"),
    "python_name.yaml": with_text("seed: 0", "seed: !!python/name:os.getcwd ''"),
    "own_type.yaml": with_text("description: null", "description: !reader /etc/passwd"),
    "merged.yaml": with_text("seeds:", "<<: {resume: true}\nseeds:"),
    "anchor.yaml": with_text("description: null", "description: &n null"),
    "deep.yaml": with_text("description: null", f"description: {'[' * 5000}{']' * 5000}"),
    "many.yaml": with_text("description: null", f"description: [{'1,' * 250_000}]"),
    "large.yaml": with_bytes(b"lathe_share: 1 # " + b"x" * 20_000_000),
    "documents.yaml": with_text("seeds:", "---\nseeds:"),
    "list.yaml": with_bytes(b"- lathe_share: 1\n"),
    "empty.yaml": with_bytes(b""),
    "garbage.yaml": with_bytes(bytes(range(128, 256)) * 8),
    "picture.yaml": with_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)),
    "utf16.yaml": with_bytes("lathe_share: 1\n".encode("utf-16")),
    "cut.yaml": lambda path: _bytes(path, text().partition("\ntrial_id:")[0].encode()),
    "open_quote.yaml": with_text("description: null", 'description: "a'),
    "twice.yaml": with_text("  max_steps: 300", "  max_steps: 300\n  max_steps: 100000"),
    "twice_escaped.yaml": with_text("  max_steps: 300", '  max_steps: 300\n  "max\\x5fsteps": 100000'),
    "date.yaml": with_text("description: null", "description: 2026-11-24"),
    "number_key.yaml": with_text("seed: 0", "1: 0"),
    "list_key.yaml": with_text("seed: 0", "? [seed]\n  : 0"),
    "long_key.yaml": with_value(f"configuration.tags.{'k' * 251}", "v"),
    "long_text.yaml": with_setting("description", "n" * 70_000),
    "digits.yaml": with_text("seed: 0", "seed: " + "9" * 5000),
    "huge.yaml": with_text("max_steps: 300", "max_steps: 99999999999999999999"),
    "hexadecimal.yaml": with_text("max_steps: 300", "max_steps: 0xffffffffffffffff"),
    "terminal.yaml": with_text("name: ", 'name: "\\e]0;owned\\a" #'),
    "right_to_left.yaml": with_setting("tags.a", "lathe \u202egnp.exe"),
    "invisible.yaml": with_setting("model._target_", "modules.model.lenet.Le\u200bNet"),
    # Files that do not fit the schema.
    "later.yaml": with_value("lathe_share", 3),
    "version_text.yaml": with_value("lathe_share", "1"),
    "version_true.yaml": with_value("lathe_share", True),
    "no_version.yaml": without("lathe_share"),
    "no_code.yaml": without("code"),
    "typo.yaml": with_value("trialid", "0123456789"),
    "no_map.yaml": with_value("configuration", ["model=lenet"]),
    "expected_list.yaml": with_value("expected", [1, 2]),
    "metric_list.yaml": with_value("expected.metrics.val/loss_nats", [1.0, 2.0]),
    "steps_text.yaml": with_value("expected.metrics.train/loss_nats.steps", ["1", "2", "3"]),
    "steps_missing.yaml": with_value("expected.metrics.train/loss_nats.steps", [1, 2]),
    "steps_descend.yaml": with_value("expected.metrics.train/loss_nats.steps", [1, 20, 10]),
    "steps_negative.yaml": with_value("expected.metrics.train/loss_nats.steps", [-1, 10, 20]),
    "trial_id.yaml": with_value("trial_id", "../../../x"),
    "sha256.yaml": with_value("code.0.sha256", "abc"),
    "git_option.yaml": with_value("code.0.git_sha", "--upload-pack=touch executed"),
    "code_folder.yaml": with_value("code.0.name", "../../.ssh"),
    "code_list.yaml": with_value("code", ["main"]),
    "code_key.yaml": with_value("code.0.url", "https://example.org/x.git"),
    "package.yaml": with_value("environment.packages.torch", "2.13\n--index-url http://example.org"),
    "package_name.yaml": with_value("environment.packages.-r /etc/passwd", "1.0"),
    "platform.yaml": with_value("environment.platform", "x" * 300),
    "name_folder.yaml": with_value("name", "../../../name"),
    "other_name.yaml": with_value("name", "other"),
    "other_seed.yaml": with_value("seeds.seed", 7),
    "metric_name.yaml": with_value("expected.metrics.val/[loss](javascript:1)", {"steps": [1], "values": [1.0]}),
    "metric_long.yaml": with_value(f"expected.metrics.{'m' * 240}", {"steps": [1], "values": [1.0]}),
    "split_name.yaml": with_value("data.splits.a b", {"digest": "0", "num_examples": 1}),
    "num_files.yaml": with_value("data.names_and_sizes_sha256", "0" * 64),
    "cpu_threads.yaml": with_value("environment.cpu_threads", 10**9),
    "many_checkouts.yaml": with_value("code", [code() for _ in range(17)]),
    "sha_50.yaml": with_value("code.0.git_sha", "0" * 50),
    "filler.yaml": with_setting("name", "a\u3164b"),
    "many_settings.yaml": with_setting("tags", {f"k{number}": "v" for number in range(5000)}),
    # Code that must not run.
    "system.yaml": with_setting("model", {"_target_": "os.system", "command": "touch executed"}),
    "evil_package.yaml": evil_package,
    "torch_load.yaml": evil_optimizer,
    "imported.yaml": with_setting("model._target_", "modules.model.lenet.Tensor"),
    "builtins.yaml": with_setting("objective", {"_target_": "builtins.exec", "source": "open('executed', 'w')"}),
    "nested_target.yaml": with_setting("model.conv_channels", [{"_target_": "subprocess.run", "args": ["touch", "executed"]}]),
    "tag_target.yaml": with_setting("tags.a", {"_target_": "os.system", "command": "touch executed"}),
    "homoglyph.yaml": with_setting("model._target_", "modules.model.len\u0435t.LeNet"),
    "experiments.yaml": with_setting("model._target_", "experiments.run.journal.Journal"),
    "dunder.yaml": with_setting("model._target_", "modules.model.lenet.LeNet.__init__.__globals__"),
    "launcher_inside.yaml": with_setting("model", {"_target_": "launchers.slurm.Slurm", "python": "touch executed"}),
    "positional.yaml": with_setting("model._args_", ["x"]),
    "later_given.yaml": with_setting("model._partial_", True),
    # Values that must not be read.
    "secret_note.yaml": with_setting("description", "${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "secret_tag.yaml": with_setting("tags.a", "${oc.env:AWS_SECRET_ACCESS_KEY,none}"),
    "secret_part.yaml": with_setting("model.hidden_size", "${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "secret_path.yaml": with_setting("runs_dir", "${oc.env:HOME}/.ssh"),
    "secret_root.yaml": with_setting("data_root", "${oc.env:LATHE_DATA,/etc}"),
    "nested_reference.yaml": with_setting("runs_dir", "${oc.env:LATHE_RUNS,${oc.env:HOME}}"),
    "resolver.yaml": with_setting("description", "${oc.decode:'[1]'}"),
    "follows.yaml": with_setting("model.num_classes", "${data.num_classes}"),
    "key_reference.yaml": with_setting("tags", {"${oc.env:HOME}": "a"}),
    "data_folder.yaml": with_setting("data.folder", "../../../etc", "data=imagenet"),
    "data_absolute.yaml": with_setting("data.folder", "/etc", "data=imagenet"),
    "data_home.yaml": with_setting("data.folder", "~/.ssh", "data=imagenet"),
    "data_backslash.yaml": with_setting("data.folder", "..\\..\\etc", "data=imagenet"),
    "data_file.yaml": with_setting("data.files", {"../../etc/passwd": "0" * 64}, "data=cifar10"),
    "data_url.yaml": with_setting("data.folder", "file:///etc", "data=imagenet"),
    # Folders and resources that a file must not choose.
    "runs_dir.yaml": with_setting("runs_dir", "/tmp/elsewhere"),
    "runs_dir_up.yaml": with_setting("runs_dir", "../.."),
    "data_root.yaml": with_setting("data_root", "../../../etc"),
    "root.yaml": with_setting("data.root", "/", "data=imagenet"),
    "slurm.yaml": with_setting("launcher", {"_target_": "launchers.slurm.Slurm", "python": "touch executed;"}),
    "setup.yaml": with_setting("hardware.slurm", {"setup": ["touch executed"], "sbatch": {"wrap": "touch executed"}}),
    "store.yaml": with_setting("tracking.store", "http://example.org:5000"),
    "store_file.yaml": with_setting("tracking.store", "sqlite:////home/me/.bashrc"),
    "resume.yaml": with_setting("resume", True),
    "workers.yaml": with_setting("num_data_workers", 100_000),
    "devices.yaml": with_setting("hardware.devices_per_node", 100_000),
    "threads.yaml": with_setting("hardware.cpu_threads", 10**9),
    "no_number.yaml": with_text("lr: 0.001", "lr: .nan"),
    "infinite.yaml": with_text("lr: 0.001", "lr: .inf"),
    "overflow.yaml": with_text("lr: 0.001", "lr: 1.0e+999"),
    "unknown_key.yaml": with_setting("checkpoints_dir", "x"),
    "wrong_type.yaml": with_setting("max_steps", "many"),
    "no_model.yaml": lambda path: _write(path, {**values(), "configuration": {}}),
    "batch.yaml": with_setting("batch_size_global", 100_000),
    # Unsafe archives.
    "cut.tar.gz": cut,
    "flipped.tar.gz": flipped,
    "no_tar.tar.gz": with_bytes(zipped(b"lathe_share: 1\n" * 100)),
    "magic.tar.gz": with_bytes(b"\x1f\x8b" + b"no archive at all"),
    "nothing.tar.gz": with_bytes(packed()),
    "behind.tar.gz": with_bytes(zipped(tar([member("share.yaml", text().encode())]) + b"more")),
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
    "second.tar.gz": with_bytes(packed(member("weights/model.safetensors", WEIGHTS), member("share.yaml", text().encode()))),
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
    "alone.yaml": with_value("bundle", {"weights/model.safetensors": "0" * 64}),
    "code_alone.yaml": with_value("code.0.diff", "main.patch"),
    "pipe.yaml": lambda path: os.mkfifo(path),
    "place.yaml": lambda path: path.mkdir(),
}  # fmt: skip


def write_experiment(folder: Path, text: str, name: str = "foreign", header: str = "") -> Path:
    """Write an experiment into a folder of configurations."""
    path = folder / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n{header}{text}\n")
    return path
