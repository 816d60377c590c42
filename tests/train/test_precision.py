"""bfloat16 is used where it is quick: neither without the processor's instructions, nor where it is not wanted."""

from __future__ import annotations

import pytest
import torch

from edgeemo.train.precision import bfloat16_products


@pytest.mark.parametrize("wanted", [True, False])
def test_products_are_in_bfloat16_where_it_is_quick(wanted: bool) -> None:
    quick = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with bfloat16_products(wanted):
        made = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (made.dtype is torch.bfloat16) == (wanted and quick)
