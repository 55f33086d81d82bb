"""MATLAB's files, versions 5 and 7.3."""
