"""Folders and pictures that come in otherwise than by upload: linked in, and from the clipboard."""

import base64
import os

import pytest
from trainees import draw_pictures

from studio import pasting, places, uploads
from trainer.dataset import captions, images
from trainer.errors import UserError


def test_a_folder_elsewhere_is_used_where_it_is(open_page, words, here, tmp_path_factory):
    elsewhere = draw_pictures(tmp_path_factory.mktemp("elsewhere") / "moss 猫")
    page = open_page("dataset")
    page.text_input(key="link path").set_value(str(elsewhere))
    page.button[1].click().run()
    assert not page.exception and places.datasets() == ["moss 猫"]
    assert "5 pictures" in words(page)
    folder = places.dataset("moss 猫")
    captions.write_captions(folder, {folder / "00.txt": "new"}, "test")
    assert captions.caption_of(elsewhere / "00.png") == "new"
    # One of the same name gets another; nothing is linked twice.
    other = draw_pictures(tmp_path_factory.mktemp("more") / "moss 猫")
    assert uploads.link(str(other)).name == "moss 猫-2"
    for again in (elsewhere, here, here / "datasets", folder.absolute(), folder):
        with pytest.raises(UserError):
            uploads.link(str(again))
    assert len(places.datasets()) == 2


@pytest.mark.parametrize("path", ["", "moss", "../moss", "/nowhere/at/all", "/etc/passwd"])
def test_what_is_no_folder_with_pictures_is_not_linked(here, path):
    draw_pictures(here / "moss")
    with pytest.raises(UserError):
        uploads.link(path)
    (here / "empty").mkdir()
    with pytest.raises(UserError, match="No pictures"):
        uploads.link(str(here / "empty"))
    assert not os.path.lexists(here / "datasets") or not places.datasets()


def test_what_is_pasted_is_read_and_checked_as_an_upload(here):
    content = (draw_pictures(here / "datasets" / "moss") / "00.png").read_bytes()
    files = pasting.read([["../../pasted.png", base64.b64encode(content).decode()], ["x.png", "%%"], 7, ["a"]])
    assert files == [("../../pasted.png", content)]
    report = uploads.save("moss", [*files, ("page.html", b"<script>"), ("00.png", content)])
    assert [path.name for path in report.written] == ["pasted.png"] and len(report.refused) == 2
    assert len(images.find(here / "datasets" / "moss")) == 6
    assert pasting.read(None) == pasting.read("text") == []
