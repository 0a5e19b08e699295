"""The JSON schemas of the files that users write, for their editors: what completes keys and underlines mistakes."""

from typing import Any

from fcit_ray.config.catalogs import catalog, catalog_names
from fcit_ray.config.datasets import KINDS, RELEASED
from fcit_ray.config.schema import Config
from fcit_ray.config.sweep import Sweep
from fcit_ray.experiment.components import AXES

_FUNCTION = "^.+:[^:/.]+$"


def config_file_schema() -> dict[str, Any]:
    """The schema of one configuration file: any part of a configuration, as files merge, and `tuned`."""
    schema = Config.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    for section in (schema, *definitions.values()):
        if section.get("title") != "Task":
            section.pop("required", None)  # another file may have it
    tasks = definitions["Benchmark"]["properties"]["tasks"]
    names = list(dict.fromkeys(name for each in catalog_names() for name in catalog(each)))
    # A plain string names a task of one dataset.
    tasks["items"] = {"anyOf": [{"enum": names}, {"type": "string"}, tasks["items"]]}
    definitions["Benchmark"]["properties"]["catalog"]["anyOf"][0] = {"enum": catalog_names()}
    _take_plain_strings(definitions)
    for axis, choice in AXES.items():
        properties[axis]["properties"] = {
            "name": {
                "anyOf": [{"enum": [*choice.parts]}, {"type": "string", "pattern": "^[^:]+:[^:]+$"}],
                "description": f"A {choice.what} by name, or module:Class of your own.",
            }
        }
    properties["tuned"] = {
        "type": "object",
        "description": "Keys that this benchmark wants for the run of a name, by the name.",
        "additionalProperties": {"$ref": "#"},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fcit_ray configuration"}


def _take_plain_strings(definitions: dict[str, Any]) -> None:
    """What a dataset's declaration may say by a string alone: a file, a kind of answer."""
    dataset, answer = definitions["Dataset"]["properties"], definitions["Answer"]["properties"]
    part = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Part"}]}
    for split in ("train", "test", "validation"):
        for choice in dataset[split]["anyOf"]:
            if choice["type"] == "array":
                choice.update(items=part)
        dataset[split]["anyOf"] += part["anyOf"]
    kind = {"anyOf": [{"enum": [*KINDS]}, {"type": "string", "pattern": _FUNCTION}]}
    answer["kind"] |= kind
    dataset["answer"]["anyOf"] = [*kind["anyOf"], {"$ref": dataset["answer"].pop("$ref")}]
    answer["released"]["anyOf"] = [
        {"enum": [*RELEASED]}, {"type": "string", "pattern": _FUNCTION}, {"type": "null"},
    ]  # fmt: skip


def sweep_file_schema() -> dict[str, Any]:
    """The schema of a sweep file."""
    schema = Sweep.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fcit_ray sweep"}
