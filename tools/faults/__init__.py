"""Faults provoked on real runs: `python -m tools.faults` makes docs/results/faults.md; `... soak` goes on and on.

A row is a function with `@row`: it starts a run in processes of its own, as a user does, does something to it, and
looks at what the user is told, at the exit code, at the processes that are left, and at the bits (`adapters_sha256`) of
the run or of the run resumed. It raises `Wrong` where one of these is not as it must be. Whatever is waited for is a
condition (a line, a file, a process), never a time.
"""
