"""What a dataset page knows of its folder is asked again only where a file has changed, and is right all the same."""

from trainees import draw_pictures

from studio import contents, panels
from studio.counting import Counting
from trainer.dataset import health


def test_after_every_kind_of_change_it_is_what_a_fresh_look_would_be(here):
    folder = draw_pictures(here / "datasets" / "moss")

    def lone_caption():
        (folder / "99.txt").write_text("moss, of no picture")

    changes = [
        lambda: None,
        lambda: (folder / "00.txt").write_text("hat, sitting"),
        lambda: (folder / "01.txt").unlink(),
        lambda: (folder / "02.txt").write_bytes(b"\xff\xfe\xff"),
        lone_caption,
        lambda: (folder / "03.png").write_bytes((folder / "04.png").read_bytes()),
        lambda: (folder / "04.png").write_bytes(b"broken"),
    ]
    seen = []
    for change in changes:
        change()
        stamp = panels.stamp(folder)
        found = contents.of(folder.as_posix(), stamp)
        known = contents.health_of(folder.as_posix(), "moss", stamp)
        assert known == health.check(folder, trigger="moss")
        assert [one.path for one in contents.items(folder.as_posix(), stamp, Counting(""))] == found.pictures
        seen.append((stamp, known.score))
    assert len(set(seen)) == len(changes), "every change was noticed"


def test_a_first_look_at_a_folder_moves_nothing_on_the_page(open_page, here):
    """What stands elsewhere the next time is another thing to a browser, and what was open in it shuts."""
    draw_pictures(here / "datasets" / "moss")
    page = open_page("dataset")

    def places() -> list[tuple[int, str]]:
        return [(place, one.type) for place, one in page.main.children.items() if one.type != "empty"]

    first = places()
    page.run()
    assert len(first) > 5 and places() == first


def test_a_picture_that_has_gone_costs_the_others_nothing(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    (folder / "gone.png").symlink_to("nowhere.png")
    text = words(open_page("dataset"))
    assert "gone.png cannot be opened" in text and "cannot be read" not in text and "6 pictures" in text
