"""The section `failures` of a configuration: what becomes of a client whose update does not come, or cannot be used."""

from typing import Literal

from pydantic import Field

from fcit_ray.config.section import Section


class Failures(Section):
    """What becomes of a client whose update does not come, or cannot be used: tried again, then `then`.

    An attempt fails when the client's training raises an error, when its update is refused (numbers that are not
    finite, other shapes or names than were asked for, an exact copy of what was sent), when nothing is heard of it for
    `runtime.lease_s`, or when it passes a deadline; the worker that sleeps in it is replaced. An attempt is the same
    computation again, to the same bits: what fails by chance is mended by it, what fails by its nature is not. What is
    broken for all alike (a record that cannot be read, a full disk) ends the run at once.

    A run that has stopped may be resumed with other values of these keys.
    """

    retries: int = Field(2, ge=0)
    """Times that a client's update is tried again in its round, on another worker where there is one. So often the
    answers to a piece of a test set are, too, and identity features; without those the run stops."""
    then: Literal["stop", "drop"] = "stop"
    """When they are used up. `stop` ends the run, which resumes at that round. `drop` goes on without the client: the
    others' weights are made to add up again, and the round's record and the table say who is missing. A worker that
    dies with the client in hand counts as an attempt under `drop` alone; `runtime.max_worker_failures` counts it in any
    case."""
    quorum: float = Field(0.5, gt=0, le=1)
    """Under `drop`, share of a round's clients whose updates must have come, and never fewer than the rule over
    clients needs (`robust`); with fewer the run stops."""
    deadline_s: float | None = Field(None, gt=0)
    """Seconds after which an attempt at a client is given up; null: however long it takes while it is heard of."""
    deadline_factor: float | None = Field(None, gt=1)
    """The same, relative: an attempt is given up when it takes so many times longer than the round's median seconds a
    record, once half of the round's updates are there; null: never. Where both are given the earlier one counts."""
