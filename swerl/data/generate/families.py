"""The functions that repositories are made of, and the bugs that each can have, as data.

A ``Function`` is a template: ``{0}``, ``{1}``, ... in its body stand for its slots. Every slot holding its ``good`` text gives the right
function; one slot holding its ``bad`` text gives the function with one bug. ``near`` are wrong texts too, none equal to ``bad``: what a
careless repair would write.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VERBS = _words("keep pick find make calc read scan take sift load push pull rank fold trim tally")
NOUNS = _words("rows cells items notes files marks tags nodes bins jobs keys parts lines units seats coins logs cards steps slots")
# None of these may be a module of the standard library: the hidden tests import by file, but the agent's shell stands in this directory.
FILES = _words("util core helpers data tool score misc base text grid")
LISTS = _words("xs vals data seq nums")
NAMES = _words("a b x y p q m n u w")
TOTALS = _words("total acc out")
COMPARISONS = {">": "greater than", "<": "less than", ">=": "at least", "<=": "at most"}
ARITHMETIC = {"+": "Sum of {a} and {b}.", "-": "Subtract {b} from {a}.", "*": "Product of {a} and {b}."}
DIGITS = tuple(range(1, 10))


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in a body that can be wrong."""

    kind: str
    good: str
    bad: str
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A function template without a name. ``calls`` are argument lists; their right results are what the hidden tests expect."""

    family: str
    args: tuple[str, ...]
    doc: str
    body: tuple[str, ...]
    slots: tuple[Slot, ...]
    calls: tuple[Sequence[Any], ...]

    def lines(self, name: str, fill: Sequence[str] | None = None) -> list[str]:
        """Source lines of the function called ``name``; ``fill`` gives the text of every slot (default: all good)."""
        texts = [slot.good for slot in self.slots] if fill is None else fill
        head = [f"def {name}({', '.join(self.args)}):", f'    """{self.doc}"""']
        return head + ["    " + line.format(*texts) for line in self.body]

    def filled(self, index: int, text: str) -> list[str]:
        """All good except slot ``index``, which holds ``text``."""
        return [text if i == index else slot.good for i, slot in enumerate(self.slots)]


def _slot(rng: random.Random, kind: str, good: Any, choices: Iterable[Any]) -> Slot:
    """A slot whose wrong texts are the other ``choices``, one of them (by ``rng``) the injected bug."""
    others = [str(choice) for choice in choices if str(choice) != str(good)]
    rng.shuffle(others)
    return Slot(kind, str(good), others[0], tuple(others[1:]))


def _two(rng: random.Random) -> list[str]:
    return rng.sample(NAMES, 2)


def keep_if(rng: random.Random) -> Function:
    xs, sign, k = rng.choice(LISTS), rng.choice(list(COMPARISONS)), rng.choice(DIGITS)
    slots = (_slot(rng, "wrong_comparison", sign, COMPARISONS), _slot(rng, "wrong_constant", k, DIGITS))
    calls = ([list(range(11))], [[k, k + 1, k - 1]], [[]], [[9, 3, 6, 1]])
    return Function(
        "keep_if", (xs,), f"Keep values {COMPARISONS[sign]} {k}.", (f"return [v for v in {xs} if v {{0}} {{1}}]",), slots, calls
    )


def arithmetic(rng: random.Random) -> Function:
    a, b = _two(rng)
    sign = rng.choice(list(ARITHMETIC))
    slots = (_slot(rng, "wrong_operator", sign, ARITHMETIC), Slot("wrong_variable", b, a))
    return Function(
        "arithmetic", (a, b), ARITHMETIC[sign].format(a=a, b=b), (f"return {a} {{0}} {{1}}",), slots, ([7, 3], [2, 5], [9, 4], [1, 8])
    )


def affine(rng: random.Random) -> Function:
    a = rng.choice(NAMES)
    k, c = rng.sample(range(2, 10), 2)
    slots = (_slot(rng, "wrong_constant", k, range(2, 10)), Slot("wrong_operator", "+", "-"), _slot(rng, "wrong_constant", c, range(2, 10)))
    return Function("affine", (a,), f"Multiply {a} by {k} and add {c}.", (f"return {a} * {{0}} {{1}} {{2}}",), slots, ([1], [3], [5], [8]))


def sum_to(rng: random.Random) -> Function:
    n, total = rng.choice(NAMES), rng.choice(TOTALS)
    slots = (
        Slot("wrong_constant", "0", "1", ("2",)),
        _slot(rng, "off_by_one", " + 1", (" + 2", " - 1")),
        Slot("wrong_operator", "+=", "-=", ("*=",)),
    )
    body = (f"{total} = {{0}}", f"for i in range(1, {n}{{1}}):", f"    {total} {{2}} i", f"return {total}")
    return Function("sum_to", (n,), f"Add the numbers from 1 to {n}.", body, slots, ([1], [4], [6], [3]))


def extreme(rng: random.Random) -> Function:
    a, b = _two(rng)
    good, bad, word = rng.choice((("max", "min", "Larger"), ("min", "max", "Smaller")))
    slots = (Slot("wrong_function", good, bad), Slot("wrong_variable", b, a))
    return Function("extreme", (a, b), f"{word} of {a} and {b}.", (f"return {{0}}({a}, {{1}})",), slots, ([2, 7], [7, 2], [5, 9], [9, 5]))


def member(rng: random.Random) -> Function:
    a, xs = rng.choice(NAMES), rng.choice(LISTS)
    good, bad, words = ("not in", "in", "missing from") if rng.random() < 0.6 else ("in", "not in", "present in")
    doc = f"True if {a} is {words} {xs}."
    return Function(
        "member",
        (a, xs),
        doc,
        (f"return {a} {{0}} {xs}",),
        (Slot("missing_negation", good, bad),),
        ([1, [1, 2]], [3, [1, 2]], [5, []], [2, [2]]),
    )


def power(rng: random.Random) -> Function:
    a, b = _two(rng)
    base, exponent = rng.choice(((a, b), (b, a)))
    slot = Slot("swapped_args", f"{base}, {exponent}", f"{exponent}, {base}", (f"{base}, {base}",))
    return Function(
        "power", (a, b), f"Raise {base} to the power {exponent}.", ("return pow({0})",), (slot,), ([2, 3], [3, 2], [5, 1], [1, 4])
    )


def ends(rng: random.Random) -> Function:
    xs, k = rng.choice(LISTS), rng.randint(2, 5)
    word, code = rng.choice((("First", "[:{0}]"), ("Last", "[-{0}:]")))
    slot = _slot(rng, "off_by_one", k, (k - 1, k, k + 1))
    calls = ([[1, 2, 3, 4, 5, 6, 7]], [[9, 8, 7, 6, 5, 4, 3, 2]], [[3, 1, 4, 1, 5, 9, 2]])
    return Function("ends", (xs,), f"{word} {k} of {xs}.", (f"return {xs}{code}",), (slot,), calls)


def clamp(rng: random.Random) -> Function:
    x = rng.choice(NAMES)
    low, high = rng.choice((("lo", "hi"), ("low", "high"), ("least", "most")))
    slots = (
        Slot("wrong_comparison", "<", ">"),
        Slot("wrong_variable", low, high),
        Slot("wrong_comparison", ">", "<"),
        Slot("wrong_variable", high, low),
    )
    body = (f"if {x} {{0}} {low}:", "    return {1}", f"if {x} {{2}} {high}:", "    return {3}", f"return {x}")
    calls = ([1, 3, 7], [9, 3, 7], [5, 3, 7], [4, 2, 8])
    return Function("clamp", (x, low, high), f"Limit {x} to {low} and {high}.", body, slots, calls)


def both_or_either(rng: random.Random) -> Function:
    a, b = _two(rng)
    good, bad, doc = rng.choice((("and", "or", f"Both {a} and {b} positive."), ("or", "and", f"Either {a} or {b} positive.")))
    return Function(
        "both_or_either",
        (a, b),
        doc,
        (f"return {a} > 0 {{0}} {b} > 0",),
        (Slot("wrong_boolean", good, bad),),
        ([1, 2], [1, -2], [-1, 2], [-3, -4]),
    )


def count(rng: random.Random) -> Function:
    xs, k, total = rng.choice(LISTS), rng.choice(DIGITS), rng.choice(TOTALS)
    slots = (
        Slot("wrong_constant", "0", "1", ("2",)),
        Slot("wrong_comparison", "==", "!=", (">=", "<=")),
        _slot(rng, "wrong_constant", k, DIGITS),
    )
    body = (f"{total} = {{0}}", f"for v in {xs}:", "    if v {1} {2}:", f"        {total} += 1", f"return {total}")
    return Function("count", (xs,), f"Count how often {k} is in {xs}.", body, slots, ([[k, k, 0]], [list(DIGITS)], [[k]], [[0, 10]]))


FAMILIES: tuple[Callable[[random.Random], Function], ...] = (
    keep_if,
    arithmetic,
    affine,
    sum_to,
    extreme,
    member,
    power,
    ends,
    clamp,
    both_or_either,
    count,
)
