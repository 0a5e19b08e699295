"""Where in a run a piece of work belongs, for messages."""

from fcit_ray.errors import place
from fcit_ray.runtime.messages import AnswerWork, FeatureWork, TrainWork
from fcit_ray.runtime.shared_steps import HelpWork


def place_of(work: TrainWork | AnswerWork | FeatureWork | HelpWork) -> str:
    """Where in the run a piece of work belongs."""
    if isinstance(work, FeatureWork):
        return f"identity features of {work.half}s"
    if isinstance(work, HelpWork):
        return f"step {work.step.number} of another worker's client"
    if isinstance(work, TrainWork):
        return place(*work.job.key)
    after = "before any training" if work.stage < 0 else f"after stage {work.stage} (counted from 0)"
    return f"answering {work.dataset} {after}"
