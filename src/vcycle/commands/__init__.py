"""What each word on the command line does: one function per command, arguments as in its signature."""

from collections.abc import Callable

from vcycle.commands.making import check, convert, demo, generate, train
from vcycle.commands.shared import Outcome
from vcycle.commands.using import benchmark, certify, evaluate, export, info, predict

COMMANDS: dict[str, Callable[..., Outcome]] = {
    "demo": demo,
    "generate": generate,
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "certify": certify,
    "benchmark": benchmark,
    "convert": convert,
    "export": export,
    "info": info,
}

__all__ = ["COMMANDS", "Outcome"]
