# SPDX-License-Identifier: Apache-2.0
"""Figures and tables in Markdown, from runs that may have been refused."""

import statistics


def median(rows, key):
    values = [get(row, key) for row in rows if "refused" not in row]
    return statistics.median(values) if values else None


def get(row, key):
    for part in key.split("."):
        row = row[part]
    return row


def number(value, form="{:.3g}"):
    return "-" if value is None else form.format(value)


def gib(value):
    return number(value and value / 2 ** 30, "{:.2f}" if value and value > 2 ** 28 else "{:.4f}")


def rows(header, lines):
    def row(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [row(header), "|" + "---|" * len(header), *map(row, lines), ""]


def refusal(list_of_runs):
    """Why there is no result, where there is none."""
    reasons = [run["refused"] for run in list_of_runs if "refused" in run]
    return reasons[0] if reasons else None


def reached(value, wanted):
    return "not measured" if value is None else "reached" if value >= wanted else "missed"
