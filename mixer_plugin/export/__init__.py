"""Wrapped models for deployment: ONNX and ``torch.export``; heads in a folder of their own."""

from __future__ import annotations

from mixer_plugin.export.files import ExportReport, export_model
from mixer_plugin.export.pretrained import from_pretrained, save_pretrained
from mixer_plugin.export.program import export_program

__all__ = ["ExportReport", "export_model", "export_program", "from_pretrained", "save_pretrained"]
