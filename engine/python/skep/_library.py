# SPDX-License-Identifier: Apache-2.0
"""Finds libskep.so and libskep-gpu.so, and tells ctypes what their calls take and give.

$SKEP_LIBRARY names libskep.so where it is set; else it lies beside this file (in the wheel); else
it is the system's. libskep-gpu.so is looked for in the same place. ctypes.CDLL lets other threads
run during a call.
"""
import ctypes
import os
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

_P = c_void_p

# name: (result, arguments)
_CALLS = {
    "skep_version": (c_char_p, ()),
    "skep_status_text": (c_char_p, (c_int,)),
    "skep_reason_text": (c_char_p, (c_uint,)),
    "skep_open": (c_int, (c_char_p, _P, _P)),
    "skep_close": (None, (_P,)),
    "skep_attached": (c_int, (_P,)),
    "skep_space_open": (c_int, (_P, _P, _P)),
    "skep_space_field": (c_char_p, (_P,)),
    "skep_space_close": (None, (_P,)),
    "skep_space_purge": (c_int64, (_P, c_uint64)),
    "skep_space_step": (c_int64, (_P, c_uint64)),
    "skep_chain_create": (c_int, (_P, _P)),
    "skep_chain_destroy": (None, (_P,)),
    "skep_chain_append": (c_int, (_P, _P, c_size_t)),
    "skep_chain_append64": (c_int, (_P, _P, c_size_t)),
    "skep_chain_append_keys": (c_int, (_P, _P)),
    "skep_chain_extra": (c_int, (_P, _P, c_size_t)),
    "skep_chain_truncate": (None, (_P, c_uint32)),
    "skep_chain_id": (c_int, (_P, c_uint32, _P)),
    "skep_match": (c_int, (_P, _P, c_uint)),
    "skep_pin_refs": (c_int, (_P, _P, c_uint, _P)),
    "skep_release": (None, (_P, _P)),
    "skep_load": (c_int, (_P, _P)),
    "skep_load_end": (c_int, (_P, _P)),
    "skep_load_cancel": (c_int, (_P, c_uint64)),
    "skep_load_reach": (c_int, (_P, c_uint64, c_uint32)),
    "skep_load_copy": (c_int, (_P, _P)),
    "skep_views": (c_int, (_P, c_uint32, _P, _P, c_uint)),
    "skep_copies": (c_int, (_P, _P, _P, c_uint)),
    "skep_put": (c_int, (_P, _P)),
    "skep_reserve": (c_int, (_P, _P, _P)),
    "skep_commit": (c_int, (_P, _P, c_uint, _P)),
    "skep_abort": (c_int, (_P, _P, c_uint)),
    "skep_range_sum": (c_uint64, (_P, c_size_t)),
    "skep_missing": (c_int, (_P, _P, c_uint32, c_uint32, _P, c_uint)),
    "skep_wait": (c_int, (_P, _P)),
    "skep_sync": (c_int, (_P, c_uint64)),
    "skep_durable": (c_int, (_P, c_uint64)),
    "skep_hint": (c_int, (_P, _P, c_uint32, c_uint32)),
    "skep_explain": (c_int, (_P, _P, c_uint64, _P)),
    "skep_stats": (c_int, (_P, c_uint64, _P)),
    "skep_keyed_find": (c_int, (_P,)),
    "skep_keyed_get": (c_int, (_P,)),
    "skep_keyed_put": (c_int, (_P,)),
    "skep_keyed_remove": (c_int, (_P,)),
    "skep_queue_create": (c_int, (_P, _P)),
    "skep_queue_fd": (c_int, (_P,)),
    "skep_queue_take": (c_int, (_P, _P, c_uint)),
    "skep_queue_destroy": (None, (_P,)),
}
_GPU_CALLS = {
    "skep_gpu_open": (c_int, (_P, _P, _P)),
    "skep_gpu_close": (None, (_P,)),
    "skep_gpu_stats": (c_int, (_P, _P)),
    "skep_gpu_part": (c_int, (_P, _P)),
    "skep_gpu_plan_create": (c_int, (_P, _P, _P, _P)),
    "skep_gpu_plan_destroy": (None, (_P,)),
    "skep_gpu_save_begin": (c_int, (_P, _P, _P)),
    "skep_gpu_load_begin": (c_int, (_P, _P, _P)),
    "skep_gpu_done": (c_int, (_P,)),
    "skep_gpu_end": (c_int, (_P, _P, c_uint64)),
    "skep_gpu_abort": (None, (_P,)),
}


def _place(name):
    """Where the library of that name lies: beside the named one, beside this file, or anywhere."""
    named = os.environ.get("SKEP_LIBRARY")
    if named:
        return named if name == "libskep.so.0" else os.path.join(os.path.dirname(named), name)
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    return beside if os.path.exists(beside) else name


def _load(name, calls):
    path = _place(name)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"{path} cannot be loaded ({error}); $SKEP_LIBRARY may name "
                          "libskep.so.0") from None
    for call, (result, arguments) in calls.items():
        try:
            function = getattr(library, call)
        except AttributeError:
            raise ImportError(f"{path} is older than this package: it has no {call}()") from None
        function.restype, function.argtypes = result, arguments
    return library


lib = _load("libskep.so.0", _CALLS)
_gpu = None


def gpu():
    """libskep-gpu.so, loaded when first asked for. It must stand on the same libskep.so."""
    global _gpu
    if _gpu is None:
        library = _load("libskep-gpu.so.0", _GPU_CALLS)
        # The search of its symbols goes on in what it is linked to.
        if _address(library.skep_open) != _address(lib.skep_open):
            raise ImportError("libskep-gpu.so stands on another libskep.so than the one loaded")
        _gpu = library
    return _gpu


def _address(function):
    return ctypes.cast(function, c_void_p).value
