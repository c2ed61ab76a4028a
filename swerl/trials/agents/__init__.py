"""Agents of our own. Any other agent of Harbor works too, by name or import path; how it is pointed at the gateway is in `trials.agentcfg`."""
