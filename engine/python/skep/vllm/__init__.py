# SPDX-License-Identifier: Apache-2.0
"""skep under vLLM: SkepConnector, a KV connector, and SkepTier, a tier of vLLM's own offloading.

    --kv-transfer-config '{"kv_connector": "SkepConnector", "kv_role": "kv_both",
      "kv_connector_module_path": "skep.vllm", "kv_load_failure_policy": "recompute"}'

docs/engines/vllm.md says what can be set, and what is not supported.
"""
from typing import Any

__all__ = ["SkepConnector", "SkepTier"]


def __getattr__(name: str) -> Any:
    # Either stands alone: a vLLM may have the interface of one and not of the other.
    if name == "SkepConnector":
        from .connector import SkepConnector

        return SkepConnector
    if name == "SkepTier":
        from .tier import SkepTier

        return SkepTier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
