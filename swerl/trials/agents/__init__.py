"""Agents of our own. Any other agent of Harbor works too, by name or import path; `trials.agentcfg` points it at the gateway."""
