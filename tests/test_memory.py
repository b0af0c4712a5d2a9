"""What a process keeps of memory, in processes of their own."""

import subprocess
import sys

import pytest
import torch

PRODUCTS = """
import psutil, torch
from nanoscout.memory import keep_few_products
{call}
rows, columns = torch.ones(2, 64, 64).bfloat16(), torch.ones(2, 64, 1400).bfloat16()
torch.bmm(rows, columns)
before = psutil.Process().memory_info().rss
for count in range(700, 1400):
    torch.bmm(rows, columns[:, :, :count])
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


def grown(call: str) -> int:
    """MB that a process keeps after 700 products of as many shapes."""
    program = PRODUCTS.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_compiled_products_of_many_shapes_do_not_pile_up() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch compiles no products for this processor")
    assert grown("keep_few_products()") < 0.9 * grown("")
