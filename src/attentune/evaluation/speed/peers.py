"""All peers, by the names that `--peers` takes, in the order of the table."""

from __future__ import annotations

from attentune.evaluation.speed.compiled import CompiledFlex
from attentune.evaluation.speed.composed import Composed
from attentune.evaluation.speed.contestant import Contestant, own_contestants
from attentune.evaluation.speed.dense import FusedByFlag, FusedWithMask, Naive
from attentune.evaluation.speed.grid import Case
from attentune.evaluation.speed.packages import LocalAttentionPackage, Longformer, XTransformers

PEERS: dict[str, Contestant] = {
    "sdpa": FusedByFlag(),
    "sdpa_mask": FusedWithMask(),
    "flex": CompiledFlex(),
    "naive": Naive(),
    "chunked": Composed(),
    "local_attention": LocalAttentionPackage(),
    "x_transformers": XTransformers(),
    "longformer": Longformer(),
}


def contestants(case: Case) -> tuple[Contestant, ...]:
    """Ours and the peers that the setting names."""
    return (*own_contestants(case), *(PEERS[name] for name in case.setting.peers))
