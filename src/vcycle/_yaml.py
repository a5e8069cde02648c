"""YAML as people write it: ``1e-3`` is a number, which YAML 1.1 would read as a word."""

import re
from typing import Any

import yaml

FLOAT = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+|inf|Inf|nan|NaN)$")
"""Numbers of Python and of YAML 1.2 that the resolver of YAML 1.1 does not know."""


class Loader(yaml.SafeLoader):
    """Reads plain data only, and more numbers."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789iInN"))


def read(text: str) -> Any:
    """Read one YAML document.

    Raises
    ------
    ValueError
        If the text is not YAML; the message is one line.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
