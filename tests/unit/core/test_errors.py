from __future__ import annotations

import pickle

from mixer_plugin.errors import MissingExtraError


def test_a_missing_extra_crosses_processes():
    error = MissingExtraError("faiss", "faiss", "Searching")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is MissingExtraError
    assert str(again) == str(error)
    assert "pip install 'mixer-plugin[faiss]'" in str(again)
