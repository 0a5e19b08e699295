"""What an honest-but-curious server learns from identity tokens, and what noise and quantisation cost DISCO's routing.

    python benchmarks/identity_leak.py                          # data/miniature; some ten minutes of one core
    python benchmarks/identity_leak.py --pool /data/more --draws 5 --seeds 2

Features are those of the tiny model's token embeddings (`model.identity_encoder=base`), tokens means of them as in a
run, hidden by the privacy rule itself (`token_noise`). The server knows the rule, follows the protocol, and has every
instruction of all tasks as a candidate, the client's own among them. Instructions count once, however many records
have them, and those of the same words in another order, which these features do not tell apart, count once too: a
client of size n holds n different ones of one task, drawn anew. The miniature's come from templates, so one task's are
much alike and few; `--pool` adds other data's tasks. No CLIP is run: its features differ.

Recovered, by size of the client (means over tasks with more instructions than that, and draws):
    task      n instructions of the client's task at random: what knowing the task alone gives
    nearest   the n candidates nearest to the token by cosine
    pursuit   n candidates by orthogonal matching pursuit
    fit       the n heaviest when the task's candidates are fitted to the token by non-negative least squares
    search    the n of the task whose own token, hidden by the rule but for its noise, is most like it: swap after swap
    AUC       is an instruction of the task one of the client's? by its cosine, and by its weight in that fit

Linked, in the streams of `miniature`: the share of tokens whose task is that of the nearest mean of a task's test
questions; two halves of a client's shard against halves of two clients' (AUC of their cosine); tokens of one client for
two tasks against those of two clients, each beside its task's mean. With records spread by chance, and by their answers
(`benchmark.partition=labels`, beta 0.1), where clients have a manner of their own.

Routed: DISCO's assignment and gate through all rounds, with no training, which they do not depend on; by threshold.
    same      share of clients in the subspace of a run in the clear at 0.9 (subspaces matched to each other first)
    groups    subspaces opened
    pure      share of clients in a subspace that mostly trains their own task
    asked     share of test questions whose heaviest subspace is the one that mostly trained their task
    weight    what the gate gives that one
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from token_attacks import Recovered, auc, cosines, recover
from torch import Tensor

from fcit_ray.cli.common import console
from fcit_ray.data.loading.shards import mean_feature
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import Record, load_train
from fcit_ray.experiment.loading import load_config
from fcit_ray.experiment.opening import Experiment, open_experiment
from fcit_ray.federated.privacy import TokenNoise, quantised
from fcit_ray.models.load import load_text_encoder
from fcit_ray.models.prompt import instruction_text
from fcit_ray.types import Client, ClientUpdate

SIZES = (1, 2, 5, 10, 20, 50, 100)
TASKS_FROM = 50  # different instructions; tasks of fewer are candidates alone
HIDINGS = ((0.0, 0), (0.005, 0), (0.01, 0), (0.015, 0), (0.02, 0), (0.029, 0), (0.05, 0), (0.0, 1), (0.0, 2), (0.0, 3),
           (0.0, 4), (0.0, 8), (0.01, 1), (0.01, 2), (0.01, 4))  # fmt: skip
THRESHOLDS = (0.9, 0.8, 0.71)  # of DISCO; 0.71 = 1 - 2 arccos(0.9) / pi is what a cosine of 0.9 is between signs
Hide = Callable[[Sequence[Client], int], list[Client]]
"""A rule's `hide`. Rules are pairs of `token_noise` and `token_bits`."""


@cache
def encoded(text: str) -> Tensor:
    """An instruction's feature, (D,)."""
    return _encoder().encode([text])[0]


@cache
def _encoder():  # type: ignore[no-untyped-def]
    return load_text_encoder("tiny")


def token_of(records: Sequence[Record]) -> Tensor:
    """The identity token of a shard, (D,)."""
    return mean_feature(encoded(instruction_text(record.turns)).numpy() for record in records)


def hidden(hide: Hide, token: Tensor, seed: int) -> np.ndarray:
    """A token as the server sees it, (D,)."""
    return hide([Client(0, 0, 1, token)], seed)[0].feature.double().numpy()


def instructions(root: str) -> dict[str, list[str]]:
    """The instructions of every task whose training file is there, one of each feature."""
    collection = Collection.of_catalog(root)
    found = {}
    for name in collection.datasets:
        if Path(root, "instructions", name).is_dir():
            texts = dict.fromkeys(instruction_text(record.turns) for record in load_train(collection, name))
            found[name] = [*{_rounded(text): text for text in reversed(texts)}.values()][::-1]
    return found


def _rounded(text: str) -> bytes:
    """Of an instruction's feature; words added up in another order give other last bits."""
    return (encoded(text) * 2**16).round().to(torch.int32).numpy().tobytes()


# Recovered


def recovered(rule: TokenNoise, tasks: Sequence[Sequence[str]], draws: int) -> dict[int, list[Recovered]]:
    """By size of the client; the clients are the same whatever hides them.

    Args:
        rule: that hides them.
        tasks: their different instructions.
        draws: clients of each size and task.
    """
    pool = [*dict.fromkeys(text for task in tasks for text in task)]
    place = {text: number for number, text in enumerate(pool)}
    exact = torch.stack([encoded(text) for text in pool])
    features = exact.double().numpy()

    def seen(tokens: np.ndarray) -> np.ndarray:
        return quantised(torch.from_numpy(tokens), rule.token_bits).numpy() if rule.token_bits else tokens

    found: dict[int, list[Recovered]] = {size: [] for size in SIZES}
    for number, task in enumerate(tasks):
        if len(task) < TASKS_FROM:
            continue
        places = np.array([place[text] for text in task])
        for size in SIZES:
            for draw in range(draws if size < len(task) else 0):
                held = np.random.default_rng((number, size, draw)).choice(places, size, replace=False)
                token = hidden(rule.hide, mean_feature(exact[held].numpy()), seed=draw)
                found[size].append(recover(token, features, seen, places, held))
    return found


# Linked


def linked(hide: Hide, experiments: Sequence[Experiment]) -> tuple[float, float, float]:
    """Share of tasks told, AUC between halves of one shard, AUC between tasks; means over runs."""
    rows = []
    for run, experiment in enumerate(experiments):
        stream, clients = experiment.stream, range(experiment.setting.num_clients)
        tasks = range(len(stream.tasks))

        def seen(task: int, client: int, records: Sequence[Record], run: int = run) -> np.ndarray:
            return hide([Client(client, task, len(records), token_of(records))], run)[0].feature.double().numpy()

        public = np.stack([token_of(asked(experiment, task)).double().numpy() for task in tasks])
        tokens = {(t, c): seen(t, c, stream.shard(t, c)) for t in tasks for c in clients}
        told = np.mean([cosines(token, public).argmax() == task for (task, _), token in tokens.items()])
        within, across = [], []
        for task in tasks:
            # Halves are hidden on their own, as by a client that comes back under another name.
            parts = [[stream.shard(task, client)[half::2] for half in (0, 1)] for client in clients]
            halves = [[seen(task, 2 * c + h, parts[c][h]) for h in (0, 1)] for c in clients]
            pairs = [(cosines(halves[a][0], halves[b][1][None])[0], a == b) for a in clients for b in clients]
            within.append(_auc_of(pairs))
        centre = {t: np.mean([tokens[t, c] for c in clients], axis=0) for t in tasks}
        beside = {(t, c): token - centre[t] for (t, c), token in tokens.items()}
        for one, two in combinations(tasks, 2):
            pairs = [(cosines(beside[one, a], beside[two, b][None])[0], a == b) for a in clients for b in clients]
            across.append(_auc_of(pairs))
        rows.append((float(told), float(np.mean(within)), float(np.mean(across))))
    told, halves_auc, tasks_auc = np.mean(rows, axis=0)
    return float(told), float(halves_auc), float(tasks_auc)


def _auc_of(pairs: Sequence[tuple[float, bool]]) -> float:
    return auc(np.array([score for score, _ in pairs]), np.array([same for _, same in pairs]))


def asked(experiment: Experiment, task: int) -> list[Record]:
    """A task's test questions."""
    return [record for name in experiment.stream.tasks[task].datasets for record in experiment.tests[name]]


# Routed


def route(hide: Hide, experiment: Experiment) -> tuple[list[tuple[int, int]], Mapping[str, Tensor]]:
    """Task and subspace of every selected client of every round, and what DISCO knows in the end."""
    tokens = cache(lambda task, client: token_of(experiment.stream.shard(task, client)))
    population, method = experiment.federation(tokens).population, experiment.algorithm.method
    knowledge, routed = method.init({}, experiment.setting), []
    for stage in range(experiment.setting.num_stages):
        for round in range(experiment.setting.num_rounds):
            clients = hide(population.select(stage, round), experiment.setting.seed)
            assigned = method.assign(knowledge, stage, clients)
            updates = [
                ClientUpdate(stage=stage, round=round, client=client, assignment=assignment, delta={})
                for client, assignment in zip(clients, assigned, strict=True)
            ]
            knowledge = method.absorb(knowledge, updates)
            routed += [(update.client.task, update.assignment.train[0]) for update in updates]
    return routed, knowledge


def routing(hide: Hide, experiment: Experiment, plain: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Same, groups, pure, asked, weight; `plain` is what was routed in the clear."""
    method, num_tasks = experiment.algorithm.method, len(experiment.stream.tasks)
    subspaces = method.num_adapters(experiment.setting)
    routed, knowledge = route(hide, experiment)
    together = np.zeros((subspaces, subspaces))
    trained = np.zeros((num_tasks, subspaces))
    for (_, before), (task, now) in zip(plain, routed, strict=True):
        together[before, now] += 1
        trained[task, now] += 1
    asked_right, weight = [], []
    for task, home in enumerate(trained.argmax(axis=1)):
        features = torch.stack([encoded(instruction_text(record.turns)) for record in asked(experiment, task)])
        gate = method.gate(knowledge, features, subspaces)
        assert gate is not None
        asked_right.append(float((gate.argmax(1) == int(home)).float().mean()))
        weight.append(float(gate[:, home].mean()))
    same = together[linear_sum_assignment(-together)].sum() / len(routed)
    pure = trained.max(axis=0).sum() / len(routed)
    return float(same), len(knowledge["tokens"]), float(pure), float(np.mean(asked_right)), float(np.mean(weight))


# Tables


def opened(root: str, seeds: int, *names: str, **overrides: object) -> list[Experiment]:
    """One experiment a seed."""
    given = [f"benchmark.root={root}", *(f"benchmark.{key}={value}" for key, value in overrides.items())]
    return [open_experiment(load_config(*names, "disco", overrides=[*given, f"seed={n}"])) for n in range(seeds)]


def at(experiment: Experiment, threshold: float) -> Experiment:
    """With another threshold of DISCO."""
    method = replace(experiment.algorithm.method, threshold=threshold)
    return replace(experiment, algorithm=replace(experiment.algorithm, method=method))


def rules(clip: float) -> Iterator[tuple[str, TokenNoise]]:
    """With their names."""
    for noise, bits in HIDINGS:
        rule = TokenNoise(token_clip=clip, token_noise=noise, token_bits=bits)
        words = [f"noise {noise:g}"] * bool(noise) + [f"{bits} bits" if bits > 1 else "1 bit"] * bool(bits)
        yield ", ".join(words) or "in the clear", rule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/miniature")
    parser.add_argument("--pool", nargs="*", default=[], metavar="ROOT", help="data roots whose tasks are attacked too")
    parser.add_argument("--clip", type=float, default=0.2, help="token_clip")
    parser.add_argument("--draws", type=int, default=20, help="clients of each size and task")
    parser.add_argument("--seeds", type=int, default=10, help="runs that are routed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    named = [(f"{name}", texts) for root in (args.root, *args.pool) for name, texts in instructions(root).items()]
    console.print("different instructions: " + ", ".join(f"{name} {len(texts)}" for name, texts in named))
    tasks = [texts for _, texts in named]
    for name, rule in rules(args.clip):
        table = Table(
            "n", "clients", "task", "nearest", "pursuit", "fit", "search", "AUC nearest", "AUC fit", title=name
        )
        for size, rows in recovered(rule, tasks, args.draws).items():
            if rows:
                means = np.nanmean([list(vars(row).values()) for row in rows], axis=0)
                table.add_row(str(size), str(len(rows)), *(f"{mean:.2f}" for mean in means))
        console.print(table)
    table = Table("hidden", "task told", "halves", "across", "halves, labels", "across, labels")
    spread, skewed = (opened(args.root, min(args.seeds, 3), "miniature", **more)
                      for more in ({}, {"partition": "labels", "beta": 0.1}))  # fmt: skip
    for name, rule in rules(args.clip):
        told, *others = (*linked(rule.hide, spread), *linked(rule.hide, skewed)[1:])
        table.add_row(name, f"{told:.1%}", *(f"{value:.2f}" for value in others))
    console.print(table)
    for names in (["miniature"], ["miniature", "miniature_task_heterogeneous"]):
        experiments = opened(args.root, args.seeds, *names)
        routes = [route(lambda clients, seed: list(clients), experiment)[0] for experiment in experiments]
        for threshold in THRESHOLDS:
            table = Table("hidden", "same", "groups", "pure", "asked", "weight", title=f"{names[-1]}, {threshold:g}")
            for name, rule in rules(args.clip):
                rows = [
                    routing(rule.hide, at(run, threshold), plain)
                    for run, plain in zip(experiments, routes, strict=True)
                ]
                same, groups, pure, right, weight = np.mean(rows, axis=0)
                table.add_row(name, f"{same:.1%}", f"{groups:.1f}", f"{pure:.1%}", f"{right:.1%}", f"{weight:.3f}")
            console.print(table)


if __name__ == "__main__":
    main()
