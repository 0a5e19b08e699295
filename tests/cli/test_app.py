"""The command `fcit-ray` and `import fcit_ray`: what users meet before anything runs, wherever they are."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from hatchling.builders.wheel import WheelBuilder
from repository import ROOT
from typer.testing import CliRunner

import fcit_ray
from fcit_ray.cli import app as cli
from fcit_ray.cli.arguments import ManyValues, configs_like
from fcit_ray.config import shipped
from fcit_ray.config.catalogs import catalog, catalog_names
from fcit_ray.config.shipped import find_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.components import AXES

HEAVY = ("torch", "ray", "transformers", "numpy", "pyarrow", "PIL", "matplotlib", "pandas")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run `fcit-ray` in an empty folder; gives exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fcit-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        said = capsys.readouterr()
        return exit.value.code, said.out, said.err

    return run


def in_a_new_process(code, *, blocked=False):
    """What a program prints that ends without a mistake; none of what is heavy can be imported if it is blocked."""
    block = f"for name in {HEAVY}: sys.modules[name] = None\n" if blocked else ""
    program = f"import sys, json, io, contextlib\n{block}{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# At once: nothing heavy before there is something to do.


def test_importing_the_package_and_loading_a_configuration_imports_nothing_heavy():
    code = """
        import fcit_ray
        print([name for name in sys.modules if name.startswith("fcit_ray.")])
        print(fcit_ray.load_config("miniature", "disco", overrides=["train.epochs=2"]).train.epochs)
    """
    assert in_a_new_process(code, blocked=True).splitlines() == ["['fcit_ray.version']", "2"]


def test_help_mistakes_and_lists_are_answered_without_anything_heavy():
    """Seconds depend on the machine; what is imported does not."""
    calls = [
        ["--help"], ["--version"], ["rnu"], ["run", "--help"], ["run", "--reusme"], ["prepare", "--help"],
        ["list"], ["list", "methods"], ["show", "discco"], ["show", "miniature"], ["copy", "discco"], ["schema"],
        ["prepare", "partition", "--help"], ["prepare", "init", "--help"], ["sweep", "configs/sweeps/minature.yaml"],
        ["run", "minature", "disco"], ["run", "miniature", "method.name=discco"], ["run", "miniature", "train.lrr=1"],
        ["compare", "miniature", "--methods", "discco"], ["sweep", "sweeps/minature"], ["prepare", "partition", "x"],
    ]  # fmt: skip
    files = sorted(f"pipelines/{file.name}" for file in (ROOT / "pipelines").glob("*.py"))
    code = f"""
        from fcit_ray.cli import app
        for call in {calls}:
            sys.argv = ["fcit-ray", *call]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                try:
                    app.main()
                except SystemExit as exit:
                    code = exit.code
            print(code, *call)
        import runpy
        for file in {files}:
            sys.argv = [file, "--help"]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                runpy.run_path(file, run_name="__main__")
            print(file)
    """
    wrong = re.compile(r"rnu|reusme|discco|minature|lrr|partition x")
    said = [f"{2 if wrong.search(' '.join(call)) else 0} {' '.join(call)}" for call in calls]
    assert in_a_new_process(code, blocked=True).splitlines() == said + files


def test_something_is_said_before_anything_heavy_is_imported():
    calls = [
        ["run", "miniature", "disco"], ["run", "miniature", "disco", "--plan"], ["compare", "miniature"],
        ["sweep", "sweeps/miniature"], ["report", "runs/x"], ["export", "a", "b"], ["convert", "a", "b"],
        ["show", "disco"], ["prepare", "miniature", "--out", "/nowhere"],
        ["prepare", "partition", "miniature", "--out", "/nowhere"], ["prepare", "check", "data/x"],
        ["prepare", "parquet", "data/x", "/nowhere"], ["prepare", "init", "data"], ["doctor"],
    ]  # fmt: skip
    code = f"""
        from fcit_ray.cli import app
        for call in {calls}:
            sys.argv = ["fcit-ray", *call]
            with contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    app.main()
                except ImportError:
                    print(said.getvalue().count(" ...\\n"), *call)
    """
    assert in_a_new_process(code, blocked=True).splitlines() == [f"1 {' '.join(call)}" for call in calls]


# Mistakes: one line, what was meant, exit status 2.


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["rnu"], ["'rnu'", "Did you mean 'run'"]),
        (["run", "miniature", "--reusme"], ["--reusme", "--resume", "run --help"]),
        (["run"], ["CONFIG", "run --help"]),
        (["run", "minature"], ["minature: no shipped configuration", "did you mean 'miniature'", "fcit-ray list"]),
        (["run", "configs/miniature.yaml"], ["did you mean 'miniature'"]),
        (["run", "nowhere/mine.yaml"], ["nowhere/mine.yaml: no such file"]),
        (["run", "miniature", "method.name=discco"], ["method.name", "did you mean 'disco'"]),
        (["run", "miniature", "--gpus", "2"], ["go with --plan"]),
        (["run", "miniature", "--plan", "--gpus", "0"], ["--gpus 0: expected at least 1"]),
        (["run", "miniature", "--plan", "--gpus", "two"], ["'--gpus'"]),
        (["compare", "miniature", "--methods", "finetune", "discco"], ["discco", "did you mean 'disco'"]),
        (["sweep", "sweeps/minature"], ["did you mean 'sweeps/miniature'"]),
        (["show", "discco"], ["did you mean 'disco'", "fcit-ray list"]),
        (["list", "method"], ["methods"]),
        (["copy", "discco"], ["did you mean 'disco'"]),
        (["prepare", "check", "data", "--template", "vicuna"], ["vicuna_v1"]),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(command, arguments, parts):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2
    for part in parts:
        assert part in err


def test_a_name_is_not_changed_by_what_lies_in_the_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("disco", "mine", "disco.yaml"):
        Path(name).write_text("name: Mine\n")
    assert find_config("disco") == ROOT / "configs/methods/disco.yaml"
    assert find_config("methods/disco") == ROOT / "configs/methods/disco.yaml"
    assert find_config("./disco") == find_config(Path("disco")) == Path("disco")
    assert find_config("disco.yaml") == Path("disco.yaml")
    assert find_config("miniature") == ROOT / "configs/miniature.yaml"
    assert find_config("miniature", "sweeps") == ROOT / "configs/sweeps/miniature.yaml"
    with pytest.raises(ConfigError, match=r"write \./mine"):
        find_config("mine")


def test_several_values_of_an_option_end_at_an_option_or_an_override():
    app = typer.Typer()

    @app.command(cls=ManyValues)
    def compare(words: list[str], methods: list[str] = typer.Option(["x"]), resume: bool = False) -> None:  # noqa: B008
        print(words, methods, resume)

    def said(*arguments):
        return CliRunner().invoke(app, arguments).output.strip()

    assert said("a", "--methods", "b", "c", "--resume", "k=1") == "['a', 'k=1'] ['b', 'c'] True"
    assert said("a", "--methods", "b", "k=1") == "['a', 'k=1'] ['b'] False"
    assert said("--methods", "b", "--methods", "c", "--", "a") == "['a'] ['b', 'c'] False"
    assert "requires an argument" in said("a", "--methods")


# What there is.


def test_all_that_is_listed_can_be_shown_and_says_what_it_is(command):
    status, out, _ = command("list")
    assert status == 0
    rows = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert [row for row in rows if len(row) < 2] == []
    listed = {name for name, _ in rows}
    parts = {name for axis in AXES.values() for name in axis.parts}
    configs = {name.removeprefix("methods/") for name in shipped.shipped()}
    assert listed == parts | configs | {name for each in catalog_names() for name in catalog(each)}
    for name in listed:
        assert command("show", name)[0] == 0, name


def test_a_part_is_shown_with_default_bounds_meaning_and_source(command):
    _, out, _ = command("show", "disco")
    said = " ".join(out.split())
    assert "disco: continual method, method.name=disco" in said
    assert "method.threshold: number at least -1 and at most 1; default 0.9" in said
    assert 'one of softmax, argmax, cosine, concatenation; default "softmax"' in said
    assert "arXiv 2503.12897" in said
    assert "fcit-ray show methods/disco" in said
    assert command("show", "methods/disco")[1] == (ROOT / "configs/methods/disco.yaml").read_text()


def test_a_method_of_ones_own_is_shown_too(command, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests/user_method"))
    _, out, _ = command("show", "few_subspaces:FewSubspaces")
    assert "method.num_mixed: whole number; default 2" in out
    assert "cannot import" in command("show", "few_subspaces:Nothing")[2]


def test_a_copy_runs_as_what_it_was_copied_from_and_overwrites_nothing(command, tmp_path):
    assert command("copy", "miniature", "mine.yaml")[:2] == (0, "mine.yaml\n")
    mine = tmp_path / "mine.yaml"
    assert fcit_ray.load_config(mine, "disco") == fcit_ray.load_config("miniature", "disco")
    schema = mine.read_text().splitlines()[0].partition("$schema=")[2]
    assert Path(schema).is_file()
    mine.write_text("edited")
    status, _, err = command("copy", "miniature", "mine.yaml")
    assert (status, mine.read_text()) == (2, "edited")
    assert "--overwrite" in err
    assert command("copy", "sweeps/miniature", "--overwrite")[:2] == (0, "miniature.yaml\n")


def test_names_and_files_are_completed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disco_mine.yaml").touch()
    assert {"disco", "disco_argmax", "disco_mine.yaml"} <= set(configs_like("disco"))
    assert configs_like("sweeps/abl") == ["sweeps/ablations"]


# For editors.


@pytest.mark.parametrize("kind", ["config", "sweep"])
def test_the_committed_schema_is_the_codes(command, kind):
    status, out, _ = command("schema", *(["--sweep"] if kind == "sweep" else []))
    assert status == 0
    said = f"`fcit-ray schema{' --sweep' if kind == 'sweep' else ''} --out configs/{kind}.schema.json` writes it anew"
    assert json.loads((ROOT / f"configs/{kind}.schema.json").read_text()) == json.loads(out), said


@pytest.mark.parametrize("name", shipped.shipped())
def test_a_shipped_file_names_a_schema_that_takes_it(name):
    file = find_config(name)
    first = file.read_text().splitlines()[0]
    schema = json.loads((file.parent / first.removeprefix("# yaml-language-server: $schema=")).read_text())
    jsonschema.validate(yaml.safe_load(file.read_text()), schema)


@pytest.mark.parametrize("name", catalog_names())
def test_the_schema_takes_what_a_dataset_says_by_a_string_alone(name):
    schema = json.loads((ROOT / "configs/config.schema.json").read_text())
    declared = yaml.safe_load((ROOT / f"configs/catalogs/{name}.yaml").read_text())
    jsonschema.validate({"benchmark": {"datasets": declared}}, schema)
    own = {"Mine": {"train": ["a.json", {"path": "b.json"}], "validation": 0.1, "answer": "mine:score"}}
    jsonschema.validate({"benchmark": {"datasets": own}}, schema)
    for wrong in ({"answer": "numbers"}, {"train": 3}, {"answer": {"kind": "exact", "released": "coin_gpa"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"benchmark": {"datasets": {"Mine": wrong}}}, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"trian": {}},
        {"train": {"lrr": 1}},
        {"train": {"lr": 0}},
        {"method": {"name": "discco"}},
        {"benchmark": {"catalog": "fcti"}},
        {"tuned": {"DISCO": {"train": {"lrr": 1}}}},
    ],
)
def test_an_editor_underlines_a_mistake(wrong):
    schema = json.loads((ROOT / "configs/config.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


# From Python.


def test_the_public_surface_is_there_and_says_what_it_is():
    for name in fcit_ray.__all__:
        assert name == "__version__" or getattr(fcit_ray, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        fcit_ray.runn  # noqa: B018


# What a wheel holds.


def test_a_wheel_holds_the_configurations_where_the_package_looks_for_them(monkeypatch, tmp_path):
    held = {}
    for file in WheelBuilder(str(ROOT)).recurse_included_files():
        held[file.distribution_path] = Path(file.path)
    tracked = subprocess.run(["git", "ls-files", "fcit_ray", "configs"], cwd=ROOT, capture_output=True, text=True)
    expected = {name if name.startswith("fcit_ray/") else f"fcit_ray/{name}" for name in tracked.stdout.split()}
    assert expected - held.keys() == set()
    for name in (
        "fcit_ray/py.typed",
        "fcit_ray/assets/tiny_llava/model.safetensors",
        "fcit_ray/configs/miniature.yaml",
        *(f"fcit_ray/report/page.{kind}" for kind in ("jinja", "css", "js")),
    ):
        assert held[name].is_file()
    assert {name.partition("/")[0] for name in held} == {"fcit_ray"}
    for name, source in held.items():
        if "/configs/" in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(source)
    in_the_clone = shipped.shipped().keys()
    monkeypatch.setattr(shipped.resources, "files", lambda package: tmp_path / package)
    assert shipped.shipped().keys() == in_the_clone
    assert find_config("disco") == tmp_path / "fcit_ray/configs/methods/disco.yaml"
