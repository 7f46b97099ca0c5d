"""Native libraries and the GPU's context, loaded on a thread beside Python's modules.

torch's libraries of a CUDA build are some gigabytes, and the context of a GPU takes up
to a second or two: work of the system's loader and of the driver, which needs nothing
of Python. Python's modules meanwhile need one core and its lock. Both at once take as
long as the longer one. What is loaded is what `import torch` and the first use of the
GPU would load, in the same order and from the same files.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

from lumina.threads import start

_NOW, _GLOBAL = 0x2, 0x100  # RTLD_NOW, RTLD_GLOBAL of Linux


def load_ahead(*, gpu: bool) -> threading.Thread | None:
    """Begin to load torch's libraries, and to make the GPU's context.

    The thread is not a daemon: the process waits for it before it ends, since a
    library must not be taken down while it is being loaded.

    Args:
        gpu: make the context of this rank's GPU too; only where `CUDA_VISIBLE_DEVICES`
            is final.

    Returns:
        The thread; None where there is nothing to gain: torch is loaded or missing,
        or the system is not Linux.
    """
    if "torch" in sys.modules or sys.platform != "linux":
        return None
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "lib"
    thread = threading.Thread(target=_load, args=(folder, gpu), name="lumina-libraries")
    try:
        start(thread)
    except RuntimeError:  # no room for a thread: what follows loads them by itself
        return None
    return thread


def _load(folder: Path, gpu: bool) -> None:
    """Load, in torch's own order; what fails is met again by whoever needs it."""
    loader = ctypes.CDLL(None).dlopen  # unlike ctypes.CDLL it releases Python's lock
    loader.restype, loader.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    for name, mode in (
        ("libtorch_global_deps.so", _NOW | _GLOBAL),
        ("libtorch_cpu.so", _NOW),
        ("libtorch_cuda.so", _NOW),
    ):
        if (path := folder / name).is_file():
            loader(str(path).encode(), mode)
    if gpu and (folder / "libtorch_cuda.so").is_file():
        make_context(int(os.environ.get("LOCAL_RANK") or 0))


def make_context(rank: int) -> bool:
    """Make the primary context of a GPU, which torch's first use of it then finds.

    Args:
        rank: of this process on this machine; as many GPUs take their turns.

    Returns:
        Whether it was made; not where there is no driver or no GPU.
    """
    # As torch sets it before it initialises CUDA: kernels are loaded when first used.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    with contextlib.suppress(AttributeError):  # a driver without one of them
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
            and driver.cuDeviceGet(ctypes.byref(device), rank % count.value) == 0
            and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        )
    return False
