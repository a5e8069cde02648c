"""Weights of the reference MgNO (github.com/xlliu2017/MgNO, class ``MgNO_DC`` and its kin) in our names."""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

_RENAMED = (
    (r"conv_list\.(\d+)\.layer0\.(\d+)\.([SA])\.weight", r"W.\1.levels.0.pre.\2.\3.weight"),
    (r"conv_list\.(\d+)\.post_smooth_layer(\d+)\.(\d+)\.([SA])\.weight", r"W.\1.levels.\2.post.\3.\4.weight"),
    (r"conv_list\.(\d+)\.RTlayers\.(\d+)\.weight", r"W.\1.levels.\2.P.weight"),
    (r"linear_list\.(\d+)\.(weight|bias)", r"B.\1.\2"),
    (r"linear\.weight", r"head.weight"),
)
_LOWER_LEVEL = re.compile(r"conv_list\.(\d+)\.layer(\d+)\.(\d+)\.(S|A|Pi|R)\.weight")


def convert_reference_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a reference ``state_dict`` for :class:`~vcycle.models.MgNO` with ``boundary="zeros"``.

    Parameters
    ----------
    state
        The reference model's weights. 3-wide prolongations, which its odd sizes use, are the first three of our four
        columns; normaliser buffers are left out.

    Returns
    -------
    dict
        Weights for ``MgNO.load_state_dict``.

    Raises
    ------
    ValueError
        If a name is not one of the reference Darcy model's.
    """
    converted = {}
    for name, weight in state.items():
        if name.startswith("normalizer."):
            continue
        ours = _our_name(name)
        if ours.endswith(".P.weight"):
            weight = F.pad(weight, [side for size in reversed(weight.shape[2:]) for side in (0, 4 - size)])
        converted[ours] = weight
    return converted


def _our_name(name: str) -> str:
    for pattern, ours in _RENAMED:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    match = _LOWER_LEVEL.fullmatch(name)
    if match is None:
        raise ValueError(f"`state` must hold the weights of a reference MgNO_DC. Got the name {name!r}.")
    layer, level, step, stencil = match[1], int(match[2]), int(match[3]), match[4]
    if step == 0:  # the reference stores a restriction with the level that it leads to
        return f"W.{layer}.levels.{level - 1}.{stencil}.weight"
    return f"W.{layer}.levels.{level}.pre.{step - 1}.{stencil}.weight"
