"""Folders and pictures that come in: linked in, from the clipboard, uploaded; and an upload that is taken back."""

import base64
import io
import os
import zipfile
from pathlib import Path

import pytest
from trainees import draw_pictures

from studio import pasting, places, uploads
from trainer.dataset import aside, captions, images
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


def test_what_was_chosen_stays_until_it_is_taken_and_is_shown_then(open_page, words, here):
    content = (draw_pictures(here / "datasets" / "moss") / "00.png").read_bytes()
    page = open_page("dataset")
    page.file_uploader(key="files 0").upload("new.png", content, "image/png")
    folder_of(page).set_value("")
    page.button[0].click().run()
    assert "Give the folder a plain name" in words(page) and len(page.file_uploader(key="files 0").value) == 1
    folder_of(page).set_value("hat")
    page.button[0].click().run()
    assert not page.exception and page.query_params["dataset"] == "hat"
    assert page.selectbox(key="select dataset").value == "hat" and "1 picture" in words(page)
    assert not page.file_uploader(key="files 1").value and not page.session_state["popover add"]
    # The refused of several are named above what was taken.
    page.file_uploader(key="files 1").upload("two.png", content, "image/png").upload("new.png", content, "image/png")
    page.button[0].click().run()
    assert "2 pictures" in words(page) and "new.png is there already." in words(page)
    assert "new.png is there already." not in words(page.run())


def folder_of(page):
    return next(one for one in page.text_input if one.label == "Into the folder")


def test_the_address_leads_and_what_is_picked_leads_the_address(open_page, here):
    for name in ("hat", "moss"):
        draw_pictures(here / "datasets" / name)
    page = open_page("dataset", dataset="moss")
    box = page.selectbox(key="select dataset")
    assert box.value == "moss"
    box.set_value("hat").run()
    assert page.query_params["dataset"] == "hat"
    page.query_params["dataset"] = "moss"  # as the browser's Back does it
    assert page.run().selectbox(key="select dataset").value == "moss"


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


def contents_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_an_upload_is_taken_back_and_made_again(here, monkeypatch):
    monkeypatch.setattr(uploads, "PART", 2)  # in several parts, as a large one is
    folder = draw_pictures(Path("datasets/moss"))
    before, content = contents_of(folder), (folder / "00.png").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            archive.writestr(name, content)
    files = [("d.png", content), ("d.txt", b"moss, hat"), ("01.png", b"other"), ("all.zip", packed.getvalue())]
    report = uploads.save("moss", files)
    assert len(report.written) == 5 and len(report.refused) == 1
    after = contents_of(folder)
    captions.write_captions(folder, {folder / "d.txt": "moss, cap"}, "edit d")

    assert aside.undo(folder)[0] == "edit d" and contents_of(folder) == after
    name, touched = aside.undo(folder)
    assert name == "add files" and sorted(touched) == sorted(report.written)
    assert contents_of(folder) == before
    assert aside.undo(folder) == ("", []), "all parts are one"
    assert aside.redo(folder)[0] == "add files" and contents_of(folder) == after
    assert aside.redo(folder)[0] == "edit d" and (folder / "d.txt").read_text() == "moss, cap"


def test_what_was_changed_since_an_upload_is_not_lost_with_it(here):
    folder = draw_pictures(here / "datasets" / "moss")
    uploads.save("moss", [("new.txt", b"as it came")])
    (folder / "new.txt").write_text("written by hand since")
    aside.undo(folder)
    assert not (folder / "new.txt").exists()
    assert [path.read_text() for path in folder.rglob("new.txt")] == ["written by hand since"]


def test_a_first_upload_can_be_taken_back_on_the_page(open_page, words, here):
    content = (draw_pictures(here / "elsewhere") / "00.png").read_bytes()
    uploads.save("moss", [("00.png", content), ("00.png", content)])
    page = open_page("dataset")
    page.button(key="undo").click().run()
    assert not page.exception and "No picture in this folder yet" in words(page)
    page.button(key="redo").click().run()
    assert "1 picture" in words(page) and (here / "datasets" / "moss" / "00.png").read_bytes() == content


def test_names_that_differ_in_case_are_two_files_where_the_disk_says_so(here):
    content = (draw_pictures(here / "elsewhere") / "00.png").read_bytes()
    report = uploads.save("moss", [("a.png", content), ("A.png", content)])
    assert len(report.written) == len(images.find(here / "datasets" / "moss"))
    assert len(report.written) + len(report.refused) == 2
