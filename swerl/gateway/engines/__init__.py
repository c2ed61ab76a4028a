"""Engines: token ids in, token ids with log-probabilities and versions out. One small protocol (`base`), one module per engine."""
