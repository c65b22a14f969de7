"""`pdbpool stacks` and `pdbpool events`: who has what, where in the code, and what happened."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..clock import sleep
from ..telemetry.host import Answer
from ..telemetry.wording import counted, where_text
from .asking import advice, answers, chosen, run_dir, with_pool
from .errors import FAILED, OK, Failed, complain
from .tables import print_json
from .wording import clock_text, duration, shown

__all__ = ["events", "stacks"]

# Of so many with one stack each is named; of the rest it is said how many there are.
NAMED = 5
# How often it is asked what is new, in seconds.
EVERY = 1.0


@dataclass(frozen=True)
class _Person:
    """One who holds or waits for a connection, with the process and the pool."""

    pid: int
    pool: str
    told: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """For how long."""
        return float(self.told["seconds"])

    def __str__(self) -> str:
        words = [f"pid {self.pid}", f"pool {self.pool}", str(self.told["worker"])]
        if self.told.get("server_pid") is not None:
            words.append(f"server process {self.told['server_pid']}")
        if self.told.get("holds"):
            words.append("holds one already")
        return f"{duration(self.seconds):>6}  {', '.join(words)}"


def stacks(args: argparse.Namespace) -> int:
    """Show who holds and who waits for a connection, and where in the code each is now."""
    asked = chosen(answers(run_dir(args), timeout=args.timeout), args.pid)
    found = _for_whom(with_pool(asked, args.pool), args)
    holders, waiters = (_people(found, kind, args.pool) for kind in ("holders", "waiters"))
    if args.format == "json":
        print_json(
            {
                "holders": [_as_json(each) for each in holders],
                "waiters": [_as_json(each) for each in waiters],
                "silent": {str(each.pid): each.silent for each in found if each.report is None},
            }
        )
    else:
        _print_people("hold a connection", "holds a connection", holders)
        print()
        _print_people("wait for one", "waits for one", waiters)
    return _told_of_silent(found)


def _people(found: Sequence[Answer], kind: str, pool: str | None) -> list[_Person]:
    """List the holders or waiters of all processes, the longest first."""
    people = [
        _Person(each.pid, told["name"], person)
        for each in found
        if each.report is not None
        for told in each.report["pools"]
        if pool in (None, told["name"])
        for person in told.get(kind, ())
    ]
    return sorted(people, key=lambda person: -person.seconds)


def _print_people(many: str, one: str, people: Sequence[_Person]) -> None:
    if not people:
        print(f"Nobody {one}.")
        return
    print(f"{len(people)} {one if len(people) == 1 else many}:")
    for label, of_label in _grouped(people, lambda person: str(person.told["label"])):
        longest = duration(of_label[0].seconds)
        print(f"\n{label}: {len(of_label)}, longest {longest}")
        for places, of_stack in _grouped(of_label, lambda person: _places(person.told)):
            for person in of_stack[:NAMED]:
                print(f"  {person}")
            if of_stack[NAMED:]:
                print(f"          and {counted(len(of_stack) - NAMED, 'more', 'more')} there")
            for place in places:
                print(f"            {place}")


def _places(told: Mapping[str, Any]) -> tuple[str, ...]:
    """List where in the code somebody is now, the innermost first."""
    if not told.get("over"):
        return tuple(told["stack"]) or ("(nobody can tell where it is now)",)
    taken = tuple(told.get("taken") or ())
    if not taken:
        return (f"({where_text(told)}; dbpool.trace_checkouts = true says where it was taken)",)
    return ("(has ended without giving it back; it was taken in)", *taken)


def _grouped(people: Sequence[_Person], by: Any) -> list[tuple[Any, list[_Person]]]:
    """Put people together, the largest group first."""
    groups: dict[Any, list[_Person]] = {}
    for person in people:
        groups.setdefault(by(person), []).append(person)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _as_json(person: _Person) -> dict[str, Any]:
    return {"pid": person.pid, "pool": person.pool, **person.told}


def _told_of_silent(found: Sequence[Answer]) -> int:
    silent = [each for each in found if each.report is None]
    for each in silent:
        complain(f"pid {each.pid} {advice(each.pid, each.silent or 'does not answer')}.")
    return FAILED if silent else OK


def events(args: argparse.Namespace) -> int:
    """List what happened to the pools of all processes, the oldest first."""
    folder = run_dir(args)
    heard: dict[int, int] = {}
    found = chosen(answers(folder, timeout=args.timeout, stacks=False), args.pid)
    # Who misspells it would wait for what never comes; that of a pool that is gone stays.
    if not any(event["pool"] == args.pool for event in _new(found, {})):
        with_pool(found, args.pool)
    found = _for_whom(found, args)
    _print_events(found, heard, args)
    code = _told_of_silent(found)
    problem = ""
    while args.follow:
        sleep(EVERY)
        try:
            found = answers(folder, timeout=args.timeout, stacks=False, after=heard)
            problem = ""
        except Failed as error:
            # They may be about to start anew; who follows them wants to see what happens then.
            if problem != str(error):
                complain(problem := str(error))
            found = []
        _print_events(
            _for_whom([each for each in found if _is_meant(each, args)], args), heard, args
        )
    return code


def _for_whom(found: Sequence[Answer], args: argparse.Namespace) -> list[Answer]:
    """Make answers fit for a terminal; programs get them as they are."""
    return list(found) if args.format == "json" else [shown(each) for each in found]


def _is_meant(answer: Answer, args: argparse.Namespace) -> bool:
    return not args.pid or answer.pid in args.pid


def _print_events(
    found: Sequence[Answer], heard: dict[int, int], args: argparse.Namespace
) -> None:
    for event in sorted(_new(found, heard), key=lambda each: (each["at"], each["number"])):
        if args.pool not in (None, event["pool"]):
            continue
        if args.format == "json":
            print(json.dumps(event), flush=True)
            continue
        at = clock_text(event["at"], date=True)
        text = " ".join(str(event["text"]).split())
        print(f"{at}  {event['pid']:>7}  {event['pool']}  {text}", flush=True)


def _new(found: Sequence[Answer], heard: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the events that have not been heard yet, each with its process."""
    for pid in heard.keys() - {each.pid for each in found}:
        # Another process may come to have its number, and begins to count anew.
        del heard[pid]
    for each in found:
        for event in each.report["events"] if each.report else ():
            if event["number"] > heard.get(each.pid, 0):
                yield {"pid": each.pid, **event}
        if each.report and each.report["events"]:
            heard[each.pid] = max(event["number"] for event in each.report["events"])
