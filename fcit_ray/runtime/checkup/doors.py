"""What follows from the facts about ports and tokens: who else may run code on the cluster."""

from fcit_ray.runtime.checkup.facts import Cluster, Finding, Level

_TOKEN = (
    "set RAY_AUTH_MODE=token before `ray start` on every node, with one token in ~/.ray/auth_token "
    "(`ray get-auth-token --generate`)"
)


def token(cluster: Cluster) -> list[Finding]:
    """Whether the head lets in who has no token: by trying it, or else by what the nodes say of themselves."""
    modes = {node.look.token for node in cluster.nodes}
    if cluster.open:
        return [
            Finding(
                "warn", "token", f"{cluster.address} lets in whoever reaches it: they may run code on every node",
                f"{_TOKEN}; or a network that nobody else is in",
            )
        ]  # fmt: skip
    if cluster.open is False:
        return [Finding("ok", "token", "whoever has no token is turned away")]
    if modes == {True}:
        return [Finding("ok", "token", "every node says that it asks for one; not tried")]
    return [
        Finding("warn", "token", "not known whether the cluster asks for a token: this Ray cannot be asked", _TOKEN)
    ]


def ports(cluster: Cluster) -> list[Finding]:
    """Which of Ray's ports other machines reach."""
    found = []
    hidden = [node.name for node in cluster.nodes if node.look.hidden]
    guarded = cluster.open is False
    for node in cluster.nodes:
        if not node.look.ports:
            continue
        said = ", ".join(
            f"{name} {' '.join(str(port.port) for port in node.look.ports if port.process == name)}"
            for name in dict.fromkeys(port.process for port in node.look.ports)
        )
        alone = len(cluster.nodes) == 1 and not cluster.silent
        remedy = (
            "one machine needs none of them: a firewall, or `ray start --node-ip-address 127.0.0.1`"
            if alone
            else "let only the cluster's machines through (firewall, security group)"
        )
        level: Level = "ok" if guarded else "warn"
        guard = ", behind the token" if guarded else ""
        found.append(Finding(level, "ports", f"{node.name} listens for other machines{guard}: {said}", remedy))
    if hidden:
        found.append(
            Finding(
                "warn", "ports", f"not all of Ray's processes could be looked into on {', '.join(hidden)}",
                "ask as the user that started Ray there",
            )
        )  # fmt: skip
    return found or [Finding("ok", "ports", "Ray's processes listen on loopback alone")]
