"""
The command `granulon`: a verb is a file of this folder that holds a `command`; there is no list to add it to.

What a verb needs beyond the parser (torch, transformers) is imported when the verb runs. The console script enters by
the import name `granulon_cli`, under which the same folder is installed, since `import granulon` imports transformers
to register the Auto classes: so `--help`, `--version`, completion and a wrong option answer at once.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from ._faults import explain, one_line


class _Verbs(Mapping[str, click.Command]):
    """Verb -> its command; `train-controller` is in train_controller.py. Files with an underscore are no verbs."""

    def __iter__(self) -> Iterator[str]:
        names = sorted(module.name for module in pkgutil.iter_modules(__path__))
        return (name.replace("_", "-") for name in names if not name.startswith("_"))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, verb: str) -> click.Command:
        if verb not in list(self):
            raise KeyError(verb)
        return importlib.import_module(f".{verb.replace('-', '_')}", __name__).command


_EPILOG = """\b
Exit status: 0; 1 after a failure; 2 for a command that is wrong; 130 after Ctrl-C.
Completion in bash (likewise zsh_source, fish_source):
  eval "$(_GRANULON_COMPLETE=bash_source granulon)\""""
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
_VERBS: Any = _Verbs()  # click asks for a mapping that can change


@click.group(commands=_VERBS, invoke_without_command=True, context_settings=_SETTINGS, epilog=_EPILOG)
@click.version_option(package_name="granulon", message="%(prog)s %(version)s")
@click.option("--traceback", is_flag=True, help="Show where a failure arose, for a bug report.")
@click.pass_context
def _granulon(context: click.Context, traceback: bool) -> None:
    """A pixel-level vision encoder as the eyes of a language model, at the granularity the question asks for."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one verb, of the process's own arguments by default.

    Returns:
        the exit status: 0; 1 after a failure and 2 for a command that is wrong, each one line on stderr; 130 after
        Ctrl-C. A fault of the program itself is raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    named = f"granulon {verb}" if verb in _VERBS else "granulon"
    try:
        status = _granulon.main(arguments, prog_name="granulon", standalone_mode=False)
    except click.Abort:
        return 130
    except click.UsageError as error:
        named = error.ctx.command_path if error.ctx else named
        click.echo(f"{named}: {one_line(error.format_message())} See `{named} --help`.", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"{named}: {one_line(error.format_message())}", err=True)
        return error.exit_code
    except Exception as error:
        reason = explain(error)
        if reason is None or arguments[:1] == ["--traceback"]:
            raise
        click.echo(f"{named}: {reason}", err=True)
        return 1
    return status if isinstance(status, int) else 0
