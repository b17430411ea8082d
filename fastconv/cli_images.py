"""Commands for photographs and for those who learn: filter, receptive-field, step."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from fastconv.console import consoles, progress_bar, usage

#: Kernels of the command line that are two slopes: their magnitude is what is wanted.
_PAIRS = ("sobel", "prewitt", "scharr")


def _parameters(words: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise ValueError(f"--set: must look like sigma=2.5, got {word!r}")
        if name in found:
            raise ValueError(f"--set: {name} is given twice")
        for kind in (int, float, str):
            try:
                found[name] = kind(text)
                break
            except ValueError:
                continue
    return found


def _targets(files: tuple[Path, ...], out: Path, *, force: bool) -> list[Path]:
    """Return where the result of each file goes, all checked before the first one is computed."""
    from fastconv.image.files import format_of

    if len(files) > 1 or out.is_dir():
        if not out.is_dir():
            raise ValueError(f"--out: with several files it must be a directory that exists, got {out}")
        targets = [out / file.name for file in files]
    else:
        targets = [out]
    names = set()
    for file, target in zip(files, targets, strict=True):
        format_of(target)
        if target in names:
            raise ValueError(f"--out: two files would become {target}")
        names.add(target)
        if not target.parent.is_dir():
            raise ValueError(f"--out: {target.parent} is no directory")
        if target.exists() and not force:
            what = "the photograph itself" if target.resolve() == file.resolve() else "an existing file"
            raise ValueError(f"--out: {target} is {what}; --force replaces it")
    return targets


def _weights(kernel: str, parameters: dict[str, Any], others: tuple[str, ...] = ()) -> Any:
    """Return a kernel of the bank; `others` are names that are known too."""
    from fastconv import image

    if kernel not in image.KERNELS:
        names = sorted({*others, *image.KERNELS})
        near = get_close_matches(kernel, names, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"--kernel: {kernel!r} is unknown{meant}; there are {', '.join(names)}")
    return image.kernel(kernel, **parameters)


def _filter_of(
    kernel: str, mode: str, parameters: dict[str, Any], threads: int | None
) -> Callable[[Any], Any]:
    from fastconv import image

    if kernel in _PAIRS:
        if parameters:
            raise ValueError(f"--set: {kernel} has no parameters")
        return lambda pixels: (
            image.gradient(
                pixels, kernel, mode, dtype=pixels.dtype, direction=False, threads=threads
            ).magnitude
        )
    weights = _weights(kernel, parameters, _PAIRS)
    return lambda pixels: image.filter2d(pixels, weights, mode, threads=threads)


@click.command("filter")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--kernel", required=True, help="sobel, prewitt and scharr give edges; others: see above.")
@click.option("--set", "words", multiple=True, metavar="NAME=VALUE", help="A parameter of the kernel.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write; for several, a directory that exists.",
)
@click.option("--mode", default="reflect", show_default=True, help="What stands around the photograph.")
@click.option("--threads", type=click.IntRange(1), help="Most threads to use.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--megapixels", default=200.0, show_default=True, help="Refuse photographs with more, unread.")
def filter_command(
    files: tuple[Path, ...],
    kernel: str,
    words: tuple[str, ...],
    out: Path,
    mode: str,
    threads: int | None,
    force: bool,
    megapixels: float,
) -> int:
    """Filter photographs.

    \b
    fastconv filter photo.jpg --kernel sobel --out edges.png
    fastconv filter *.jpg --kernel gaussian --set sigma=3 --out blurred/
    fastconv filter photo.jpg --kernel gabor --set theta=0.8 --set normalise=l1 --out texture.png

    \b
    Kernels: sobel, prewitt, scharr (steepness of edges)
      sobel_x, sobel_y, prewitt_x, prewitt_y, scharr_x, scharr_y, vertical, horizontal
      laplacian, laplacian_8, identity, sharpen, box (size), gaussian (size, sigma), log (size, sigma)
      gabor (size, sigma, theta, lambd, gamma, psi, normalise: none, l1, zero-mean)
    Modes: reflect, mirror, nearest, wrap, constant.

    Results are rounded to the pixels of the photograph; negative ones become 0. Transparency is kept as it is where
    the format has it. Of an animation the first picture is read.
    """  # noqa: D301  # click reads the character, not its name
    from fastconv.image import files as pictures

    out_console, err = consoles()
    try:
        run = usage(_filter_of, kernel, mode, usage(_parameters, words), threads)
        targets = usage(_targets, files, out, force=force)
    except ImportError as missing:
        raise click.ClickException(str(missing)) from None
    failed = 0
    with progress_bar(err) as progress:
        task = progress.add_task(escape(kernel), total=len(files))
        for file, target in zip(files, targets, strict=True):
            try:
                photo = pictures.read(file, megapixels)
                y = usage(run, photo.pixels)
                pictures.write(target, y, photo.alpha, force=force)
            except (OSError, ValueError, MemoryError) as error:
                failed += 1
                reason = (
                    f"{error.filename or file}: {error.strerror}"
                    if isinstance(error, OSError) and error.strerror
                    else str(error) or type(error).__name__
                )
                err.print(f"[red]not done:[/] {escape(reason)}", soft_wrap=True)
            else:
                rows, columns = y.shape[:2]
                out_console.print(f"{target}: {rows} x {columns} pixels", markup=False, soft_wrap=True)
            progress.advance(task)
    return 1 if failed else 0


@click.command("receptive-field")
@click.argument("layers", nargs=-1, required=True)
@click.option("--size", metavar="ROWSxCOLUMNS", help="Of the image: adds the shape after each layer.")
def receptive_field_command(layers: tuple[str, ...], size: str | None) -> None:
    """Say what outputs of a stack of LAYERS see of the image.

    A layer is its kernel, then stride s, padding p and dilation d if they are not 1, 0 and 1; a pool without a stride
    has that of its window.

    \b
    fastconv receptive-field 3x3s1 3x3s1 pool2 3x3s1
    fastconv receptive-field 7x7s2p3 pool3s2p1 3x3p1 --size 224x224
    """  # noqa: D301  # click reads the character, not its name
    from fastconv import nn

    stack = [usage(_layer, word) for word in layers]
    shapes = None
    if size is not None:
        shapes = usage(nn.stack_shapes, usage(_size, "--size", size), stack)
    heads = ["layer", "receptive field", "jump", "start", *(["output"] if shapes else [])]
    table = Table(*heads, header_style="bold")
    for end in range(1, len(stack) + 1):
        field = nn.receptive_field(stack[:end])
        cells = [layers[end - 1], _both(field.size), _both(field.jump), _both(field.start)]
        table.add_row(*cells, *([_both(shapes[end])] if shapes else []))
    out, _ = consoles()
    out.print(table)
    out.print(
        "start: centre of what the first output sees; the first pixel has its centre at 0", soft_wrap=True
    )


@click.command("step")
@click.option(
    "--input",
    "input_size",
    default="7x7",
    show_default=True,
    metavar="ROWSxCOLUMNS",
    help="Size of the image.",
)
@click.option("--kernel", default="sobel_x", show_default=True, help="Of the kernel bank.")
@click.option("--set", "words", multiple=True, metavar="NAME=VALUE", help="A parameter of the kernel.")
@click.option("--at", default="0,0", show_default=True, metavar="ROW,COLUMN", help="The output to explain.")
@click.option("--stride", default=1, show_default=True, help="Pixels from one window to the next.")
@click.option("--padding", default=0, show_default=True, help="Pixels around the image, shown as dots.")
@click.option("--seed", default=0, show_default=True, help="Of the pixels, whole numbers from 0 to 9.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw it into this file (needs matplotlib).")
@click.option("--force", is_flag=True, help="Replace the picture if it exists.")
def step_command(
    input_size: str,
    kernel: str,
    words: tuple[str, ...],
    at: str,
    stride: int,
    padding: int,
    seed: int,
    picture: Path | None,
    force: bool,
) -> None:
    """Show how one output comes about: the window, the products, their sum.

    \b
    fastconv step --input 7x7 --kernel sobel_x --at 2,3
    fastconv step --kernel box --set size=5 --padding 2 --at 0,6 --picture step.png
    """  # noqa: D301  # click reads the character, not its name
    import numpy as np

    from fastconv import viz

    rows, columns = usage(_size, "--input", input_size)
    place = usage(_numbers, "--at", at, ",")
    weights = usage(_weights, kernel, usage(_parameters, words))
    if seed < 0:
        raise click.UsageError(f"--seed: must be at least 0, got {seed}")
    x = np.random.default_rng(seed).integers(0, 10, (rows, columns)).astype(np.float64)
    one = usage(viz.step, x, weights, place, stride, padding)
    if picture is not None and picture.exists() and not force:
        raise click.UsageError(f"--picture: {picture} exists; --force replaces it")
    out, _ = consoles()
    out.print("input", *(" ".join(f"{value:.0f}" for value in row) for row in x), sep="\n", markup=False)
    out.print()
    out.print(str(one), markup=False, soft_wrap=True)
    if picture is not None:
        try:
            viz.step_figure(one).savefig(picture)
        except (ImportError, OSError, ValueError) as error:
            raise click.ClickException(f"--picture: cannot write {picture}: {error}") from None


def _layer(word: str) -> Any:
    from fastconv import nn

    try:
        return nn.Layer.parse(word)
    except ValueError as error:
        raise ValueError(f"layer {word}: {error}") from None


def _numbers(option: str, text: str, sign: str) -> tuple[int, int]:
    first, _, second = text.partition(sign)
    try:
        return (int(first), int(second))
    except ValueError:
        raise ValueError(f"{option}: must be two whole numbers like 2{sign}3, got {text!r}") from None


def _size(option: str, text: str) -> tuple[int, int]:
    rows, columns = _numbers(option, text, "x")
    if rows < 1 or columns < 1 or rows * columns > 10**8:
        raise ValueError(f"{option}: must be from 1x1 to {10**8} pixels, got {text!r}")
    return rows, columns


def _both(values: tuple[float, float]) -> str:
    return f"{values[0]:g} x {values[1]:g}"


COMMANDS = (filter_command, receptive_field_command, step_command)
