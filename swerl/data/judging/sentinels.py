"""Sentinels: copies of test files in which every test asks for something else than the original does.

`twin` returns the text of a test file with each test function changed in one place, and their names. What holds of code that is run
as it stands: a test and its twin do not both pass. A literal expectation becomes another of its kind (5 becomes 7, so that neither of
the two looks like the right one), any other expected value an object equal to nothing, a plain condition its opposite; a test without an
assertion that is sure to be reached fails at its start. So whoever reports both as passed has not run them, or has made assertions
meaningless, or answers with whatever is expected.
"""

import ast
import re

# Comparing helpers of a task's own, by name: check(f(2), 5), assert_eq(...), expect_equal(...).
_HELPER = re.compile(r"_?(?:assert|check|expect|verify)(?:_?(?:equals?|eq|same|is|result|value|output|returns))*", re.IGNORECASE)
_OPPOSITE = {
    "assertTrue": "assertFalse",
    "assertIn": "assertNotIn",
    "assertIs": "assertIsNot",
    "assertIsNone": "assertIsNotNone",
    "assertIsInstance": "assertNotIsInstance",
}
_OPPOSITE.update({right: left for left, right in list(_OPPOSITE.items())})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_HAS_ENDS = "end_col_offset" in getattr(ast.expr, "_attributes", ())  # Python 3.8; before it, only the start of a test is known


def twin(source, draw):
    """(changed text, names of its test functions) with choices from ``draw`` (random.Random); None: no Python, or no test."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    lines = re.findall(r"[^\n]*\n|[^\n]+", source)
    starts, at = [], 0
    for line in lines:
        starts.append(at)
        at += len(line.encode("utf-8"))

    def place(line, column):
        return starts[line - 1] + column

    edits, names = [], set()
    for function in _tests(tree):
        choices = _choices(function, place, draw, source.encode("utf-8")) if _HAS_ENDS else []
        edits.append(draw.choice(choices) if choices else _fails_at_once(function, place, lines))
        names.add(function.name)
    if not edits:
        return None
    data = source.encode("utf-8")
    for begin, end, new in sorted((piece for edit in edits for piece in edit), reverse=True):
        data = data[:begin] + new.encode("utf-8") + data[end:]
    changed = data.decode("utf-8")
    try:
        ast.parse(changed)
    except SyntaxError:  # a layout that the edits above do not know: no sentinel is better than a broken one
        return None
    return changed, names


def _tests(tree):
    """Test functions at the top of the module and in its classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _FUNCTIONS) and node.name.startswith("test"):
            yield node
        elif isinstance(node, ast.ClassDef):
            for found in _tests(node):
                yield found


def _fails_at_once(function, place, lines):
    body = function.body
    first = body[1] if len(body) > 1 and _is_text(body[0]) else body[0]
    line = min([first.lineno] + [node.lineno for node in getattr(first, "decorator_list", [])])
    if first.lineno == function.lineno:  # def test(): pass
        return [(place(first.lineno, first.col_offset),) * 2 + ("raise AssertionError; ",)]
    indent = re.match(r"[ \t]*", lines[line - 1]).group()
    return [(place(line, 0),) * 2 + (indent + "raise AssertionError\n",)]


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", getattr(node.value, "s", None)), str)


def _choices(function, place, draw, data):
    """The edits of which each alone makes a passing test fail: at assertions that are reached if the test ends."""
    found = []
    for node in function.body:
        if isinstance(node, ast.Assert):
            edit = _of_assert(node.test, place, draw)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            edit = _of_call(node.value, place, draw, data)
        else:
            edit = None
        if edit:
            found.append(edit)
        if _may_return(node):
            break
    return found


def _may_return(node):
    if isinstance(node, ast.Return):
        return True
    if isinstance(node, _FUNCTIONS + (ast.ClassDef, ast.Lambda)):
        return False
    return any(_may_return(below) for below in ast.iter_child_nodes(node))


def _span(node, place):
    return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)


def _of_assert(test, place, draw):
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        edit = _other_expectation([test.comparators[0], test.left], place, draw)
        if edit:
            return edit
    begin, end = _span(test, place)
    return [(begin, begin, "not ("), (end, end, ")")]


def _of_call(call, place, draw, data):
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    if any(isinstance(value, ast.Starred) for value in call.args) or not call.args:
        return None
    if name in _OPPOSITE:
        end = place(function.end_lineno, function.end_col_offset)
        begin = end - len(name.encode("utf-8"))
        return [(begin, end, _OPPOSITE[name])] if data[begin:end] == name.encode("utf-8") else None
    if len(call.args) < 2:
        return None
    if name.startswith("assert") and re.search("Equals?$", name) and "Not" not in name and "Almost" not in name:
        return _other_expectation([call.args[1], call.args[0]], place, draw)
    if _HELPER.fullmatch(name) and not isinstance(getattr(call.args[1], "value", None), str):
        literal = _literal(call.args[1], draw)
        if literal and not _literal(call.args[0], draw):
            return _replaced(literal, place)
    return None


def _other_expectation(sides, place, draw):
    literals = [literal for literal in (_literal(side, draw) for side in sides) if literal]
    if len(literals) == 2:  # two literals: whatever it is about, it is not about the code
        return None
    if literals:
        return _replaced(literals[0], place)
    begin, end = _span(sides[0], place)
    return [(begin, end, "object()")]


def _replaced(literal, place):
    node, new = literal
    begin, end = _span(node, place)
    return [(begin, end, new)]


def _literal(node, draw):
    """(constant inside, its new text) of a literal; None for what is none."""
    if isinstance(node, ast.Constant):
        return node, _other(node.value, draw)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _literal(node.operand, draw)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        if not node.elts:
            return node, "[0]" if isinstance(node, ast.List) else "(0,)"
        parts = node.elts
    elif isinstance(node, ast.Dict):
        if not node.values:
            return node, "{0: 0}"
        parts = node.values
    else:
        return None
    found = [literal for literal in (_literal(part, draw) for part in parts) if literal]
    return draw.choice(found) if found and len(found) == len(parts) else None


def _other(value, draw):
    if isinstance(value, bool):
        return repr(not value)
    if isinstance(value, int):
        return repr(value + draw.choice((1, 2, 3)))
    if isinstance(value, float):
        return repr(value + 1 + draw.random() if abs(value) < 1e9 else value * 2)
    if isinstance(value, complex):
        return "(%r)" % (value + 1)
    if isinstance(value, str):
        return repr(value[:-1] + _letter(value[-1:], draw))
    if isinstance(value, bytes):
        return repr(value[:-1] + _letter(value[-1:].decode("latin-1"), draw).encode("latin-1"))
    return "0"  # None and the ellipsis


def _letter(old, draw):
    return draw.choice([letter for letter in "aeinorst" if letter != old])
