"""Two processes that share a mesh load a checkpoint, each its own part, and write it back together."""

import socket
import subprocess
import sys

from reflex_jax.checkpoints.paths import resolve_checkpoint
from tests.parity.test_policy_checkpoint import assert_same_bytes

PROGRAM = """
import sys
import jax
process, port, target = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
from pathlib import Path
from reflex_jax import load_policy
from reflex_jax.checkpoints import huggingface
from reflex_jax.checkpoints.policy import save_policy
from reflex_jax.config import MeshConfig
from reflex_jax.sharding import make_mesh

read_block = huggingface._read_block
numbers = []
def counted(*arguments):
    block = read_block(*arguments)
    numbers.append(block.size)
    return block
huggingface._read_block = counted
policy = load_policy("phantom", "float32", make_mesh(MeshConfig(data=1, fsdp=4)))
assert not policy.params["layers"]["gate"]["kernel"].is_fully_addressable
print("read", sum(numbers), "of", sum(leaf.size for leaf in jax.tree.leaves(policy.params)))
save_policy(policy.directory, policy.config, policy.params, Path(target), shard_bytes=500_000)
assert Path(target, "config.json").is_file()  # process 1 goes on only when process 0 is done
"""


def test_two_processes_load_and_save(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(number), str(port), str(tmp_path / "copy")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(error[-2000:] for _, error in outputs)
    for output, _ in outputs:
        _, read, _, everything = next(line for line in output.splitlines() if line.startswith("read")).split()
        assert int(read) < 0.55 * int(everything)  # half of what is cut, and the few vectors that all hold
    assert_same_bytes(resolve_checkpoint("phantom", "policy"), tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
