"""Messages of the library name arguments of Python; a reader at the terminal gets the options that they are.

In messages an argument is written as in a call: `top_k=0`, or `labels=[…]` and `genes=…` where no value is meant. A
parameter of a command has the name of the argument that it fills, so nothing else is needed to find its option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Values stand for themselves, `…` and words in capitals for something. What is quoted is the user's own text.
_ARGUMENT = re.compile(
    r"""(?<!\w)'[^']*' | "[^"]*"
    | (?<![\w./=-]) (?P<name>[a-z_]+)
      = (?P<value> … | \[…\] | '[^']*' | "[^"]*" | \([^()]*\) | True | False | None | -?(?:inf|nan|[\d.e+-]*\d)
          | [A-Z]+ )
      (?=[\s,;)]|$)""",
    re.VERBOSE,
)
_NO_VALUE = ("…", "[…]", "True")
_LEFT_OUT = ("False", "None")


def as_options(message: str, options: Mapping[str, str]) -> str:
    """Return a message with arguments as options: `top_k=0` becomes `--top-k 0`, `labels=[…]` `--label`.

    Parameters
    ----------
    message
        As the library words it.
    options
        The option of each argument; others are left as they are.
    """

    def named(match: re.Match[str]) -> str:
        option, value = options.get(match["name"] or ""), match["value"]
        if option is None or value in _LEFT_OUT:
            return match[0]
        return option if value in _NO_VALUE else f"{option} {value}"

    return _ARGUMENT.sub(named, message)


def options_of(command: Any, arguments: Sequence[str]) -> dict[str, str]:
    """Return the option of each parameter of the command that is being run.

    Parameters
    ----------
    command
        The whole program, as typer makes it.
    arguments
        What was typed behind its name.
    """
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if parameter.param_type_name == "option"
    }
