"""What names in an `.onnx` say about its constants, held against what the alignment says.

Structure alone could take two tensors of one shape for each other. paddle2onnx keeps Paddle's names of parameters
(`batch_norm2d_3.w_1` is a mean), PyTorch's exporter keeps paths (`network.backbone.conv1.conv.weight`): where such a
name is left, it must agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from paddle2torch.converters.layout import Row
from paddle2torch.model_zoo.errors import ConversionError

_STATIC = re.compile(r"(conv\dd_transpose|conv\dd|linear|batch_norm(?:\dd)?|layer_norm)_\d+\.([wb]_\d)")
_ROLES = {"w_0": "weight", "b_0": "bias"}
_NORM_ROLES = {**_ROLES, "w_1": "running_mean", "w_2": "running_var"}
_PATH = "network."


def check_names(rows: Sequence[Row], source: str) -> None:
    """Raise `ConversionError`, led by `source`, where the name of a constant says that it is another tensor."""
    keys = {row.torch_key for row in rows}
    places = {(row.paddle_key, row.torch_key) for row in rows}
    for row in rows:
        found = _STATIC.match(row.paddle_key)
        path = row.paddle_key.removeprefix(_PATH)
        said = row.torch_key
        if found is not None:
            norm = found[1].startswith("batch_norm")
            owner, _, name = row.torch_key.rpartition(".")
            has_statistics = f"{owner}.running_mean" in keys
            expected = (_NORM_ROLES if norm else _ROLES).get(found[2])
            if expected != name or norm != has_statistics:
                said = f"the {expected} of a layer {found[1]}"
        elif path != row.paddle_key and path in keys:
            said = path
        # Equal constants are kept once by PyTorch's exporter, under the name of one of their places.
        if said != row.torch_key and (row.paddle_key, said) not in places:
            raise ConversionError(
                f"{source}: by its place {row.paddle_key} is {row.torch_key}, by its name {said}: the file was changed "
                f"after it was exported, and cannot be trusted"
            )
