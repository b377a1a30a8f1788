"""YAML from a stranger, looked at before it is read: what takes the machine's memory when its aliases are filled in."""

from __future__ import annotations

import yaml

from cvtasks.errors import ConfigError

LARGEST = 100_000
"""Values in one file, those of aliases counted wherever they stand; a whole configuration of ours has 150."""


def check_size(text: str, source: str) -> None:
    """Raise ConfigError where the text is too deep, or too large with its aliases (`*name`) filled in.

    Ten lines can stand for billions of values. Text that is not YAML is left to its reader.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise ConfigError(f"{source}: is nested too deeply for a configuration") from None
    except yaml.YAMLError:
        return
    waiting, count = [root], 0
    while waiting:
        node, count = waiting.pop(), count + 1
        if count > LARGEST:
            raise ConfigError(
                f"{source}: holds more than {LARGEST} values, aliases filled in; no configuration does"
            )
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
