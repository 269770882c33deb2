"""Passes over float programs, after import."""

from __future__ import annotations

from pipeline.passes.float.fold_constants import fold_constants
from pipeline.passes.float.fuse_affine import fuse_affine
from pipeline.passes.float.fuse_clip import fuse_clip
from pipeline.passes.float.fuse_layer_norm import fuse_layer_norm
from pipeline.passes.float.fuse_padding import fuse_padding
from pipeline.passes.float.fuse_unary import fuse_unary
from pipeline.passes.float.hoist_reshapes import hoist_reshapes
from pipeline.passes.float.propagate_layout import propagate_layout
from pipeline.passes.float.remove_identities import remove_identities
from pipeline.passes.float.replace_empty_tensors import replace_empty_tensors

PASSES = (
    replace_empty_tensors,
    fold_constants,
    fuse_layer_norm,
    propagate_layout,
    fuse_padding,
    fuse_affine,
    fuse_clip,
    fuse_unary,
    hoist_reshapes,
    remove_identities,
)
"""The passes between TVM's frontend and `annotate`, in order."""
