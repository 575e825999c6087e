"""The components that a configuration may name without trust: which ones, and that their constructors touch nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.config import signature
from experiments.config.allowlist import GROUPS, PLACES, find_groups
from experiments.config.signature import Module, SourceError

ROOT = Path(__file__).parent.parent
SYSTEM_MODULES = {
    "asyncio", "builtins", "ctypes", "fcntl", "glob", "gzip", "http", "importlib", "io", "logging", "mmap", "multiprocessing",
    "os", "pickle", "requests", "resource", "runpy", "shelve", "shutil", "signal", "site", "socket", "sqlite3", "subprocess",
    "sys", "tarfile", "tempfile", "threading", "urllib", "webbrowser", "zipfile", "psutil", "safetensors", "launchers",
}  # fmt: skip
BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec", "globals", "input", "open", "print"}
METHODS = {
    "Popen", "chmod", "cwd", "environ", "exec", "exists", "from_pretrained", "fromfile", "genfromtxt", "getenv", "glob",
    "hardlink_to", "home", "init_process_group", "is_dir", "is_file", "iterdir", "load", "load_state_dict_from_url", "loadtxt",
    "manual_seed", "memmap", "mkdir", "open", "read_bytes", "read_text", "resolve", "rglob", "rmdir", "save", "savetxt",
    "savez", "set_num_threads", "stat", "symlink_to", "system", "tofile", "touch", "unlink", "write_bytes", "write_text",
}  # fmt: skip
"""Methods and attributes that read or change the machine or this process."""
WRAPPERS = {
    "modules.data.adapters.rows.Pad", "modules.data.adapters.torch_dataset.TorchDataset",
    "modules.evaluator.torch_metrics.TorchMetrics", "modules.model.logits_of.LogitsOf",
    "modules.data.own.pretrained_text.PretrainedText",
}  # fmt: skip
"""Components around classes of others, which only users' options name."""
HARMLESS = {"importlib.util.find_spec"}
"""Asks whether an extra is installed."""


def list_components() -> Iterator[tuple[str, Module, ast.ClassDef]]:
    """Full name, module and class of everything with the mark, found in the source."""
    folders = [ROOT / "modules", *(ROOT / place.replace(".", "/") for place in PLACES)]
    for path in sorted(file for folder in folders for file in folder.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        module = signature.parse(name)
        for node in module.classes.values():
            if signature.read(f"{name}.{node.name}").is_component:
                yield f"{name}.{node.name}", module, node


COMPONENTS = {name: (module, node) for name, module, node in list_components()}


def test_the_components_are_the_classes_of_the_options() -> None:
    """Every option names a component, and no other class has the mark except wrappers that users name themselves."""
    texts = [
        path.read_text(encoding="utf-8") for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml")
    ]
    named = {target for text in texts for target in re.findall(r"^\s*_target_: ([\w.]+)", text, re.MULTILINE)}
    assert {*COMPONENTS} - named == WRAPPERS
    assert named - {*COMPONENTS} == {target for target in named if target.startswith("torch.")}
    assert all(find_groups(name) <= GROUPS for name in COMPONENTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_constructor_of_a_component_touches_nothing(name: str) -> None:
    module, node = COMPONENTS[name]
    assert list(_Reach().follow_class(module, node)) == []


@pytest.mark.parametrize(
    "body",
    [
        "open('x', 'w')", "Path('x').touch()", "os.remove('x')", "self._start()", "_helper()", "self.x = os.environ['HOME']",
        "f = open", "subprocess.Popen(['true'])", "run(['true'])", "[_helper() for _ in range(2)]", "import socket", "Inner()",
    ],
)  # fmt: skip
def test_a_constructor_that_touches_the_system_is_found(body: str) -> None:
    source = f"""
import os, subprocess
from subprocess import run
from pathlib import Path

def _helper():
    return Path("x").write_text("")

class Inner:
    def __post_init__(self):
        _helper()

class Net:
    def __init__(self):
        {body}

    def _start(self):
        os.system("true")
"""
    module = Module("probe", Path("probe.py"))
    for node in ast.parse(source).body:
        signature._collect(node, module, "")
    assert list(_Reach().follow_class(module, module.classes["Net"]))


class _Reach:
    """Everything that a constructor may call, as far as the source of `modules` shows it."""

    def __init__(self) -> None:
        self._seen = set[tuple[str, str]]()

    def follow_class(self, module: Module, node: ast.ClassDef) -> Iterator[str]:
        """Every use of the system in the constructors and the body of a class and of its bases."""
        if (module.name, node.name) in self._seen:
            return
        self._seen.add((module.name, node.name))
        for item in node.body:
            is_constructor = isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__", "__post_init__")
            if is_constructor or not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from self._follow(module, node, item)
        for base in node.bases:
            yield from self._follow_name(module, node, ast.unparse(base).partition("[")[0])

    def _follow(self, module: Module, owner: ast.ClassDef | None, node: ast.AST) -> Iterator[str]:
        for part in _walk_without_annotations(node):
            if isinstance(part, (ast.Import, ast.ImportFrom)):
                names = [part.module or ""] if isinstance(part, ast.ImportFrom) else [item.name for item in part.names]
                yield from (
                    f"{module.name}: import {name}" for name in names if name.partition(".")[0] in SYSTEM_MODULES
                )
            elif isinstance(part, ast.Attribute):
                if part.attr in METHODS:
                    yield f"{module.name}:{part.lineno}: {ast.unparse(part)}"
                else:
                    yield from self._follow_name(module, owner, ast.unparse(part))
            elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                yield from self._follow_name(module, owner, part.id)

    def _follow_name(self, module: Module, owner: ast.ClassDef | None, name: str) -> Iterator[str]:
        head, _, rest = name.partition(".")
        if head in BUILTINS and not rest and head not in {*module.functions, *module.classes}:
            yield f"{module.name}: {name}"
        elif head in ("self", "cls") and owner is not None:
            methods = {item.name: item for item in owner.body if isinstance(item, ast.FunctionDef)}
            if rest in methods and (module.name, f"{owner.name}.{rest}") not in self._seen:
                self._seen.add((module.name, f"{owner.name}.{rest}"))
                yield from self._follow(module, owner, methods[rest])
        elif head in module.classes:
            yield from self.follow_class(module, module.classes[head])
        elif head in module.functions and (module.name, head) not in self._seen:
            self._seen.add((module.name, head))
            yield from self._follow(module, None, module.functions[head])
        elif (full := module.imports.get(head, "")).partition(".")[0] in SYSTEM_MODULES:
            if full not in HARMLESS:
                yield f"{module.name}: {name} is {full}"
        elif full.startswith("modules."):
            home, _, original = full.rpartition(".")
            try:
                yield from self._follow_name(signature.parse(home), None, original)
            except SourceError:  # a module, not a name in one
                yield from self._follow_name(signature.parse(full), None, rest)


def _walk_without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for name, value in ast.iter_fields(node):
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST) and name not in ("annotation", "returns"):
                yield from _walk_without_annotations(inner)
