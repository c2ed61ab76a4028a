"""What follows from a configuration without running anything: the shape of the model, the plan of steps and trials, memory, task indexes.

Pure functions over a checked configuration and the files it names. Launch, trainer, forecast and preflight ask the same ones, so no two of
them can count differently. Imports `swerl.config` and `swerl.errors`, and nothing heavy.
"""
