"""A repository with one bug: its files, the issue that reports it, the gold edit and the hidden test cases.

Everything follows from the random generator passed in; equal seeds give equal tasks on every machine. A task is kept only if the bug
changes the result of a test call, the fix is a change of one line, and one plain ``sed`` substitution makes it (no character that sed
would read as a pattern).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from swerl.data.generate.families import FAMILIES, FILES, NOUNS, VERBS, Function

Split = Literal["train", "val"]
# Text to the left of the change that makes the first match on the line the right one.
LEFT_CONTEXTS = ("", " ", "> ", ", ", "= ", "range(1, ", "* ", "+ ", "- ", "return ")
RIGHT_CONTEXTS = ("", ")")


@dataclass(frozen=True, slots=True)
class Size:
    """How large repositories are: the weight of each number of functions, and how often the sound ones lie in a second file."""

    functions: Mapping[int, float]
    second_file_share: float = 0.5


SIZES: Mapping[str, Size] = MappingProxyType(
    {"small": Size({1: 0.65, 2: 0.30, 3: 0.05}), "large": Size({3: 0.30, 4: 0.30, 5: 0.25, 6: 0.15}, second_file_share=0.25)}
)

# Seeds of the sets that one demo uses. Val is the same whatever a run's or a policy's seed, so that runs are compared on the same tasks.
TOKENIZER_SEED = 11
DEMONSTRATION_SEED = 1000
VAL_SEED = 2000
TRAIN_SEED = 7000
NUM_VAL = 64
NUM_TRAIN = 1024


@dataclass(frozen=True, slots=True)
class Case:
    """One hidden assertion: ``module.function(*args) == expected`` (``args`` and ``expected`` as Python source)."""

    module: str
    function: str
    args: str
    expected: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One line changed by ``sed -i '<line>s/<old>/<new>/' <file>``."""

    line: int
    old: str
    new: str

    def command(self, file: str) -> str:
        return f"sed -i '{self.line}s/{self.old}/{self.new}/' {file}"


@dataclass(frozen=True, slots=True)
class RepairTask:
    """``files`` as the agent finds them; ``gold`` the text of ``file`` after the fix; ``near_misses`` edits of the right line that do not
    fix it."""

    file: str
    files: dict[str, str]
    gold: str
    issue: str
    edit: Edit
    near_misses: tuple[Edit, ...]
    cases: tuple[Case, ...]
    family: str
    kind: str
    num_functions: int

    @property
    def code(self) -> str:
        """Text of the file that holds the bug."""
        return self.files[self.file]

    @property
    def key(self) -> str:
        """Hash of the repository with its bug; a set holds each repository once."""
        text = "\0".join(f"{name}\0{code}" for name, code in sorted(self.files.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def make_tasks(seed: int, number: int, split: Split, size: str = "small") -> list[RepairTask]:
    """``number`` different repositories of one split and one of ``SIZES``; a longer list with the same seed starts with the shorter one."""
    rng = random.Random(seed)
    tasks: dict[str, RepairTask] = {}
    while len(tasks) < number:
        task = make_task(rng, split, SIZES[size])
        tasks.setdefault(task.key, task)
    return list(tasks.values())


def make_task(rng: random.Random, split: Split, size: Size = SIZES["small"]) -> RepairTask:
    """The next task that ``rng`` yields for ``split``; draws until one is fit."""
    while True:
        task = _draw(rng, split, size)
        if task is not None:
            return task


def split_of(function: Function) -> Split:
    """A body belongs to one split, whatever name or bug it is given: a quarter of all bodies is held out."""
    text = "\n".join(function.lines("f"))
    return "val" if hashlib.sha256(text.encode()).digest()[0] % 4 == 0 else "train"


def _draw(rng: random.Random, split: Split, size: Size) -> RepairTask | None:
    number = rng.choices(list(size.functions), list(size.functions.values()))[0]
    functions = [_function(rng, family, split) for family in rng.sample(FAMILIES, number)]
    names = _names(rng, number)
    buggy = rng.randrange(number)
    function, name = functions[buggy], names[buggy]
    index = rng.randrange(len(function.slots))
    slot = function.slots[index]
    good, bad = tuple(function.lines(name)), tuple(function.lines(name, function.filled(index, slot.bad)))
    failing = [call for call in function.calls if _result(good, name, call) != _result(bad, name, call)]
    if not failing:
        return None

    # The buggy function's file holds all functions, or it alone while the others lie in a second file.
    file, other_file = (f"{stem}.py" for stem in rng.sample(FILES, 2))
    apart = number > 1 and rng.random() < size.second_file_share
    here = [buggy] if apart else list(range(number))
    first_line = sum(len(functions[i].lines(names[i])) + 1 for i in here if i < buggy)
    edit = _edit(bad, good, slot.bad, slot.good, first_line)
    if edit is None:
        return None

    sources = {i: list(bad if i == buggy else functions[i].lines(names[i])) for i in range(number)}
    files = {file: _module(sources[i] for i in here)}
    gold = _module(good if i == buggy else sources[i] for i in here)
    if apart:
        files[other_file] = _module(sources[i] for i in range(number) if i != buggy)
    misses = (_edit(bad, tuple(function.lines(name, function.filled(index, text))), slot.bad, text, first_line) for text in slot.near)
    cases = tuple(
        Case(
            (file if i in here else other_file)[:-3], names[i], _source(call), _result(tuple(functions[i].lines(names[i])), names[i], call)
        )
        for i in range(number)
        for call in functions[i].calls
    )
    call = failing[0]
    issue = f"{name}({_source(call)}) in {file} returns {_result(bad, name, call)}, expected {_result(good, name, call)}."
    return RepairTask(file, files, gold, issue, edit, tuple(m for m in misses if m), cases, function.family, slot.kind, number)


def _function(rng: random.Random, family: Any, split: Split) -> Function:
    while True:
        function = family(rng)
        if split_of(function) == split:
            return function


def _names(rng: random.Random, number: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < number:
        names[f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"] = None
    return list(names)


def _module(sources: Any) -> str:
    return "\n\n".join("\n".join(lines) for lines in sources) + "\n"


def _source(call: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in call)


def _result(lines: tuple[str, ...], name: str, call: Sequence[Any]) -> str:
    """What the call gives, as Python source; the type of the exception where it raises (only a bug can)."""
    try:
        return repr(_compiled(lines, name)(*copy.deepcopy(call)))
    except (ArithmeticError, LookupError, TypeError) as error:
        return type(error).__name__


@functools.lru_cache(maxsize=4096)
def _compiled(lines: tuple[str, ...], name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec("\n".join(lines), namespace)  # only text of this package's own templates comes here
    return namespace[name]


def _edit(before: Sequence[str], after: Sequence[str], old: str, new: str, first_line: int) -> Edit | None:
    """The shortest plain substitution that turns ``before`` into ``after`` (one line differs), or None if sed would misread all of them."""
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    if len(changed) != 1:
        return None
    at = changed[0]
    for left in LEFT_CONTEXTS:
        for right in RIGHT_CONTEXTS:
            pattern, replacement = f"{left}{old}{right}", f"{left}{new}{right}"
            if _plain(pattern, replacement) and before[at].replace(pattern, replacement, 1) == after[at]:
                return Edit(first_line + at + 1, pattern, replacement)
    return None


def _plain(pattern: str, replacement: str) -> bool:
    """Whether sed takes both texts literally (a star is literal only as the pattern's first character)."""
    return not set(pattern[1:] if pattern.startswith("*") else pattern) & set("/'\"[]*.^$\\") and not set(replacement) & set("/'\"&\\")
