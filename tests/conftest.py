"""How many examples hypothesis tries: HYPOTHESIS_PROFILE=quick (the default) or thorough.

A shell starts jobs in the background with Ctrl-C ignored, and processes that a test interrupts
would inherit that.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
