"""Seeds derived from names, so that no draw depends on what was drawn before it or in which process."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a path such as `(seed, "client", stage, round, client)`."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def client_seed(seed: int, stage: int, round: int, client: int) -> int:
    """Of a client's order of records and its dropout in a round; `seed` is the run's."""
    return derive_seed(seed, "client", stage, round, client)
