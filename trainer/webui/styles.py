"""A1111's styles: named pieces of prompts in a styles.csv."""

import csv
from pathlib import Path

from trainer.errors import UserError


def read_styles(path: Path) -> dict[str, tuple[str, str]]:
    """{name: (prompt, negative prompt)} of A1111's styles.csv. Raises UserError when it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The styles in {path} cannot be read: {error}.") from error
    # Files from before A1111 1.0 call the prompt "text".
    return {
        row["name"]: (row.get("prompt") or row.get("text") or "", row.get("negative_prompt") or "")
        for row in rows
        if row.get("name")
    }


def apply_style(prompt: str, style: str) -> str:
    """`style` with the prompt at its `{prompt}`, or behind the prompt with a comma, as A1111 merges them."""
    if "{prompt}" in style:
        return style.replace("{prompt}", prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part)
