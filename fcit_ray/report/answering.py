"""What answering the test sets has cost, stage by stage."""

import math

from fcit_ray.report.blocks import Cell, Table, known, number_cell
from fcit_ray.report.reading import Told


def answering_tables(run: Told) -> list[Table]:
    """One table; none where no evaluation says what its answers have cost."""
    rows = []
    for record in run.evaluations:
        if "answer_s" not in record:  # of an older release
            continue
        stage = int(record["stage"])
        waited = math.fsum(known(lap) for lap in (record.get("seconds") or {}).values())
        rows.append(
            [
                Cell(f"stage {stage + 1}" if stage >= 0 else "zero-shot", stage),
                Cell(f"{record['num_records']:,}", record["num_records"]),
                Cell(f"{record['answer_tokens']:,}", record["answer_tokens"]),
                number_cell(known(record["answer_s"]), 1),
                number_cell(known(record.get("questions_per_s")), 1),
                number_cell(known(record.get("tokens_per_s")), 1),
                number_cell(100 * known(record.get("padding_frac")), 1),
                number_cell(waited, 1),
                Cell("yes" if record.get("behind") else "no"),
            ]
        )
    if not rows:
        return []
    return [
        Table(
            "Answering by stage",
            ["After", "Questions", "Tokens", "Worker seconds", "Questions/s", "Tokens/s", "Padding, %", "Waited, s",
             "Behind rounds"],
            rows,
            note="Per second of one worker that answers. Padding: share of the prompts' positions. Waited: wall clock "
            "in which the run did nothing else; behind rounds workers answer that the next stage leaves idle.",
        )
    ]  # fmt: skip
