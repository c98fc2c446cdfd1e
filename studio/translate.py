"""Brings locales/ up to date: `python -m studio.translate` after a text of the studio has changed.

Collects every text that `_` and `plural` mark, and what is declared elsewhere and shown by name; keeps the
translations that fit, marks what is new as untranslated, and compiles the files that are read at run time.
Needs Babel, which the `dev` extra installs.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

from studio.language import LANGUAGES, LOCALES
from studio.sentences import FIELD

KEYWORDS = {"_": None, "plural": (2,)}
SOURCE = Path(__file__).parent
DATE = datetime(2026, 1, 1, tzinfo=UTC)


def messages() -> list[str]:
    """Every text of the studio, in the order of the files."""
    from babel.messages.extract import extract_from_dir

    found = [message for _, _, message, _, _ in extract_from_dir(str(SOURCE), keywords=KEYWORDS)]
    return list(dict.fromkeys([*map(str, found), *declared()]))


def declared() -> list[str]:
    """Texts that are declared in the trainer or in a table and shown through a variable."""
    from studio import bulk, charts, facts, forecast, forms, sentences, sieve, worker
    from trainer import presets, report
    from trainer.cells import BASE_EPOCH
    from trainer.config import settings
    from trainer.dataset.health import KINDS
    from trainer.grid import METRICS, row_label
    from trainer.run import COMMANDS
    from trainer.texts import MARKS, about

    texts = [text for one in settings() for text in (one.label, one.help, one.unit)]
    texts += [*forms.TITLES.values(), *filter(None, forms.PARTS.values())]
    texts += [about(member) for _, members in forms.MEMBERS.values() for member in members.values()]
    texts += [text for metric in METRICS.values() for text in (metric.label, metric.meaning, metric.misleads)]
    texts += [*report.own_texts(), *report.ABOUT]
    texts += [*row_label(BASE_EPOCH), *forecast.PARTS, *facts.LABELS, *facts.ANSWERS]
    shipped = [name for name, path in presets.find().items() if path.parent == SOURCE.parent / "presets"]
    texts += [" ".join(presets.load(name).about.split()) for name in shipped]
    texts += [*MARKS, *COMMANDS, *bulk.OPERATIONS, *sieve.ORDERS, *KINDS, *charts.VALIDATION.values(), worker.WAITING]
    texts += [*sentences.DONE, *sentences.PRINTED, *sentences.TIMES, *sentences.collect()]
    return [text for text in texts if text]


def po(language: str) -> Path:
    return LOCALES / language / "LC_MESSAGES" / "studio.po"


def update(language: str) -> list[str]:
    """Write the language's .po and .mo anew; returns what is not translated yet."""
    from babel.messages.catalog import Catalog
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po, write_po

    known = {}
    if po(language).exists():
        old = read_po(io.BytesIO(po(language).read_bytes()))
        known = {message.id: message.string for message in old if message.id}
    about = {"project": "LoRA Studio", "version": "1", "last_translator": "LoRA Studio", "language_team": "LoRA Studio"}
    # Without dates the files change only when a text does.
    catalog = Catalog(
        locale=language,
        header_comment=f"# Texts of the studio: {LANGUAGES[language]}.",
        **about,
        msgid_bugs_address="-",
        creation_date=DATE,
        revision_date=DATE,
        fuzzy=False,
    )
    same_words = {FIELD.sub("{}", text): text for text in known}
    for text in messages():
        # The trainer's patterns are named after its variables: one that is renamed is still the same sentence.
        before = same_words.get(FIELD.sub("{}", text), text)
        names = dict(zip(FIELD.findall(before), FIELD.findall(text)))
        renamed = FIELD.sub(lambda field, names=names: f"{{{names[field[1]]}}}", known.get(before, ""))
        catalog.add(text, known.get(text) or renamed)
    po(language).parent.mkdir(parents=True, exist_ok=True)
    with open(po(language), "wb") as file:
        write_po(file, catalog, width=120)
    with open(po(language).with_suffix(".mo"), "wb") as file:
        write_mo(file, catalog)
    return [message.id for message in catalog if message.id and not message.string]


if __name__ == "__main__":
    for name in LANGUAGES:
        if name != "en":
            left = update(name)
            print(f"{name}: {len(left)} not translated" + "".join(f"\n  {text}" for text in left))
