"""The command line: arguments from the signatures of :mod:`vcycle.commands`, one line and status 2 for wrong usage."""

import inspect
import json
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jsonargparse

from vcycle import __version__, _check
from vcycle.commands import COMMANDS
from vcycle.errors import CheckpointError, DataError, SolveError, lacks_memory

WRONG_USE = 2
INTERNAL = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells expect
TERMINATED = 143  # 128 + SIGTERM
RESUMABLE = ("demo", "generate", "train", "benchmark")


class UsageError(ValueError):
    """The words on the command line do not fit the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for wrong usage or unusable files, 130 when interrupted.

    Parameters
    ----------
    argv
        Words after the program's name; ``None`` takes them from the process.

    Returns
    -------
    int
        The exit status. Nothing is raised for wrong usage: the reason is one line on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words in ([], ["--help"], ["-h"]):
        print(_overview())
        return 0 if words else WRONG_USE
    if words == ["--version"]:
        print(f"vcycle {__version__}")
        return 0
    name = words[0]
    debug = "--debug" in words
    try:
        return _run(name, words[1:])
    except KeyboardInterrupt:
        return _fail(name, _interrupted(name), INTERRUPTED)
    except SystemExit as stop:
        interrupted = isinstance(stop.__context__, KeyboardInterrupt)
        if not interrupted and stop.code is not None:
            raise
        # the training engine turns an interruption, and SIGTERM without any status, into an exit
        return _fail(name, _interrupted(name), INTERRUPTED if interrupted else TERMINATED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nobody is told twice
        return 0
    except OSError as error:
        return _fail(
            name, f"{error.filename}: {error.strerror}" if error.filename else str(error), WRONG_USE, debug=debug
        )
    except (ValueError, TypeError, DataError, CheckpointError, SolveError, FloatingPointError, ImportError) as error:
        return _fail(name, str(error), WRONG_USE, debug=debug)
    except (RuntimeError, LookupError, ArithmeticError, AttributeError, MemoryError) as error:
        return _fail(name, *_unforeseen(name, error), debug=debug)


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}.{_check.hint(name, COMMANDS)} Commands: {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    parser = _parser(name, command)
    if "--help" in words or "-h" in words:
        print(parser.format_help())
        return 0
    arguments = _parse(parser, command, words)
    as_json = arguments.pop("json")
    arguments.pop("debug")
    if "say" in inspect.signature(command).parameters:
        arguments["say"] = _say_on_stderr if as_json else _say
    outcome = command(**arguments)
    print(json.dumps(outcome.data, indent=2) if as_json else outcome.text)
    return outcome.status


def _say(line: str) -> None:
    print(line, flush=True)


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(name: str, reason: str, status: int, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    command = f" {name}" if name in COMMANDS else ""
    print(f"vcycle{command}: {' '.join(reason.split())}", file=sys.stderr)
    return status


def _interrupted(name: str) -> str:
    return "interrupted; run the same command to resume" if name in RESUMABLE else "interrupted"


def _unforeseen(name: str, error: Exception) -> tuple[str, int]:
    """Return reason and status; want of memory is no fault of ours."""
    if lacks_memory(error):
        return f"not enough memory. {_smaller(name)}", WRONG_USE
    return f"internal error, please report it ({type(error).__name__}: {error}); --debug shows where", INTERNAL


def _smaller(name: str) -> str:
    """Return what to ask for less of."""
    sizes = ("shape", "chunk_size", "workers", "model_args", "fit_args")
    there = [f"`{p.name}`" for p in _parameters(COMMANDS[name]) if p.name in sizes]
    return f"Choose smaller {', '.join(there)}." if there else "Use a machine with more, or data on a coarser grid."


def _overview() -> str:
    lines = [f"  {name:<10} {_summary(command)}" for name, command in COMMANDS.items()]
    usage = "usage: vcycle COMMAND [ARGUMENTS]   (vcycle COMMAND --help tells more; --version)"
    return "\n".join([usage, "", "Fast, trustworthy surrogates of parametric PDEs.", "", *lines])


# --------------------------------------------------------------------------------------- arguments from the signature


def _parser(name: str, command: Callable[..., Any]) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=f"vcycle {name}", description=_summary(command), allow_abbrev=False, exit_on_error=False, default_env=False
    )
    help_texts = _parameter_help(command)
    for parameter in _parameters(command):
        text = help_texts.get(parameter.name, "")
        required = parameter.default is inspect.Parameter.empty
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        flag = parameter.name if positional else f"--{parameter.name.replace('_', '-')}"
        settings: dict[str, Any] = {"help": text}
        if parameter.annotation is bool:
            settings["action"] = "store_true"
        elif parameter.annotation == list[str]:
            settings |= {"nargs": "*", "action": "extend", "default": []}  # said twice, both count
        else:
            settings["type"] = parameter.annotation
        if positional and not required:
            settings |= {"nargs": "?", "default": parameter.default}
        elif not positional and parameter.annotation is not bool and parameter.annotation != list[str]:
            settings |= {"required": True} if required else {"default": parameter.default}
        parser.add_argument(flag, **settings)
    parser.add_argument("--json", action="store_true", help="print the result for a program; progress goes to stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _parameters(command: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.name != "say"]


def _summary(command: Callable[..., Any]) -> str:
    return (inspect.getdoc(command) or "").split("\n", 1)[0].rstrip(".")


def _parameter_help(command: Callable[..., Any]) -> dict[str, str]:
    """Read the section ``Parameters`` of a numpydoc docstring."""
    texts: dict[str, list[str]] = {}
    current: str | None = None
    section = (inspect.getdoc(command) or "").partition("Parameters\n----------\n")[2]
    for line in section.split("\n\n")[0].splitlines():
        if line and not line.startswith(" "):
            current = line.strip()
            texts[current] = []
        elif current is not None:
            texts[current].append(line.strip())
    return {name: " ".join(lines).replace("%", "%%").replace("``", "") for name, lines in texts.items()}


# ------------------------------------------------------------------------------------------------ one line per mistake


def _parse(parser: jsonargparse.ArgumentParser, command: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    options = {f"--{p.name.replace('_', '-')}": p for p in _parameters(command)} | {"--json": None, "--debug": None}
    for word in words:
        flag = word.split("=", 1)[0]
        if flag.startswith("--") and flag not in options:
            raise UsageError(f"unknown argument {flag!r}.{_check.hint(flag, options)}")
    try:
        return vars(parser.parse_args(_tied(words, options)))
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise UsageError(_one_line(str(error), options, words)) from error


def _tied(words: list[str], options: dict[str, Any]) -> list[str]:
    """Tie numbers below zero to the options before them: the parser takes ``-1e-8`` for another option."""
    tied: list[str] = []
    for word in words:
        option = options.get(tied[-1]) if tied else None
        below_zero = re.match(r"-(?:[.\d]|inf|nan)", word) and option and option.annotation not in (bool, list[str])
        tied.append(f"{tied.pop()}={word}" if below_zero else word)
    return tied


def _one_line(message: str, options: dict[str, Any], words: list[str]) -> str:
    wrong_type = re.search(
        r'(?:Parser key|argument) "?(?:--)?([\w-]+)"?:.*(?:Got|Given) value: (.*)$', message, re.DOTALL
    )
    if wrong_type:
        name, value = wrong_type.group(1).replace("-", "_"), wrong_type.group(2).strip()
        parameter = options.get(f"--{name.replace('_', '-')}")
        if parameter is not None:
            hint = _check.hint(value, _choices(parameter.annotation))
            return f"`{name}` must be {_meaning(parameter.annotation)}. Got {value}.{hint}"
    missing = re.search(r"arguments are required: (.*)", message)
    if missing:
        return _missing(missing.group(1).strip(), options, words)
    bare = re.search(r"argument --([\w-]+): expected one argument", message)
    if bare:
        return f"`{bare.group(1).replace('-', '_')}` must have a value. Got none."
    extra = re.search(r"[Uu]nrecognized arguments: (.*)", message)
    if extra:
        return f"unexpected argument {extra.group(1).split()[0]!r}."
    return message


def _missing(names: str, options: dict[str, Any], words: list[str]) -> str:
    """Return what is missing, and where it may have gone."""
    given = {flag: parameter for flag, parameter in options.items() if parameter is not None}
    lists = [flag for flag, parameter in given.items() if parameter.annotation == list[str] and flag in words]
    without_flag = {p.name for p in given.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    swallowed = lists and without_flag & set(names.split(", "))
    remedy = f" Give it before {lists[0]}, which takes all words after it." if swallowed else ""
    return f"missing argument: {names}.{remedy}"


def _meaning(annotation: Any) -> str:
    if choices := _choices(annotation):
        return "one of " + ", ".join(choices)
    names = {int: "an integer", float: "a number", str: "a word", type(None): "null"}
    members = typing.get_args(annotation) or (annotation,)
    return " or ".join(names.get(member, str(member)) for member in members if member is not type(None))


def _choices(annotation: Any) -> list[str]:
    """Return the words of a ``Literal``, also of one that may be left out."""
    members = [annotation, *typing.get_args(annotation)]
    return [word for member in members if typing.get_origin(member) is Literal for word in typing.get_args(member)]


if __name__ == "__main__":
    raise SystemExit(main())
