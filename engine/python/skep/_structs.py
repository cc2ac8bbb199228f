# SPDX-License-Identifier: Apache-2.0
"""The structs of skep.h and skep_gpu.h, field by field; a test compares them with the headers."""
import ctypes
from ctypes import (
    c_char,
    c_char_p,
    c_double,
    c_int32,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)


class OpenOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("realm", c_char_p), ("token", c_char_p),
                ("flags", c_uint32), ("name", c_char_p), ("deadline_ns", c_uint64)]


class PartLayout(ctypes.Structure):
    _fields_ = [("bytes", c_uint64), ("ranges", c_uint32), ("rank", c_uint16),
                ("group", c_uint16)]


class SpaceOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("name", c_char_p), ("model", c_char_p),
                ("weights", c_char_p), ("rope", c_char_p), ("layout", c_char_p),
                ("engine", c_char_p), ("block_tokens", c_uint32), ("ranks", c_uint32),
                ("groups", c_uint32), ("part_count", c_uint32), ("parts", c_void_p),
                ("flags", c_uint32)]


class Keys(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("keys", c_void_p), ("key_bytes", c_uint32),
                ("count", c_uint32), ("tokens", c_void_p), ("token_count", c_uint32)]


class Ref(ctypes.Structure):
    _fields_ = [("incarnation", c_uint64), ("frame_generation", c_uint64), ("slot", c_uint32),
                ("reserved", c_uint32)]


class Pin(ctypes.Structure):
    _fields_ = [("cell", c_uint32), ("epoch", c_uint32)]


class Match(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("chain", c_void_p), ("first", c_uint32),
                ("count", c_uint32), ("flags", c_uint32), ("refs_max", c_uint32),
                ("refs", c_void_p), ("matched", c_uint32), ("reason", c_uint32), ("pin", Pin),
                ("stored", c_uint32)]


class Load(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("chain", c_void_p), ("first", c_uint32),
                ("count", c_uint32), ("refs", c_void_p), ("refs_max", c_uint32),
                ("loaded", c_uint32), ("deadline_ns", c_uint64), ("reason", c_uint32),
                ("pin", Pin), ("flags", c_uint32), ("queue", c_void_p), ("user", c_uint64),
                ("handle", c_uint64), ("step_ranges", c_uint32)]


class LoadCopy(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("space", c_void_p), ("handle", c_uint64),
                ("block", c_uint32), ("count", c_uint32), ("part", c_uint32),
                ("first_range", c_uint32), ("range_count", c_uint32), ("pieces", c_uint32),
                ("to", c_void_p)]


class View(ctypes.Structure):
    _fields_ = [("bytes", c_void_p), ("length", c_uint64)]


class Copy(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("space", c_void_p), ("ref", Ref),
                ("part", c_uint32), ("first_range", c_uint32), ("range_count", c_uint32),
                ("to", c_void_p), ("to_count", c_uint32)]


class Frame(ctypes.Structure):
    _fields_ = [("bytes", c_void_p), ("length", c_uint64), ("status", c_int32),
                ("block", c_uint32), ("part", c_uint32), ("slot", c_uint32),
                ("write", c_uint64), ("epoch", c_uint32), ("ranges", c_uint32),
                ("id", c_char * 16)]


class Reserve(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("chain", c_void_p), ("first", c_uint32),
                ("count", c_uint32), ("part", c_uint32), ("length", c_uint64),
                ("deadline_ns", c_uint64), ("first_missing", c_uint32)]


class Commit(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("sums", c_uint32), ("given", c_void_p),
                ("queue", c_void_p), ("user", c_uint64), ("deadline_ns", c_uint64)]


class Put(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("chain", c_void_p), ("first", c_uint32),
                ("count", c_uint32), ("part", c_uint32), ("pieces", c_uint32),
                ("from_", c_void_p), ("statuses", c_void_p), ("deadline_ns", c_uint64),
                ("first_missing", c_uint32)]


class Wait(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("chain", c_void_p), ("block", c_uint32),
                ("first_range", c_uint32), ("range_count", c_uint32), ("queue", c_void_p),
                ("user", c_uint64), ("deadline_ns", c_uint64)]


class Keyed(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("space", c_void_p), ("keys", c_void_p),
                ("key_bytes", c_uint32), ("count", c_uint32), ("part", c_uint32),
                ("pieces", c_uint32), ("bytes", c_void_p), ("statuses", c_void_p),
                ("deadline_ns", c_uint64)]


class Explanation(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("matched", c_uint32), ("reason", c_uint32),
                ("seconds_ago", c_double), ("space", c_char * 64), ("field", c_char * 64)]


class Stats(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("dram_bytes", c_uint64),
                ("dram_bytes_used", c_uint64), ("blocks", c_uint64),
                ("blocks_pending", c_uint64), ("tokens_asked", c_uint64),
                ("tokens_had", c_uint64), ("puts", c_uint64), ("puts_refused", c_uint64),
                ("evicted", c_uint64), ("pins", c_uint64), ("sessions", c_uint64),
                ("checksum_failures", c_uint64)]


class Event(ctypes.Structure):
    _fields_ = [("user", c_uint64), ("status", c_int32), ("block", c_uint32)]


class GpuOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("kind", c_uint32), ("device", c_uint32),
                ("ring_slots", c_uint32), ("ring_parts", c_uint32), ("flags", c_uint32)]


class GpuStats(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("parts_direct", c_uint64),
                ("bytes_direct", c_uint64), ("parts_staged", c_uint64),
                ("bytes_staged", c_uint64), ("bytes_registered", c_uint64),
                ("chunks_registered", c_uint32), ("chunks_waiting", c_uint32),
                ("chunks_refused", c_uint32), ("refusal", c_int32)]


class GpuTensors(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("order", c_uint32), ("layers", c_uint32),
                ("kinds", c_uint32), ("block_tokens", c_uint32), ("heads", c_uint32),
                ("head_bytes", c_uint32), ("ranges", c_uint32), ("page_tokens", c_uint32),
                ("page_count", c_uint32), ("blocks_max", c_uint32), ("jobs", c_uint32),
                ("bases", c_void_p), ("page_stride", c_uint64), ("token_stride", c_uint64),
                ("head_stride", c_uint64), ("table_layers", c_void_p), ("tables", c_uint32)]


class GpuPages(ctypes.Structure):
    _fields_ = [("numbers", c_void_p), ("count", c_uint32), ("first_slot", c_uint32)]


class GpuSave(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("chain", c_void_p), ("first", c_uint32),
                ("count", c_uint32), ("part", c_uint32), ("first_missing", c_uint32),
                ("pages", GpuPages), ("stream", c_uint64), ("deadline_ns", c_uint64)]


class GpuLoad(ctypes.Structure):
    _fields_ = [("struct_bytes", c_size_t), ("refs", c_void_p), ("count", c_uint32),
                ("part", c_uint32), ("pages", GpuPages), ("stream", c_uint64)]


# The C name of each, for the test that compares sizes and offsets.
C_NAMES = {
    "skep_open_options": OpenOptions, "skep_part_layout": PartLayout,
    "skep_space_options": SpaceOptions, "skep_keys": Keys, "skep_ref": Ref, "skep_pin": Pin,
    "skep_match": Match, "skep_load": Load,
    "skep_load_copy": LoadCopy, "skep_view": View, "skep_copy": Copy,
    "skep_frame": Frame, "skep_reserve": Reserve, "skep_commit": Commit, "skep_put": Put,
    "skep_keyed": Keyed, "skep_wait": Wait, "skep_explanation": Explanation, "skep_stats": Stats,
    "skep_event": Event, "skep_gpu_options": GpuOptions, "skep_gpu_tensors": GpuTensors,
    "skep_gpu_stats": GpuStats,
    "skep_gpu_pages": GpuPages, "skep_gpu_save": GpuSave, "skep_gpu_load": GpuLoad,
}


def made(kind, /, **fields):
    """A struct with its struct_bytes set."""
    return kind(struct_bytes=ctypes.sizeof(kind), **fields)
