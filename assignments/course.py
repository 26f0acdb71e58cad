"""The lecturer's command line.

    python assignments/course.py secret FILE                        make the secret that hidden cases derive from
    python assignments/course.py release --out DIR [--set ps1]      the students' notebooks, proven to hold no answer
    python assignments/course.py grade ps1 SUBMISSIONS --out DIR --secret FILE [--jobs 2] [--again]
    python assignments/course.py selftest [--set ps1] [--quick]     mark submissions whose marks are known
    python assignments/course.py prove PATH ...                     look for answers in folders, wheels, sdists
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

COURSE = Path(__file__).resolve().parent
sys.path.insert(0, str(COURSE))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: exercises are small


def sets(names: list[str] | None) -> list[Path]:
    """Folders of the sets that were asked for; without names all of them."""
    from fsskit.photos import FSSKitError

    known = sorted(path.parent for path in COURSE.glob("ps*/checks.py"))
    unknown = set(names or ()) - {folder.name for folder in known}
    if unknown:
        raise FSSKitError(f"there is no set {min(unknown)}: choose {', '.join(folder.name for folder in known)}.")
    return [folder for folder in known if not names or folder.name in names]


def secret(args: argparse.Namespace) -> int:
    from grader.judge import write_secret

    write_secret(args.file)
    print(f"{args.file}: keep it to yourself, and use the same one for all submissions of a course.")
    return 0


def release(args: argparse.Namespace) -> int:
    from grader.release import write_release

    for folder in sets(args.set):
        print(write_release(folder, args.out, run=not args.no_run))
    return 0


def grade(args: argparse.Namespace) -> int:
    from fsskit.photos import FSSKitError
    from grader.judge import read_secret
    from grader.marks import grade as grade_folder

    (folder,), key = sets([args.set]), read_secret(args.secret)
    if key == read_secret(COURSE / "secret.example"):
        raise FSSKitError("secret.example is public: make a secret of your own with `course.py secret FILE`.")
    hidden = [args.secret, args.submissions, args.out]
    results = grade_folder(folder, args.submissions, args.out, key, hidden, args.jobs, args.again)
    print(*sorted({result["walls"] for result in results if "walls" in result}), sep="\n")
    print(f"{len(results)} submissions: {args.out / f'marks_{args.set}.csv'}, feedback in {args.out / 'feedback'}")
    return 0


def selftest(args: argparse.Namespace) -> int:
    from grader.judge import read_secret
    from grader.selftest import test_set

    key = read_secret(args.secret)
    outcomes = [test_set(folder, key, args.quick) for folder in sets(args.set)]
    faults = [fault for _, faults in outcomes for fault in faults]
    print("\n".join([*faults, f"{sum(count for count, _ in outcomes)} submissions, {len(faults)} faults"]))
    return int(bool(faults) or not outcomes)


def prove(args: argparse.Namespace) -> int:
    from grader.release import prove as find

    faults = find(sets(None), args.path, args.least)
    print("\n".join([*faults, f"{len(faults)} leaks"]))
    return int(bool(faults))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function, **options) -> None:
        sub = commands.add_parser(function.__name__)
        sub.set_defaults(run=function)
        for name, settings in options.items():
            sub.add_argument(name if settings.pop("place", False) else f"--{name.replace('_', '-')}", **settings)

    several = {"action": "append", "metavar": "psN", "help": "repeat for more; without it: all sets"}
    command(secret, file={"place": True, "type": Path})
    command(release, set=dict(several), out={"type": Path, "default": COURSE / "release"}, no_run={"action": "store_true"})
    command(
        grade,
        set={"place": True, "metavar": "psN"},
        submissions={"place": True, "type": Path},
        out={"type": Path, "required": True},
        secret={"type": Path, "required": True},
        jobs={"type": int, "default": 2},
        again={"action": "store_true", "help": "mark those that have a result, too"},
    )
    example = {"type": Path, "default": COURSE / "secret.example"}
    command(selftest, set=dict(several), quick={"action": "store_true"}, secret=example)
    command(prove, path={"place": True, "type": Path, "nargs": "+"}, least={"type": int, "default": 3})
    return top


def main(words: list[str] | None = None) -> int:
    args = parser().parse_args(words)
    from fsskit.photos import FSSKitError

    try:
        return args.run(args)
    except FSSKitError as error:
        print(f"course: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("course: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
