"""The work of ``mixer-plugin export``."""

from __future__ import annotations

import argparse
from typing import Any

from mixer_plugin.commands.shared.arguments import size_of
from mixer_plugin.commands.shared.model import check_model, find_model, given_once
from mixer_plugin.commands.shared.telling import show
from mixer_plugin.export import export_model


def run_export(options: argparse.Namespace) -> int:
    """Exports a wrapped model.

    Raises:
        MixERError: Options do not fit together, the model is not what it should be, or the exported
            one gives something else.
        OSError: A file cannot be read or written.
    """
    given_once(options, "model", "checkpoint")
    given: dict[str, Any] = {} if options.size is None else {"size": size_of(options.size)}
    check_model(options)
    found = find_model(options)
    if found.built is not None:
        given["size"] = found.built.image_size
    report = export_model(found.model, options.out, **given)
    erased, related, fused = report.widths
    text = (
        f"{report.path}: erased {erased}, related {related}, fused {fused} columns; within "
        f"{report.difference:.0e} of the model"
    )
    columns = {"erased": erased, "related": related, "fused": fused}
    document = {"file": str(report.path), "columns": columns, "difference": report.difference}
    show(options, text, document)
    return 0
