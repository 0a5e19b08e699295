"""`fcit-ray predict`: answers of a trained model, to one question or to many."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcit_ray.cli.common import as_place, console, exit_on_error, tell
from fcit_ray.cli.job import refuse_passing
from fcit_ray.errors import UserError

if TYPE_CHECKING:
    from fcit_ray.data.questions.opening import Input
    from fcit_ray.serving.trained import Trained

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a finished run (or its URI), or of an export.")]
Base = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The frozen base, if it is not where the run had it.")
]
Gpu = Annotated[bool, typer.Option("--gpu", help="Answer on GPUs: one a worker, or the run's share of one.")]


def predict(
    model: Model,
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT",
            help="Questions: .json, .jsonl, .parquet (a file or a folder of them), or a folder of pictures with "
            "NAME.txt beside NAME.png.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="File to write: a JSON line for each question, in order.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Ask about this picture; given several times, about these together."),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The question: about --image, about every picture of a folder, or by itself about none.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where INPUT's relative paths of pictures start.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that hold the base and answer (default: the run's).", min=1)
    ] = None,
    gpu: Gpu = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Questions generated together (default: the run's).", min=1)
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer (default: the run's).", min=1)] = None,
    client: Annotated[
        int | None, typer.Option(help="Whose model answers, where each client has its own (lora.name=fedsa).", min=0)
    ] = None,
    base: Base = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was answered of INPUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the answers in OUT and begin anew.")] = False,
) -> None:
    """Answer questions with a trained model: one, in this process, or a whole input, with Ray Data.

    A question that cannot be asked (a picture that does not decode, a record that is wrong) gets a line with `error`;
    the others are answered, and the exit code is 1.

    \b
    fcit-ray predict runs/disco-seed0 --image a.png --ask "What color is the sphere?"
    fcit-ray predict runs/disco-seed0 --image a.png --image b.png --ask "Which of the two is darker?"
    fcit-ray predict runs/disco-seed0 --ask "How many sides does a triangle have?"
    fcit-ray predict runs/disco-seed0 questions.jsonl answers.jsonl
    fcit-ray predict runs/disco-seed0 pictures answers.jsonl --ask "What is shown?" --workers 4 --gpu
    """
    with exit_on_error("what was answered is kept: --resume goes on"):
        one = bool(image) or (ask is not None and input is None)
        if one:
            if input is not None or out is not None or images is not None or resume or overwrite or workers:
                by = "--image" if image else "--ask without INPUT"
                raise UserError(f"{by} asks one question here; it goes with no INPUT, OUT or their options")
            if ask is None:
                raise UserError('--image needs a question: --ask "..."')
        elif input is None:
            raise UserError("nothing is asked: give INPUT and OUT, or --ask TEXT, with --image FILE if about a picture")
        elif out is None:
            raise UserError(f"no file for the answers to {input}: give OUT behind it")
        else:
            refuse_passing(out, "OUT")
        tell(f"reading {model} ...")
        from fcit_ray.serving.opening import on_this_machine, open_trained, view_of

        keys = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        trained = on_this_machine(open_trained(as_place(model)), gpu=gpu, base=base, evaluation=keys)
        view = view_of(trained, client)
        if one:
            _ask_one(trained, view, image or [], str(ask))
            return
        assert input is not None, "refused above"
        assert out is not None, "refused above"
        from fcit_ray.data.questions.opening import open_input

        questions = open_input(input, images=images, ask=ask)
        about = {"ask": ask, "images": str(images.resolve()) if images else None}
        _answer_all(trained, view, questions, out, about, workers, resume, overwrite)


def _ask_one(trained: "Trained", view: str, images: list[Path], text: str) -> None:
    from transformers.utils import logging

    from fcit_ray.data.questions.question import ask_about
    from fcit_ray.experiment.opening import check_model
    from fcit_ray.serving.asking import Answerer, encode_all, given_by, question_encoder

    logging.disable_progress_bar()
    source = str(images[0]) if images else "--ask"
    question = ask_about(images, text, source, 0, [str(image) for image in images])
    if question.fault:
        raise UserError(f"--ask: {question.fault}")
    check_model(trained.config)
    [asked] = encode_all([question], question_encoder(trained))
    if asked.sample is None:
        by = "--image" if images else "--ask"
        raise UserError(f"{by}: {asked.fault.removeprefix(f'{question.record.where}: ')}")
    [(answer, gate)] = Answerer(trained, view).answer([asked.sample])
    console.print(answer, markup=False)
    if gate:
        by = ", ".join(f"{index} ({gate[index]:.4f})" for index in given_by(gate))
        tell(f"given by subspace{'s' * (len(given_by(gate)) > 1)} {by}, of {len(gate)}")
    else:
        tell("given by all that was trained alike: this method weighs nothing by the question")


def _answer_all(
    trained: "Trained",
    view: str,
    questions: "Input",
    out: Path,
    about: dict[str, Any],
    workers: int | None,
    resume: bool,
    overwrite: bool,
) -> None:
    from fcit_ray.cli.counting import Counting
    from fcit_ray.experiment.opening import check_model
    from fcit_ray.serving.answer_file import AnswerFile, block_size
    from fcit_ray.serving.asking import shown_line
    from fcit_ray.serving.opening import trained_sha256

    check_model(trained.config)
    batch_size = trained.config.evaluation.batch_size
    size = block_size(questions.count, batch_size)
    about |= {
        "model": str(trained.source),
        "view": view,
        "model_sha256": trained_sha256(trained, view),
        "input": str(questions.path),
        "input_sha256": questions.digest,
        "count": questions.count,
        "batch_size": batch_size,
    }
    answers = AnswerFile(out, about, size, resume=resume, overwrite=overwrite)
    try:
        if missing := answers.missing():
            from fcit_ray.runtime.predicting import Block, answer_blocks, check_places
            from fcit_ray.runtime.starting import start

            start(answers.parts / "ray.log")
            workers = workers or trained.config.runtime.num_workers
            runtime = trained.config.runtime
            check_places(workers, runtime.gpu, runtime.gpus_per_worker)
            pieces = questions.pieces(size)
            blocks = [Block(number, pieces[number], view) for number in missing]
            with Counting(questions.count, (len(pieces) - len(missing)) * size) as counting:
                for number, lines in answer_blocks(trained, blocks, workers):
                    answers.write(number, [shown_line(line) for line in lines])
                    counting.add(lines)
        summary = answers.finish()
    finally:
        answers.close()
    console.print(f"Answers       {out}", markup=False)
    done = f"{summary.count - summary.failed} of {summary.count} questions answered"
    if summary.failed:
        tell(f'{done}; {summary.failed} failed: their lines say why under "error"')
        sys.exit(1)
    tell(done)
