"""The colours of reports: those of the dashboard's page, by name, light and dark. Text on its ground has a contrast over 4.5."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "bg": "#f4f6f8", "panel": "#ffffff", "raised": "#f7f9fa", "text": "#19212b", "muted": "#566272", "line": "#dde3e9", "grid": "#e9edf1",
    "accent": "#0f766e", "good": "#0f766e", "bad": "#b42318", "warn": "#8a5800", "good-soft": "#e2f1ef", "bad-soft": "#fbe9e7",
    "cell": "#e6ebef", "teal": "#12827a", "amber": "#c98a14", "purple": "#8156b8", "blue": "#3574c4", "red": "#c8402f", "brown": "#8d6e50",
    "pink": "#c2578f", "grey": "#93a0ad",
}  # fmt: skip
DARK: Mapping[str, str] = {
    "bg": "#0e1216", "panel": "#151a20", "raised": "#1a2027", "text": "#dbe2ea", "muted": "#95a2b1", "line": "#262e37", "grid": "#20272f",
    "accent": "#4dbdb2", "good": "#4dbdb2", "bad": "#f0857a", "warn": "#e0ac52", "good-soft": "#14302e", "bad-soft": "#381d1b",
    "cell": "#232b33", "teal": "#3fb3a8", "amber": "#d9a441", "purple": "#ac8ae0", "blue": "#6aa3e8", "red": "#e5685a", "brown": "#b3927a",
    "pink": "#dd83b2", "grey": "#7c8996",
}  # fmt: skip


def rgb(name: str) -> tuple[int, int, int]:
    """A colour of the light theme as three bytes."""
    text = LIGHT[name]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
