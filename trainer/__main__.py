"""`python -m trainer` and `lora-studio`: the command line's entry point."""

from __future__ import annotations

import logging
import os
import sys

import typer

from trainer.cli import app
from trainer.errors import UserError


def main() -> None:
    """Entry point: what a person can mend is one sentence and exit code 2, never a traceback."""
    # GNU's threads wait for each other in a loop, and where another program wants the cores a step takes many times as
    # long: they do it for a shorter while (benchmarks/RESULTS.md). Read when torch is loaded, which is later.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # bitsandbytes tells at import which of its kernels are not here; `doctor` says what matters.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # A console that cannot show a character (older Windows) must not end a training run; a file or pipe gets UTF-8
    # everywhere, since a JSON whose letters are question marks is damaged.
    for stream in (sys.stdout, sys.stderr):
        encoding = None if stream.isatty() or "PYTHONIOENCODING" in os.environ else "utf-8"
        stream.reconfigure(encoding=encoding, errors="replace")
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"lora-studio: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
