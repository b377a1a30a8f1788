"""One check for the whole configuration: dataclasses of `config.schema` and signatures of `_target_`s alike.

Nothing is built here, and no data or weights are touched; constructors are imported to read their signatures.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from cvtasks.config.build import locate
from cvtasks.config.schema import Node, Range, Supplied
from cvtasks.config.suggest import did_you_mean
from cvtasks.errors import ConfigError

NOT_SET = "???"


class KeyConfigError(ConfigError):
    """Something is wrong with one key, which is named apart so that its origin can be found."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class UnknownKeyError(KeyConfigError):
    """There is no such key."""


def check(config: Mapping[str, Any], schema: type, *, without: Sequence[str] = ()) -> None:
    """Raise KeyConfigError for the first unknown key, missing key, or value of a wrong type or out of range.

    `without` names nodes that may be absent. Also holds `task.requires` against what the data set provides.
    """
    walk = _Walk()
    present = {key: value for key, value in config.items() if not (key in without and value is None)}
    walk.keys("", present, _dataclass_signature(schema), absent=without)
    for key in walk.unknown:
        near = did_you_mean(key, walk.legal, otherwise="; see cvtasks config")
        raise UnknownKeyError(key, f"there is no setting {key}{near}")
    for key, problem in walk.problems:
        raise KeyConfigError(key, f"{key}: {problem}")
    _check_requires(present)


def _check_requires(config: Mapping[str, Any]) -> None:
    task, dataset, evaluator = (config.get(name) for name in ("task", "dataset", "evaluator"))
    if dataset is None or evaluator is None:
        return
    provides = getattr(locate(dataset["_target_"]), "provides", None)
    if provides is None:
        return
    if task is not None:
        key, who, needs = "task.requires", f"task {task['name']}", task["requires"]
    else:  # another tool's predictions, whose evaluator goes by whether they are a folder
        path = config["predictions"]
        kind = "a folder" if Path(path).is_dir() else "which is no folder"
        key, who = "predictions", f"predictions={path}, {kind} (evaluator={evaluator['name']}),"
        needs = sorted(getattr(locate(evaluator["_target_"]), "judges", ()))
    lacking = [name for name in needs if name not in provides]
    # No data set has them: a method computes them, or a file of the user's holds them.
    if "proposals" in lacking:
        lacking.remove("proposals")
        if (config.get("proposals") or {}).get("name") == "none":
            problem = f"{who} needs proposals; choose a method (cvtasks list proposals)"
            raise KeyConfigError("proposals", f"none: {problem}")
    if lacking:
        problem = (
            f"{who} needs {', '.join(lacking)}, and dataset={dataset['name']} has only "
            f"{', '.join(sorted(provides))}; choose another dataset= (cvtasks list datasets)"
        )
        raise KeyConfigError(key, problem)


@dataclass
class _Signature:
    """The keys that a node may have, whatever says so."""

    hints: dict[str, Any]
    required: set[str]
    open: bool = False
    """Takes any further keys."""


@dataclass
class _Walk:
    legal: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def keys(
        self, path: str, values: Mapping[str, Any], takes: _Signature, absent: Sequence[str] = ()
    ) -> None:
        dot = f"{path}." if path else ""
        self.legal += [dot + name for name in takes.hints]
        for key, value in values.items():
            if key in takes.hints:
                self.value(f"{dot}{key}", value, takes.hints[key])
            elif not takes.open:
                self.unknown.append(f"{dot}{key}")
        for key in sorted(takes.required - values.keys() - set(absent)):
            self.problems.append((dot + key, f"is missing; it takes {describe(takes.hints[key])}"))

    def value(self, path: str, value: Any, hint: Any) -> None:
        """Check one value, and what is in it."""
        supplied = next((n.names for n in _notes(hint) if isinstance(n, Supplied)), ())
        plain = _bare(hint)
        inner = [h for h in _alternatives(plain) if h is not type(None)]
        if value is not None and len(inner) == 1:
            plain = _bare(inner[0])
        if isinstance(value, str) and value == NOT_SET:
            self.problems.append((path, f"is not set; type {path}=... ({describe(hint)})"))
        elif isinstance(value, str) and "${" in value:
            return  # not resolved yet, because something else is wrong
        elif isinstance(value, Mapping) and (_is_node(plain) or "_target_" in value):
            self.node(path, value, plain if _is_node(plain) else None, supplied)
        elif isinstance(value, Mapping) and (is_dataclass(plain) or is_typeddict(plain)):
            signature = _typed_dict_signature(plain) if is_typeddict(plain) else _dataclass_signature(plain)
            self.keys(path, value, signature)
        elif (
            isinstance(value, Mapping) and get_origin(plain) in (dict, Mapping) and len(get_args(plain)) == 2
        ):
            for key, item in value.items():
                if not fits(key, get_args(plain)[0]):  # YAML reads `on` as true, and `8` as a number
                    keys = (
                        "names, not {!r}; write it in quotes"
                        if get_args(plain)[0] is str
                        else "numbers, not {!r}"
                    )
                    self.problems.append((path, f"expected {keys.format(key)}"))
                self.legal.append(f"{path}.{key}")
                self.value(f"{path}.{key}", item, get_args(plain)[1])
        elif isinstance(value, list) and _is_list(plain) and len(get_args(plain)) in (1, 2):
            for i, item in enumerate(value):
                self.value(f"{path}[{i}]", item, get_args(plain)[0])
        elif not fits(value, hint):
            self.problems.append((path, _misfit(value, hint)))

    def node(self, path: str, node: Mapping[str, Any], own: Any, supplied: Sequence[str]) -> None:
        """Check a node with a `_target_` against its constructor, `own` keys apart."""
        takes = _dataclass_signature(own or Node)
        if not isinstance(node.get("_target_"), str):
            self.problems.append((f"{path}._target_", "is missing; it takes the constructor's dotted name"))
            return
        if own is None:
            takes.required.discard("name")
        try:
            arguments = _call_signature(locate(node["_target_"]))
        except ConfigError as error:
            self.problems.append((f"{path}._target_", str(error)))
            return
        hints = {name: hint for name, hint in arguments.hints.items() if name not in supplied}
        # A data set's `classes` may be the user's as well as the application's; `split` may not.
        self.keys(
            path,
            node,
            _Signature(
                hints | takes.hints, (arguments.required & hints.keys()) | takes.required, arguments.open
            ),
        )


def fits(value: Any, hint: Any) -> bool:
    """Does the annotation allow the plain value (of YAML)? An int is a float too, a bool is not an int."""
    hint = _named(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, args[0]) and all(_within(value, n) for n in args[1:] if isinstance(n, Range))
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in args)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in args)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool or hint is str or hint is int:
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    kind = origin or hint
    if kind in (Any, object) or not isinstance(kind, type):  # Any is a class from Python 3.11 on
        return True  # Any, a type variable, a missing annotation: nothing to hold it against
    if kind is tuple and args and args[-1] is not ...:
        return isinstance(value, list) and len(value) == len(args) and all(map(fits, value, args))
    if issubclass(kind, (list, tuple, set, frozenset)) or kind is Sequence:
        return isinstance(value, list) and (not args or all(fits(item, args[0]) for item in value))
    if kind in (dict, Mapping):
        return isinstance(value, Mapping) and (not args or all(fits(v, args[1]) for v in value.values()))
    # A class of ours or another's: only a node with a `_target_` makes one, and nodes do not come this way.
    return False


def describe(hint: Any) -> str:
    """The annotation in words: `an integer of at least 1 or null`."""
    hint = _named(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe(args[0]) + "".join(_limits(n) for n in args[1:] if isinstance(n, Range))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(each) for each in args)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        Any: "anything",
    }
    if hint in words:
        return words[hint]
    if origin is tuple and args[-1] is not ...:
        return f"a list of {len(args)}: {', '.join(describe(each) for each in args)}"
    if origin in (list, tuple, set, frozenset, Sequence):
        return f"a list, each {describe(args[0])}"
    if origin in (dict, Mapping) or is_dataclass(hint) or is_typeddict(hint):
        return "a mapping"
    return getattr(hint, "__name__", str(hint))


def _misfit(value: Any, hint: Any) -> str:
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    problem = f"expected {describe(hint)}, not {shown}"
    kinds = [_bare(each) for each in _alternatives(_bare(hint))]
    if isinstance(value, str):
        problem += did_you_mean(
            value, [str(c) for k in kinds if get_origin(k) is Literal for c in get_args(k)]
        )
        if _is_number(value) and (int in kinds or float in kinds):
            problem += f"; it was read as text: write {float(value)!r} without quotes"
    if not isinstance(value, list) and any(_is_list(k) and fits([value], k) for k in kinds):
        problem += f"; write [{value}]"
    return problem


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _within(value: Any, limits: Range) -> bool:
    # Written so that NaN is outside of any range.
    return (
        (limits.min is None or value >= limits.min)
        and (limits.max is None or value <= limits.max)
        and (limits.above is None or value > limits.above)
        and (limits.below is None or value < limits.below)
        and value == value
    )


def _limits(limits: Range) -> str:
    named = {
        "of at least": limits.min,
        "above": limits.above,
        "at most": limits.max,
        "below": limits.below,
    }
    words = [f"{word} {bound:g}" for word, bound in named.items() if bound is not None]
    return " " + " and ".join(words) if words else ""


def _named(hint: Any) -> Any:
    """What `type Name = ...` (Python 3.12) stands for."""
    return getattr(hint, "__value__", hint)


def _bare(hint: Any) -> Any:
    hint = _named(hint)
    return _bare(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _notes(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_list(hint: Any) -> bool:
    """A list whose items are all alike."""
    origin, args = get_origin(hint), get_args(hint)
    return origin in (list, set, frozenset, Sequence) or (origin is tuple and args[-1] is ...)


def _is_node(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Node)


def _dataclass_signature(kind: Any) -> _Signature:
    hints = get_type_hints(kind, include_extras=True)
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return _Signature({f.name: hints[f.name] for f in fields(kind)}, required)


def _typed_dict_signature(kind: Any) -> _Signature:
    return _Signature(get_type_hints(kind, include_extras=True), set(kind.__required_keys__))


def _call_signature(target: Callable[..., Any]) -> _Signature:
    """What a constructor takes by keyword, from its annotations."""
    function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # a plug-in's names that exist for type checkers only
        hints = {}
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = _Signature(
        {p.name: hints.get(p.name, Any) for p in named}, {p.name for p in named if p.default is p.empty}
    )
    for further in (hints.get(p.name, Any) for p in parameters if p.kind is p.VAR_KEYWORD):
        if get_origin(further) is Unpack:  # **options: Unpack[Options] are named, too
            options = _typed_dict_signature(get_args(further)[0])
            takes.hints |= options.hints
            takes.required |= options.required
        else:
            takes.open = True
    return takes
