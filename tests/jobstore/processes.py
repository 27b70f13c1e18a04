"""Watching processes from outside: which descend from which, and whether they are gone."""

from pathlib import Path

Identity = tuple[int, str]  # pid and start time, which no later process shares


def descendants(pid: int) -> set[Identity]:
    """The processes below `pid`, itself included. Read while the tree stands."""
    parents = {identity: parent for identity, parent, _ in _processes()}
    found = {identity for identity in parents if identity[0] == pid}
    while more := {i for i, parent in parents.items() if i not in found and parent in {p for p, _ in found}}:
        found |= more
    return found


def children(pid: int) -> set[int]:
    return {identity[0] for identity, parent, _ in _processes() if parent == pid}


def alive(processes: set[Identity]) -> set[Identity]:
    """Those that still run; zombies, which wait for their parent's attention only, do not."""
    return {identity for identity, _, state in _processes() if state != "Z"} & processes


def _processes() -> list[tuple[Identity, int, str]]:
    """(identity, parent's pid, state) of everything that runs; see proc(5), `stat`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = file.read_text().split(" ", 1)
        except OSError:
            continue  # it has ended since
        state, parent, *fields = rest.rpartition(")")[2].split()
        found.append(((int(pid), fields[17]), int(parent), state))
    return found
