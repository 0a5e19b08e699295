"""`fcit-ray evaluate`: a trained model scored again, or the predictions of a run by another rule."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcit_ray.cli.common import as_place, console, exit_on_error, tell
from fcit_ray.cli.job import refuse_passing
from fcit_ray.cli.predict import Base, Gpu, Model
from fcit_ray.errors import UserError

if TYPE_CHECKING:
    from fcit_ray.serving.evaluating import Exam


def evaluate(
    model: Model,
    override: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="key.path=value",
            help="What is asked and how it is scored: benchmark.root, .split, .max_test_records, .transfer; "
            "evaluation.scoring, .captions, .batch_size, .max_new_tokens.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where evaluation.json and the predictions go; new, or --overwrite."),
    ] = None,
    from_predictions: Annotated[
        bool,
        typer.Option("--from-predictions", help="Ask nothing: score the predictions in the run folder, all stages."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes that hold the base and answer (default: the run's).", min=1)
    ] = None,
    gpu: Gpu = False,
    base: Base = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the evaluation in the folder.")] = False,
) -> None:
    """Score a trained model again without training: another split, more records, unseen datasets, another rule.

    What the model is cannot be overridden. The run folder is only read. With --from-predictions no model is needed:
    the predictions of every stage are scored anew, which gives the whole accuracy matrix.

    \b
    fcit-ray evaluate runs/disco-seed0 benchmark.split=validation --out runs/disco-validation
    fcit-ray evaluate runs/disco-seed0 'benchmark.transfer=[AOKVQA, DVQA]' --out runs/disco-transfer
    fcit-ray evaluate runs/disco-seed0 --from-predictions evaluation.scoring=released
    """
    with exit_on_error("nothing that looks finished was left; start it again"):
        words = override or []
        if bad := [word for word in words if "=" not in word]:
            raise UserError(f"{bad[0]!r}: an override reads key.path=value")
        if from_predictions:
            if workers or gpu or base:
                raise UserError("--from-predictions asks no model: --workers, --gpu and --base do not go with it")
            _score_predictions(model, words, out, overwrite)
            return
        if out is None:
            raise UserError("no folder for the evaluation: give --out FOLDER")
        refuse_passing(out)
        tell(f"reading {model} ...")
        from fcit_ray.experiment.opening import check_model
        from fcit_ray.serving.evaluating import check_keys, open_exam
        from fcit_ray.serving.evaluation_folder import check_free
        from fcit_ray.serving.opening import on_this_machine, open_trained

        check_keys(words)
        check_free(out, overwrite)
        exam = open_exam(on_this_machine(open_trained(as_place(model)), gpu=gpu, base=base), words)
        check_model(exam.trained.config)
        _answer(exam, out, workers or exam.trained.config.runtime.num_workers, overwrite)


def _answer(exam: "Exam", out: Path, workers: int, overwrite: bool) -> None:
    from fcit_ray.cli.counting import Counting
    from fcit_ray.results.diagnostics import diagnostics_table
    from fcit_ray.results.tables import comparison_table, row_from_results
    from fcit_ray.runtime.predicting import Block, answer_blocks, check_places
    from fcit_ray.runtime.starting import start
    from fcit_ray.serving.answer_file import block_size
    from fcit_ray.serving.evaluation_folder import EvaluationFolder

    config = exam.trained.config
    pieces = exam.pieces(block_size(exam.count, config.evaluation.batch_size))
    with EvaluationFolder(out, overwrite) as folder:
        start(folder.log_file)
        check_places(workers, config.runtime.gpu, config.runtime.gpus_per_worker)
        began = time.monotonic()
        lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
        blocks = [Block(number, piece, view) for number, (view, _, piece) in enumerate(pieces)]
        with Counting(exam.count) as counting:
            for number, answered in answer_blocks(exam.trained, blocks, workers):
                view, dataset, _ = pieces[number]
                lines.setdefault((view, dataset), []).extend(answered)
                counting.add(answered)
        answered_s = time.monotonic() - began
        results, rows = exam.results(lines, {"answer": answered_s})
        folder.finish(results, rows)
    console.print(comparison_table([row_from_results(results)]))
    if oddities := diagnostics_table([results]):
        console.print(oddities)
    console.print(f"Evaluation    {out / 'evaluation.json'}", markup=False)
    console.print(f"Predictions   {out}/predictions/<dataset>.jsonl", markup=False)


def _score_predictions(model: str, words: list[str], out: Path | None, overwrite: bool) -> None:
    if out is not None:
        refuse_passing(out)
    tell(f"reading {model} ...")
    from fcit_ray.config.reading import with_overrides
    from fcit_ray.errors import RunFolderError
    from fcit_ray.experiment.opening import check_scoring
    from fcit_ray.results.run_folder import RunFolder
    from fcit_ray.results.tables import comparison_table, row_from_results
    from fcit_ray.serving.evaluating import FORMAT, RULES, check_keys
    from fcit_ray.serving.evaluation_folder import EvaluationFolder, check_free
    from fcit_ray.serving.rescoring import rescore

    folder = RunFolder.at(as_place(model))
    if not folder.is_run():
        raise RunFolderError(f"{model}: no folder of a run; --from-predictions scores what a run has answered")
    check_keys(words, RULES)
    if out is not None:
        check_free(out, overwrite)
    original = folder.results_with_config()
    config = with_overrides(folder.config(), words)
    check_scoring(config)
    rescored = rescore(folder, config)
    for name, why in rescored.without_data.items():
        tell(f"{name}: answers are taken from the predictions themselves, as the data cannot be read ({why})")
    if out is not None:
        with EvaluationFolder(out, overwrite) as written:
            said = {"format": FORMAT, "model": str(model), "evaluations": rescored.evaluations}
            written.finish({**said, **rescored.results}, {})
    rows = [row_from_results(rescored.results)]
    rules = [{key: r.get(key) for key in ("scoring", "captions")} for r in (original, rescored.results)]
    if rules[0] != rules[1]:
        rows.insert(0, row_from_results(original))
    console.print(comparison_table(rows))
    if out is not None:
        console.print(f"Evaluation    {out / 'evaluation.json'}", markup=False)
