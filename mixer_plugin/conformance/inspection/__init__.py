"""Looks at any network during a forward, and proposes the adapter that attaches MixER to it."""
