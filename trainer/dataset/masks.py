"""Where the masks of a folder lie: grey pictures of the same relative names in `.masks/`, white is learned.

Hidden, so that no one takes a mask for a picture. Training reads them with `data.mask_folder=FOLDER/.masks`; a picture
without one there is learned whole.
"""

from pathlib import Path

FOLDER = ".masks"


def folder(pictures: Path) -> Path:
    """Where the masks of a folder of pictures lie."""
    return Path(pictures) / FOLDER


def path(folder: Path, picture: Path) -> Path:
    """Where the mask of this picture of the folder is, or would be: `F/a/cat.jpg` -> `F/.masks/a/cat.png`."""
    folder = Path(folder)
    return folder / FOLDER / Path(picture).relative_to(folder).with_suffix(".png")


def of(folder: Path, picture: Path) -> Path | None:
    """The picture's mask, None when it has none."""
    mask = path(folder, picture)
    return mask if mask.is_file() else None


def near(picture: Path) -> Path | None:
    """Like `of`, where the folder is not known: the first one above the picture that holds a mask for it."""
    return next((mask for folder in Path(picture).parents if (mask := of(folder, picture))), None)
