"""The child process of `math_judge`: reads LaTeX and compares it with math-verify, one JSON line in, one out.

Started by its path, so that it imports neither jaxpost nor JAX. A question that takes too long is answered "timeout"; a loop
inside C code, which no signal interrupts, is ended by the parent, with the whole process.

What is judged here rather than by `math_verify.verify`, and the case that needs it:

  numbers    decimals are exact fractions (verify rounds to six digits: 0.0000001 and 0.0000002 are equal there)
  equations  equal if lhs - rhs are proportional (verify compares solutions: x^2 = -1 and x^2 = -4 have none, and are equal)
  values     what verify calls equal must agree relative to its size (verify: 10^{-20} pi and 10^{-21} pi are equal)
"""

import json
import random
import signal
import sys

JOINTS = ("\x1e", "\x1f")  # or, and: between inequalities
MEMORY = 4 << 30  # bytes of address space


class Late(BaseException):
    """The time of a question is over; not an Exception, which libraries catch."""


def read(latex: str):
    """A sympy object, or None where the text is not wholly an expression."""
    import sympy

    for joint, operation in zip(JOINTS, (sympy.Or, sympy.And)):
        if joint in latex:
            parts = [read(part) for part in latex.split(joint)]
            return None if None in parts else operation(*map(_open, parts))
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    try:
        expression = latex2sympy(latex, is_real=True, normalization_config=None,
                                 conversion_config=ConversionConfig(lowercase_symbols=False))
        if isinstance(expression, list):
            return None
        if not isinstance(expression, sympy.MatrixBase | sympy.Basic):
            expression = sympy.sympify(expression)
        imaginary = [s for s in getattr(expression, "free_symbols", ()) if s.name == "i"]
        return expression.subs({s: sympy.I for s in imaginary}) if imaginary else expression
    except Exception:
        return None


def equal(a, b) -> bool:
    """Whether two sympy objects are equal in value."""
    import sympy
    from sympy.core.relational import Relational

    a, b = _open(a), _open(b)
    if isinstance(a, sympy.Set) != isinstance(b, sympy.Set):
        a, b = _as_set(a), _as_set(b)
    if isinstance(a, sympy.Set) and isinstance(b, sympy.Set):
        return a == b or a.symmetric_difference(b).is_empty is True
    if isinstance(a, Relational) or isinstance(b, Relational):
        return isinstance(a, Relational) and isinstance(b, Relational) and _same_relation(a, b)
    if isinstance(a, sympy.And | sympy.Or) or isinstance(b, sympy.And | sympy.Or):
        return _as_set(a) == _as_set(b)
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return a.shape == b.shape and all(_same_value(x, y) for x, y in zip(a.flat(), b.flat()))
    return isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr) and _same_value(a, b)


def _open(x):
    """x in S is S; a relation that math-verify keeps as its own And is sympy's."""
    import sympy

    if isinstance(x, sympy.Eq) and isinstance(x.rhs, sympy.Set):
        return x.rhs
    return sympy.And(*x.args) if type(x).__name__ == "And" else x


def _as_set(x):
    import sympy

    if isinstance(x, sympy.Set) or len(getattr(x, "free_symbols", ())) != 1:
        return x
    return x.as_set() if isinstance(x, sympy.core.relational.Relational | sympy.And | sympy.Or) else x


def _same_relation(a, b) -> bool:
    import sympy

    flip = (sympy.Lt, sympy.Le)
    a, b = (x.reversed if isinstance(x, flip) else x for x in (a, b))
    if type(a) is not type(b):
        return False
    x, y = sympy.expand(a.lhs - a.rhs), sympy.expand(b.lhs - b.rhs)
    if x == 0 or y == 0 or not (x.free_symbols and y.free_symbols):
        return x == y
    ratio = sympy.simplify(x / y)
    same_way = isinstance(a, sympy.Eq | sympy.Ne) or ratio.is_positive
    return bool(ratio.is_number and ratio.is_finite and ratio != 0 and same_way)


def _same_value(a, b) -> bool:
    import math_verify
    import sympy

    if a.has(sympy.nan, sympy.zoo) or b.has(sympy.nan, sympy.zoo):
        return False
    if a.is_Rational and b.is_Rational:
        return a == b
    return bool(math_verify.verify(a, b, timeout_seconds=None, raise_on_error=False)) and _agree(a, b)


def _agree(a, b) -> bool:
    """Whether values agree to twelve digits at two random points; True where they cannot be computed."""
    import sympy

    names, draw = sorted(a.free_symbols | b.free_symbols, key=str), random.Random(0)
    for _ in range(2):
        at = {s: sympy.Rational(draw.randint(101, 999), 301) for s in names}
        try:
            x, y = (sympy.N(e.subs(at).doit(), 30) for e in (a, b))
            if not (x.is_number and y.is_number):
                return True
            if abs(x - y) > sympy.Float(10) ** -12 * max(abs(x), abs(y)):
                return False
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return True
    return True


def compare(left: str, right: str) -> str:
    """right, wrong or unreadable."""
    a = read(left)
    b = None if a is None else read(right)
    if a is None or b is None:
        return "unreadable"
    try:
        return "right" if equal(a, b) else "wrong"
    except Exception:  # sympy may fail in any way on foreign expressions
        return "wrong"


def package(gold: str, text: str) -> str:
    """What math-verify says by itself: it extracts both."""
    import math_verify

    target = math_verify.parse(gold if "\\boxed" in gold or "$" in gold else f"${gold}$", parsing_timeout=None)
    parsed = math_verify.parse(text, parsing_timeout=None)
    if not target or not parsed:
        return "unreadable"
    return "right" if math_verify.verify(target, parsed, timeout_seconds=None) else "wrong"


def main() -> None:
    """Answer questions until standard input ends."""
    import logging

    logging.disable(logging.CRITICAL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints is an answer

    def late(*_):
        raise Late

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C is the parent's
    signal.signal(signal.SIGALRM, late)
    try:
        import latex2sympy2_extended  # noqa: F401
        import math_verify  # noqa: F401
    except Exception as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            signal.setitimer(signal.ITIMER_REAL, question["seconds"])
            verdict = (package if question["how"] == "math_verify" else compare)(*question["texts"])
        except Late:
            verdict = "timeout"
        except Exception:  # MemoryError, RecursionError and whatever else foreign text brings about
            verdict = "unreadable"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"verdict": verdict}), file=answers, flush=True)


if __name__ == "__main__":
    main()
