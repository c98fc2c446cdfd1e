"""Where each picture ends up: its bucket, and what the crop takes away, of every picture."""

from __future__ import annotations

import base64
import html
from collections import Counter

import streamlit as st

from studio import panels
from studio.language import _, plural
from studio.text import escape
from trainer.config import DataConfig
from trainer.dataset import buckets
from trainer.dataset.images import Picture

RESOLUTIONS = (512, 768, 1024)
SHOWN = 24  # crops at once
SIDE = 160  # px
STYLE = """<style>
.crops { display: flex; flex-wrap: wrap; gap: 14px; }
.crops figure { margin: 0; max-width: 160px; font-size: .78rem; }
.crops .whole { position: relative; line-height: 0; overflow: hidden; border-radius: 4px; }
.crops .kept { position: absolute; outline: 2px solid #0072b2; box-shadow: 0 0 0 999px rgba(0, 0, 0, .55); }
.crops figcaption { margin-top: 4px; overflow-wrap: anywhere; }
</style>"""


def show(pictures: list[Picture]) -> None:
    """Buckets at a resolution, and what of each picture is kept; those that lose most come first."""
    resolution = st.segmented_control(
        _("Resolution"), RESOLUTIONS, default=RESOLUTIONS[0], required=True, key="crop resolution"
    )
    usual = DataConfig()
    shapes = buckets.make_buckets(resolution, min(usual.bucket_min, resolution), usual.bucket_max, usual.bucket_step)
    placed = [
        (one, buckets.place(one.width, one.height, shapes, upscale=usual.upscale, step=usual.bucket_step))
        for one in pictures
    ]
    sizes = Counter(placement.bucket for _one, placement in placed)
    bucket = st.pills(
        _("Buckets"),
        [size for size, _number in sizes.most_common()],
        key=f"crop bucket {resolution}",
        format_func=lambda size: escape(f"{size[0]}×{size[1]}: {plural(sizes[size], 'picture')}"),
        help=_("Choose one to see all of its pictures."),
    )
    wanted = [pair for pair in placed if (pair[1].bucket == bucket if bucket else pair[1].lost > 0)]
    if not wanted:
        st.caption(_("Every picture fits its bucket: nothing is cut off."))
        return
    wanted.sort(key=lambda pair: -pair[1].lost)
    pages = -(-len(wanted) // SHOWN)
    page = st.pagination(pages, key=f"crop page {resolution} {bucket} {pages}") if pages > 1 else 1
    figures = [figure(one, placement) for one, placement in wanted[(page - 1) * SHOWN : page * SHOWN]]
    st.html(f'{STYLE}<div class="crops">{"".join(figures)}</div>')


def figure(picture: Picture, placement: buckets.Placement) -> str:
    """The whole picture, what training sees of it outlined."""
    small = panels.thumbnail(picture.path, SIDE)
    if small is None:
        return ""
    (scaled_wide, scaled_high), (wide, high) = placement.scaled, placement.bucket
    left, top = placement.crop[:2]
    box = (left / scaled_wide, top / scaled_high, wide / scaled_wide, high / scaled_high)
    place = ";".join(f"{name}:{value:.2%}" for name, value in zip(("left", "top", "width", "height"), box))
    data = base64.b64encode(small.read_bytes()).decode()
    name = html.escape(picture.path.name)
    lost = html.escape(_("{share} cut off").format(share=f"{placement.lost:.0%}"))
    image = f'<img src="data:image/webp;base64,{data}" alt="{name}"><div class="kept" style="{place}"></div>'
    return f'<figure><div class="whole">{image}</div><figcaption>{name}<br>{wide}×{high} · {lost}</figcaption></figure>'
