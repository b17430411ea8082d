"""The libraries that fastconv is measured against, one file each.

A peer is one file in this folder that ends in ``PEER = TheClass()``; `all_peers` finds it. To add one, copy
the nearest file and answer its questions; no library is imported before it is asked for.
"""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType

from fastconv.compare.peers.interface import Contestant, Peer

__all__ = ["Contestant", "Peer", "all_peers", "select"]


@lru_cache(maxsize=1)
def all_peers() -> MappingProxyType[str, Peer]:
    """Return every peer by name, installed or not, the NumPy baseline first."""
    found: list[Peer] = []
    for module in pkgutil.iter_modules(__path__):
        peer = getattr(import_module(f"{__name__}.{module.name}"), "PEER", None)
        if peer is not None:
            found.append(peer)
    return MappingProxyType({peer.name: peer for peer in sorted(found, key=lambda p: (p.rank, p.name))})


def select(words: str) -> list[Peer]:
    """Return the peers that ``"all"``, ``"none"`` or a list of names separated by commas asks for."""
    peers = all_peers()
    if words in {"all", "none"}:
        return list(peers.values()) if words == "all" else []
    names = [name.strip() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in peers:
            raise ValueError(f"peers: {name!r} is unknown; choose all, none or from {', '.join(peers)}")
    return [peers[name] for name in dict.fromkeys(names)]
