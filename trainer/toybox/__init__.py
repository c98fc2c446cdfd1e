

def located(path: str | Path) -> Path:
    """The folder meant by `toybox/NAME`; any other path as it is, `~` unfolded."""
    name = str(path).removeprefix("toybox/")
    return PARTS[name] if str(path).startswith("toybox/") and name in PARTS else Path(path).expanduser()
