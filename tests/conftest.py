"""Shared set-up of the tests: eight fake CPU devices, programs compiled once, real data by name, torchvision importable."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # judges that tests start are not behind a proxy
# Tests compile much and compute little: without LLVM's optimisations compiling takes half the time, and with XLA's plain
# way to emit loops a third to a half of that (a training step: 10.3 s, 6.8 s, 2.1 s of CPU).
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    # on two cores two workers gain nothing from programs in parts, and little from the thorough analysis that saves copies:
    # without both, 5 % less CPU time
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_copy_insertion_use_region_analysis=false"
)
# What one test compiled no other compiles again: JAX's persistent cache, empty at the start of a run, serves the workers
# and the commands that tests start. A test that counts compilations counts those the cache answers too, as a run does.
_own_cache = None if os.environ.get("JAX_COMPILATION_CACHE_DIR") else tempfile.mkdtemp(prefix="reflex-compiled-")
if _own_cache:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _own_cache
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Operations do not remember who called them, which costs time in tracing and in lowering.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# A collection walks millions of objects of torch, transformers and JAX's traces that live as long as the process; at Python's
# own thresholds that took 96 of 1,467 seconds of the workers.
gc.set_threshold(100_000, 50, 1000)

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# as the variables say, also where a plugin of pytest imported JAX before they were set
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_numpy_dtype_promotion", "strict")  # two dtypes never meet without a cast that says so

import absl.flags
import pytest
from hypothesis import HealthCheck, settings

from tests.type_checks import check_calls_into

check_calls_into("reflex_jax")

if not absl.flags.FLAGS.is_parsed():
    absl.flags.FLAGS.mark_as_parsed()  # grain's worker processes ask for parsed flags

settings.register_profile(
    "default", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("default")

REPOSITORY = Path(__file__).resolve().parent.parent


# What takes longest, with which the workers must begin: else one of them ends the run alone.
LONGEST = (
    "training/test_faults", "multiprocess/test_two_processes", "test_cli", "step/test_step", "step/test_program",
    "parity/test_policy_forward", "planning/test_plan", "models/test_shared_group", "launch/test_scripts",
    "training/test_supervised", "judge/test_gather_evidence", "step/test_rounds", "parity/test_judge_evidence",
    "test_run_without_torch", "run/test_export", "planning/test_hlo_costs", "text/test_sampled_text", "step/test_generate",
    "parity/test_policy_checkpoint", "step/test_imitate", "step/test_lora", "models/test_load_on_mesh",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest files first where several workers share them, file by file; most notebooks are slow.

    A notebook starts a kernel of its own, which imports and compiles everything anew.
    """
    for item in items:
        if item.path.suffix == ".ipynb" and not item.path.name.startswith("01_"):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        places = {REPOSITORY / "tests" / f"{name}.py": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_unconfigure() -> None:
    """Takes away the compiled programs of this run; workers use their controller's."""
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)


def _stub_torchvision_operators() -> None:
    """Lets the CUDA-linked torchvision wheel import beside a CPU torch.

    Its import registers shape rules for two operators that only its CUDA library defines; naming them is enough, the
    image transforms are plain torch.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return
    if torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_torchvision_library"] = library  # the definitions live as long as this object


_stub_torchvision_operators()


def _real_data_root() -> Path:
    return Path(os.environ.get("REFLEX_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the real data sets; a test that needs it is skipped by name where it is absent."""
    root = _real_data_root()
    if not (root / "vqa-rad").is_dir():
        reason = f"real data not found at {root}: set REFLEX_DATA to the folder that holds vqa-rad, slake, tokenizers"
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the real data. {reason}")
        pytest.skip(reason)
    return root


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's top folder."""
    return REPOSITORY


@pytest.fixture(scope="module")
def programs_once() -> Iterator[None]:
    """For files that run many commands on the same settings: see `tests/programs_once.py`."""
    from tests.programs_once import programs_once  # here: the package is imported after the types are checked

    with programs_once():
        yield
