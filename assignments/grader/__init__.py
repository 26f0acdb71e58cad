"""The grader, and what a problem set's checks.py imports from it: Question, check, same, Wrong.

    QUESTIONS = {'q1': Question('masked_mean', points=20, public=5)}

    @check('q1', points=6, title='A mask of another size is resized first', seconds=5)
    def resized(student, rng):
        features, mask = ...                         # drawn from rng, a numpy Generator that nobody can foresee
        same(student(features, mask), slow_masked_mean(features, mask))

`student` calls the function that is graded, in another process; see judge.Student. A check passes when it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

__all__ = ["Question", "Check", "check", "same", "Wrong", "Breach", "REASONS"]

WRONG = ("values differ", "wrong shape", "wrong type", "not finite", "input was changed")
BREACHES = ("time limit", "memory limit", "output limit", "the process ended", "no solution found")
REASONS = ("passed", *WRONG, *BREACHES)  # and 'raised NAME', 'raised NAME at line N of your cell'


class Wrong(Exception):
    """A check's verdict on a value: one of WRONG, so that feedback can never tell more."""

    def __init__(self, reason: str):
        if reason not in WRONG:
            raise ValueError(f"Wrong({reason!r}): a check says one of {', '.join(map(repr, WRONG))}.")
        super().__init__(reason)


class Breach(Exception):
    """The student's code gave no value: it raised, broke a limit, or is not there. `args[0]` is the reason."""


@dataclass(frozen=True)
class Question:
    """One exercise: the function that it asks for, its points, and how many of these its public test has."""

    function: str
    points: int
    public: int
    seconds: float = 10.0  # to run the cells, and for the public test


@dataclass(frozen=True)
class Check:
    """One hidden check. The title is public, all else is the instructor's."""

    question: str
    points: int
    title: str
    seconds: float
    cases: int
    function: Callable = field(repr=False)

    @property
    def name(self) -> str:
        return self.function.__name__


def check(question: str, points: int, title: str, seconds: float = 10.0, cases: int = 2) -> Callable[..., Check]:
    """Make a function (student, rng) a check. It runs `cases` times with other draws, and must return each time.

    `seconds` is the time for ONE call of the student's function.
    """
    return lambda function: Check(question, points, title, seconds, cases, function)


# ---- comparing values ----------------------------------------------------------------------------------------------


def same(got: Any, want: Any, tol: float = 1e-5) -> None:
    """Raise Wrong unless `got` has the type family, the shape and the values of `want`; containers item by item.

    Families: tensors with fractions, with whole numbers, with truth values; numbers (a tensor of no dimensions will do),
    text, None, sequences (list and tuple), dicts. Values may differ by tol * (1 + |want|).
    """
    import torch

    if isinstance(want, torch.Tensor):
        return _same_tensor(got, want, tol)
    if isinstance(want, (list, tuple)):
        return _same_items(got, want, tol)
    if isinstance(want, dict):
        return _same_dict(got, want, tol)
    _same_scalar(got, want, tol)


def _family(value: Any) -> str:
    """'fraction', 'whole' or 'truth' of a tensor or number."""
    import torch

    if isinstance(value, torch.Tensor):
        return "truth" if value.dtype == torch.bool else "fraction" if value.is_floating_point() else "whole"
    return "truth" if isinstance(value, bool) else "whole" if isinstance(value, int) else "fraction"


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise Wrong(reason)


def _same_tensor(got: Any, want: Any, tol: float) -> None:
    import torch

    _require(isinstance(got, torch.Tensor) and _family(got) == _family(want), "wrong type")
    _require(got.shape == want.shape, "wrong shape")
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    _require(bool((torch.isfinite(got) | ~torch.isfinite(want)).all()), "not finite")
    _require(torch.allclose(got, want, rtol=tol, atol=tol, equal_nan=True), "values differ")


def _same_scalar(got: Any, want: Any, tol: float) -> None:
    import torch

    if isinstance(got, torch.Tensor) and got.ndim == 0 and isinstance(want, (bool, int, float)):
        got = got.item()
    if not isinstance(want, (bool, int, float)):
        _require(type(got) is type(want), "wrong type")
        return _require(got == want, "values differ")
    _require(isinstance(got, (bool, int, float)), "wrong type")
    _require(_family(got) == _family(want) or (_family(got), _family(want)) == ("whole", "fraction"), "wrong type")
    if _family(want) == "fraction":
        return _same_tensor(torch.tensor(float(got), dtype=torch.float64), torch.tensor(float(want), dtype=torch.float64), tol)
    _require(got == want, "values differ")


def _same_items(got: Any, want: Any, tol: float) -> None:
    _require(isinstance(got, (list, tuple)), "wrong type")
    _require(len(got) == len(want), "wrong shape")
    for one, other in zip(got, want):
        same(one, other, tol)


def _same_dict(got: Any, want: dict, tol: float) -> None:
    _require(isinstance(got, dict), "wrong type")
    _require(got.keys() == want.keys(), "values differ")
    for key in want:
        same(got[key], want[key], tol)
