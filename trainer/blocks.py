"""The blocks of a UNet as LoRA makers name them: IN00 to IN11, MID, OUT00 to OUT11; BASE is the text encoders.

The numbers are those of the original layout (input_blocks.4 is IN04), the same for SD 1.5 and SDXL. kohya lists
the same 25 as numbers only; of SDXL 23, with the time embedding, three middle blocks and the output layer.
"""

from __future__ import annotations

import re

from trainer.errors import UserError, nearest

TEXT = "BASE"
NAMES = (*(f"IN{n:02}" for n in range(12)), "MID", *(f"OUT{n:02}" for n in range(12)))
XL_NAMES = ("", *NAMES[:9], "", "MID", "", *(f"OUT{n:02}" for n in range(9)), "")
_PLACE = re.compile(r"(input|output|middle)_blocks?\.(\d+)")


def block_of(original_path: str) -> str:
    """Block of a UNet module by its path in the original layout; empty for what stands outside the blocks.

    >>> block_of("input_blocks.4.1.proj_in")
    'IN04'
    """
    match = _PLACE.match(original_path)
    if match is None:
        return ""
    side, number = match[1], int(match[2])
    return "MID" if side == "middle" else f"{'IN' if side == 'input' else 'OUT'}{number:02}"


def parse(text: str, where: str) -> dict[str, float]:
    """`IN04=8, OUT00-OUT05=0.5` or kohya's list of 25 (SDXL: 23) numbers -> block -> number; {} when empty.

    Raises UserError, naming the setting `where`, for a block that there is none of or what is no number.
    """
    parts = [part for part in re.split(r"[\s,;]+", text.strip()) if part]
    if parts and "=" not in text:
        names = {len(NAMES): NAMES, len(XL_NAMES): XL_NAMES}.get(len(parts))
        if names is None:
            raise UserError(f"{where}: {len(parts)} numbers; give 25 (SDXL: 23), or name blocks as in IN04=8, MID=4.")
        return {name: _number(part, where) for name, part in zip(names, parts, strict=True) if name}
    found: dict[str, float] = {}
    for part in parts:
        blocks, _, value = part.partition("=")
        first, _, last = blocks.upper().partition("-")
        for name in (first, last or first):
            if name not in NAMES:
                raise UserError(f"{where}: there is no block {name!r}; {nearest(name, NAMES)}")
        between = NAMES[NAMES.index(first) : NAMES.index(last or first) + 1]
        found |= dict.fromkeys(between, _number(value, where))
    return found


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UserError(f"{where}: {text!r} is no number from 0 up; write it as in IN04=8.")
    return value
