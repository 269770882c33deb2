"""RemoveIdentities: operators that change nothing are removed.

Before -> after: `reshape(x, x.shape)`, `permute_dims(x, identity)`, `astype(x, x.dtype)` become x.
"""

from __future__ import annotations

import tvm

from pipeline.ir.bridge import tensor_type
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite


def _changes_type(match: Match) -> str | None:
    return None if tensor_type(match["x"]) == match.result_type else "it changes the shape or the dtype"


def _changes_order(match: Match) -> str | None:
    axes = match.call("permutation").attrs["axes"]
    identity = axes is not None and [int(a) for a in axes] == list(range(len(axes)))
    return None if identity else "it changes the order of the axes"


RULES = (
    Rule(
        "remove_reshape",
        call(["relax.reshape", "relax.astype"], anything("x")),
        lambda match: match["x"],
        _changes_type,
    ),
    Rule(
        "remove_permutation",
        call("relax.permute_dims", anything("x"), name="permutation"),
        lambda match: match["x"],
        _changes_order,
    ),
)


def remove_identities(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module without operators that return their argument unchanged."""
    return rewrite(module, *RULES)
