"""Arguments and lines of standard input become inputs, or are reported as errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.results.predict.inputs import ModelInput, find_problems, read_inputs, skips_output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets" / "more").mkdir(parents=True)
    for name in ("pets/dog.png", "pets/cat.JPG", "pets/more/ant.gif", "pets/notes.txt", "own.image"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def values(*args: str, pipe: bytes = b"") -> list[str]:
    return [item.value for item in read_inputs(args, "image", pipe.splitlines(keepends=True))]


def test_files_folders_and_patterns_name_images_in_order(folder: Path) -> None:
    assert values("own.image", "pets") == ["own.image", "pets/cat.JPG", "pets/dog.png", "pets/more/ant.gif"]
    assert values("pets/*.png", "pets/**/*.gif") == ["pets/dog.png", "pets/more/ant.gif"]
    assert values(pipe=b"pets/dog.png\r\nown.image\n") == ["pets/dog.png", "own.image"]
    assert values("own.image", "-", pipe=b"pets\n") == [
        "own.image",
        "pets/cat.JPG",
        "pets/dog.png",
        "pets/more/ant.gif",
    ]


def test_arguments_without_an_image_are_reported_together(folder: Path) -> None:
    assert find_problems(["pets/dogg.png", "empty", "pets/*.bmp", "nowhere/x.png", "pets", "-", "-"], "image") == [
        "there is no image pets/dogg.png; did you mean 'dog.png'?",
        "empty has no image; images end in .jpg, .jpeg, .png, .bmp, .gif, .tif, .tiff, .webp, .ppm, .pgm",
        "pets/*.bmp matches no file; write another pattern",
        "there is no image nowhere/x.png, as there is no folder nowhere; name an existing file",
        "INPUT - is given twice, but standard input is read once; leave one out",
    ]
    assert find_problems(["pets", "own.image", "-"], "image") == []


def test_earlier_predictions_are_skipped(folder: Path) -> None:
    inputs = list(
        read_inputs(["pets", "pets/*/*.gif", "pets/more/ant.gif", "-"], "image", [b"pets/*g\n"], Path("pets/more"))
    )
    assert [item.value for item in inputs] == [
        "pets/cat.JPG", "pets/dog.png", "pets/more/ant.gif", "pets/dog.png",
    ]  # fmt: skip
    assert skips_output(["own.image", "pets"], Path("pets/more"))
    assert not skips_output(["own.image", "pets"], Path("pets/new"))
    assert not skips_output(["pets/more"], Path("empty"))
    assert find_problems(["pets", "pets/*.png"], "image", folder / "pets") == [
        f"the images of {arg} are in -o {folder}/pets, which is skipped, as it holds earlier predictions; name another folder "
        "for -o"
        for arg in ("pets", "pets/*.png")
    ]
    assert find_problems(["pets", "pets/*.png"], "image", Path("pets/more")) == []
    assert find_problems(["empty"], "image", Path("empty"))[0].startswith("empty has no image;")


@pytest.mark.parametrize("image", [b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xd8\xff\xe0\0", b"BM\x36\0\n\n"])
def test_an_image_on_standard_input_is_reported_once(folder: Path, image: bytes) -> None:
    pipe = [b"own.image\n", *image.splitlines(keepends=True), b"pets\n"]
    assert list(read_inputs([], "image", pipe)) == [
        ModelInput("own.image"),
        ModelInput("-", "INPUT - is an image, but must be a list of paths, one per line; name the file instead of `-`"),
    ]


@pytest.mark.parametrize("arg", ["x" * 300 + ".png", "~nobody_of_that_name/x.png"])
def test_a_path_that_cannot_be_read_is_reported(folder: Path, arg: str) -> None:
    (problem,) = find_problems([arg], "image")
    assert problem.startswith(f"{arg[:80]}")
    assert "has more than 255 bytes" in problem or "there is no user 'nobody_of_that_name'" in problem
    assert [item.problem for item in read_inputs([], "image", [arg.encode()])] == [problem]


def test_an_invalid_line_does_not_affect_the_others(folder: Path) -> None:
    inputs = list(read_inputs(["-"], "image", [b"own.imag\n", b"\n", b"own.image\n"]))
    assert [item.problem for item in inputs] == [
        "there is no image own.imag; name an existing file",
        "line 2 of the input is empty; write a path",
        None,
    ]


def test_texts_are_unchanged_from_arguments_and_standard_input(folder: Path) -> None:
    inputs = list(read_inputs(["pets", "-", "a = b"], "text", ["Zoë \n".encode(), b"\xff\n", b"\n"]))
    assert [item.value for item in inputs if item.problem is None] == ["pets", "Zoë ", "a = b"]
    assert [item.problem for item in inputs if item.problem] == [
        "line 2 of the input is not UTF-8 (invalid start byte); convert it with `iconv`",
        "line 3 of the input is empty; write a text",
    ]
    assert find_problems(["a", ""], "text") == ["INPUT='' is empty; write a text, or leave it out"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "area,city\n12.5,Zoë\n,Rome\n".encode()),
        ("rows.csv", "area;city\r\n12.5;Zoë\r\n;Rome\r\n".encode("utf-8-sig")),
        ("rows.csv.gz", gzip.compress("area,city\n12.5,Zoë\n,Rome\n".encode())),
        ("rows.json", '[{"area": 12.5, "city": "Zoë"}, {"area": null, "city": "Rome"}]'.encode()),
        ("rows.jsonl", '{"area": 12.5, "city": "Zoë"}\n\n{"area": null, "city": "Rome"}\n'.encode()),
    ],
)
def test_rows_of_a_file_are_inputs(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert find_problems([name], "row") == []
    read = [json.loads(item.value) for item in read_inputs([name], "row", ())]
    assert read == [{"area": 12.5, "city": "Zoë"}, {"area": None, "city": "Rome"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "there is no file none.csv; name a CSV"), ("a.csv", b"", "cannot be read as a table"),
        ("a.csv", b"x,y\n", "has no row"), ("a.csv", b"\xff\xfe", "; save it as CSV in UTF-8"),
        ("a.json", b"{", "a.json cannot be read as JSON"), ("a.json", b"[1]", "item 1 is no object"),
        ("pets", None, "cannot be read"),
    ],
)  # fmt: skip
def test_files_without_rows_are_refused(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    (problem,) = find_problems([name], "row")
    assert message in problem
    assert "on_bad_example" not in problem  # a key of the training


def test_standard_input_is_read_lazily() -> None:
    read = []

    def pipe() -> Iterator[bytes]:
        for number in range(1_000_000):
            read.append(number)
            yield b"%d\n" % number

    inputs = read_inputs([], "text", pipe())
    assert [next(inputs), next(inputs)] == [ModelInput("0"), ModelInput("1")]
    assert len(read) == 2


def test_recordings_are_found_like_images(folder: Path) -> None:
    (folder / "pets" / "miaow.WAV").touch()
    assert [item.value for item in read_inputs(["pets"], "audio", [])] == ["pets/miaow.WAV"]
    assert find_problems(["empty", "miaou.wav"], "audio") == [
        "empty has no recording; recordings end in .wav, .wave",
        "there is no recording miaou.wav; name an existing file",
    ]
    (item,) = read_inputs([], "audio", [b"RIFF\0\0"])
    assert (item.problem or "").startswith("INPUT - is a recording, but must be a list of paths")
