"""Federated continual instruction tuning of large multimodal models, simulated on a Ray cluster.

What is listed here is public; importing it costs nothing until it is used:

    config = fcit_ray.load_config("miniature", "disco", overrides=["train.epochs=2"])
    results = fcit_ray.run(config, out="runs/mine")
    results.accuracy_matrix
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fcit_ray.version import __version__

if TYPE_CHECKING:
    from fcit_ray.cli.running import run as run
    from fcit_ray.config.schema import Config as Config
    from fcit_ray.errors import RunFailed as RunFailed
    from fcit_ray.errors import UserError as UserError
    from fcit_ray.experiment.loading import load_config as load_config
    from fcit_ray.report.writing import write_report as write_report
    from fcit_ray.results.reading import Results as Results
    from fcit_ray.results.reading import open_results as open_results
    from fcit_ray.serving.export import export as export

_PLACES = {
    "load_config": "experiment.loading",
    "run": "cli.running",
    "open_results": "results.reading",
    "export": "serving.export",
    "Results": "results.reading",
    "write_report": "report.writing",
    "Config": "config.schema",
    "UserError": "errors",
    "RunFailed": "errors",
}

__all__ = [  # given by __getattr__
    "Config",
    "Results",
    "RunFailed",
    "UserError",
    "__version__",
    "export",
    "load_config",
    "open_results",
    "run",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
