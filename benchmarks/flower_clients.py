"""The clients of plain_clients.py in Flower's simulation; a side of end_to_end.py, in an environment of its own.

FLOWER_WORK=WORK python benchmarks/flower_clients.py SLOTS
"""

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import flwr
import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from plain_clients import answer, load, train


@lru_cache(1)
def ours() -> tuple[dict[str, Any], Any, list[str]]:
    """Work, model and the names of its values: once a process."""
    torch.set_num_threads(1)
    work = torch.load(os.environ["FLOWER_WORK"], weights_only=True)
    model = load(work)
    return work, model, list(get_peft_model_state_dict(model))


def named(values: list[np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in zip(ours()[2], values, strict=True)}


class Client(flwr.client.NumPyClient):
    """One of a round's clients, by its place in it."""

    def __init__(self, place: int):
        self.place = place

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        work, model, _ = ours()
        clients = work["rounds"][int(config["round"]) - 1]
        client = clients[self.place % len(clients)]
        values = train(model, named(parameters), client, work["lr"])
        return [value.numpy() for value in values.values()], client["num_examples"], {}


def server(_: Any) -> Any:
    work, model, _names = ours()

    def answered(number: int, parameters: list[np.ndarray], _config: Any) -> tuple[float, dict[str, Any]]:
        if prompts := work["questions"].get(number - 1):
            set_peft_model_state_dict(model, named(parameters))
            answer(model, prompts, work["max_new_tokens"])
        return 0.0, {}

    clients = max(map(len, work["rounds"]))
    start = [value.numpy() for value in get_peft_model_state_dict(model).values()]
    strategy = flwr.server.strategy.FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        on_fit_config_fn=lambda number: {"round": number},
        evaluate_fn=answered,
        initial_parameters=flwr.common.ndarrays_to_parameters(start),
    )
    config = flwr.server.ServerConfig(num_rounds=len(work["rounds"]))
    return flwr.server.ServerAppComponents(strategy=strategy, config=config)


def main(slots: int) -> None:
    clients = max(map(len, torch.load(os.environ["FLOWER_WORK"], weights_only=True)["rounds"]))
    flwr.simulation.run_simulation(
        server_app=flwr.server.ServerApp(server_fn=server),
        client_app=flwr.client.ClientApp(
            client_fn=lambda context: Client(int(context.node_config["partition-id"])).to_client()
        ),
        num_supernodes=clients,
        backend_config={
            "init_args": {"num_cpus": slots, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    import flower_clients  # by its name, under which the processes of the simulation find it

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    flower_clients.main(int(sys.argv[1]))
