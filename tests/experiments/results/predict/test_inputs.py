"""Words of a command line and lines of a pipe become inputs, or are told to be none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.results.predict.inputs import Given, each_given, leaves_out, problems_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets" / "more").mkdir(parents=True)
    for name in ("pets/dog.png", "pets/cat.JPG", "pets/more/ant.gif", "pets/notes.txt", "own.image"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def values(*words: str, pipe: bytes = b"") -> list[str]:
    return [given.value for given in each_given(words, "image", pipe.splitlines(keepends=True))]


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


def test_words_that_name_no_image_are_told_all_at_once(folder: Path) -> None:
    assert problems_of(["pets/dogg.png", "empty", "pets/*.bmp", "nowhere/x.png", "pets", "-", "-"], "image") == [
        "there is no image pets/dogg.png; did you mean 'dog.png'?",
        "empty has no image; images end in .jpg, .jpeg, .png, .bmp, .gif, .tif, .tiff, .webp",
        "pets/*.bmp matches no file; write another pattern",
        "there is no image nowhere/x.png, as there is no folder nowhere; name a file that is there",
        "INPUT - stands twice, and a pipe is read once; leave one out",
    ]
    assert problems_of(["pets", "own.image", "-"], "image") == []


def test_answers_of_before_are_no_inputs(folder: Path) -> None:
    found = list(
        each_given(["pets", "pets/*/*.gif", "pets/more/ant.gif", "-"], "image", [b"pets/*g\n"], Path("pets/more"))
    )
    assert [given.value for given in found] == [
        "pets/cat.JPG", "pets/dog.png", "pets/more/ant.gif", "pets/dog.png",
    ]  # fmt: skip
    assert leaves_out(["own.image", "pets"], Path("pets/more"))
    assert not leaves_out(["own.image", "pets"], Path("pets/new"))
    assert not leaves_out(["pets/more"], Path("empty"))
    assert problems_of(["pets", "pets/*.png"], "image", folder / "pets") == [
        f"the images of {word} lie in -o {folder}/pets, which is not read, as former answers lie there; name another folder "
        "for -o"
        for word in ("pets", "pets/*.png")
    ]
    assert problems_of(["pets", "pets/*.png"], "image", Path("pets/more")) == []
    assert problems_of(["empty"], "image", Path("empty"))[0].startswith("empty has no image;")


@pytest.mark.parametrize("image", [b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xd8\xff\xe0\0", b"BM\x36\0\n\n"])
def test_an_image_in_a_pipe_is_told_once(folder: Path, image: bytes) -> None:
    pipe = [b"own.image\n", *image.splitlines(keepends=True), b"pets\n"]
    assert list(each_given([], "image", pipe)) == [
        Given("own.image"),
        Given("-", "INPUT - is an image itself, and wants paths, a line each; name the file instead of `-`"),
    ]


@pytest.mark.parametrize("word", ["x" * 300 + ".png", "~nobody_of_that_name/x.png"])
def test_a_word_that_the_system_refuses_is_told(folder: Path, word: str) -> None:
    (told,) = problems_of([word], "image")
    assert told.startswith(f"{word} cannot be looked at (")
    assert [given.fault for given in each_given([], "image", [word.encode()])] == [told]


def test_a_line_that_is_no_input_leaves_the_others(folder: Path) -> None:
    found = list(each_given(["-"], "image", [b"own.imag\n", b"\n", b"own.image\n"]))
    assert [given.fault for given in found] == [
        "there is no image own.imag; name a file that is there",
        "line 2 of the input is empty; write a path",
        None,
    ]


def test_texts_are_what_they_are_wherever_they_come_from(folder: Path) -> None:
    found = list(each_given(["pets", "-", "a = b"], "text", ["Zoë \n".encode(), b"\xff\n", b"\n"]))
    assert [given.value for given in found if given.fault is None] == ["pets", "Zoë ", "a = b"]
    assert [given.fault for given in found if given.fault] == [
        "line 2 of the input is no UTF-8 (invalid start byte); convert it with `iconv`",
        "line 3 of the input is empty; write a text",
    ]
    assert problems_of(["a", ""], "text") == ["INPUT='' is empty; write a text, or leave it out"]


def test_a_pipe_is_read_when_its_lines_are_asked_for() -> None:
    read = []

    def pipe() -> Iterator[bytes]:
        for number in range(1_000_000):
            read.append(number)
            yield b"%d\n" % number

    found = each_given([], "text", pipe())
    assert [next(found), next(found)] == [Given("0"), Given("1")]
    assert len(read) == 2
