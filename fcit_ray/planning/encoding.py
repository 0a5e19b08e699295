"""What a run encodes before its first stage."""

from fcit_ray.data.loading.features import halves_at_hand
from fcit_ray.experiment.opening import Experiment
from fcit_ray.models.prompt import instruction_text


def to_encode(experiment: Experiment) -> str:
    """What has to be encoded before the first stage, in words; empty if nothing has."""
    model = experiment.config.model
    halves = halves_at_hand(model.identity, model.identity_encoder)
    if not halves:
        return ""
    records = [record for part in (*experiment.stream.records, *experiment.tests.values()) for record in part]
    counts = {
        "text": f"{len({instruction_text(record.turns) for record in records}):,} different instructions",
        "image": f"{len({name for record in records for name in record.images}):,} pictures",
    }
    what = " and ".join(counts[half] for half in halves)
    return (
        f"identity features: {what} are encoded once before the first stage, unless runtime.feature_cache has them; "
        "not in the times above (CLIP ViT-L on a CPU core: 30 to 75 ms an instruction, 5 s a picture)"
    )
