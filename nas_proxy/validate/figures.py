"""Stub."""


def write_figures(report, folder):
    return []
