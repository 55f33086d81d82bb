"""What tests of one's own adapters use.

``check_adapter`` lives beside the invariants of ``mixer-plugin check``; this is its public name.
"""

from __future__ import annotations

from mixer_plugin.conformance.adapter_check import check_adapter

__all__ = ["check_adapter"]
