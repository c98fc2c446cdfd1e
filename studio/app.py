"""The studio's entrance: `lora-studio ui`. Sets the page up and hands over to the pages."""

import gc
import json
from pathlib import Path

import streamlit as st

from studio import gate, keys, language, line, sentences
from studio.language import _
from trainer import report

# Not called pages/: Streamlit would serve such a folder by itself, past this file and its password.
PAGES = Path(__file__).parent / "views"
# Streamlit leaves 96 px above a page and 160 below it; a picture grid has better uses for them.
# The ring of a choice that is not taken has the colour of hairlines, too faint to be seen.
LOOK = """<style>
.stMainBlockContainer { padding-top: 4.2rem; padding-bottom: 3rem; }
[class*="st-key-open-"] button, [class*="st-key-open-"] button * { text-align: left; justify-content: start; }
[data-testid="stPageLink"] p { white-space: normal; overflow-wrap: anywhere; }
.st-key-filter { min-width: min(18rem, 100%); }
.st-key-keys, .st-key-completion, .st-key-pasting { display: none; }
[data-testid="stRadioOption"]:not([data-selected]) > div > div:first-child { border-color: #7c868d; }
/* Both pictures of a vote and the buttons under them fit on a screen; a blind vote does not need to know what the
   scores say. */
[class*="st-key-pair-"] img { max-height: max(14rem, calc(100vh - 30rem)); object-fit: contain; }
.stMainBlockContainer:has(.st-key-pair-1) .st-key-recommendation { display: none; }
/* What Streamlit offers on a chart or a pair lies on it, not on the button or the words above. */
:is([data-testid="stFullScreenFrame"]:has(.stVegaLiteChart), [class*="st-key-pair-"]) [data-testid="stElementToolbar"] {
  top: 0; }
/* Beneath a list of runs that is not as long as it is, the run that was picked. */
@media (max-width: 640px) { .stButton kbd { display: none; } .st-key-runs { max-height: 32vh; overflow-y: auto; } }
</style>"""
# What Streamlit says in English only, and cuts off on a phone: here in the reader's language.
UPLOADER = """<style>
[data-testid="stFileUploaderDropzone"] button p { font-size: 0; }
[data-testid="stFileUploaderDropzoneInstructions"] span { font-size: 0; }
[data-testid="stFileUploaderDropzone"] button p::after { content: %s; font-size: 0.875rem; }
[data-testid="stFileUploaderDropzoneInstructions"] span::after { content: %s; font-size: 0.875rem; }
</style>"""
# White on the accent of the dark theme has a contrast of 3.5, too little for a label.
DARK = """<style>
[data-testid^="stBaseButton-primary"], [data-testid^="stBaseButton-primary"]:hover { color: #06121b; }
</style>"""

# Of ten thousand pictures there are a million small objects, and the usual 700 new ones start a look through them.
gc.set_threshold(50_000, 20, 100)
st.set_page_config(page_title="LoRA Studio", page_icon="🎨", layout="wide")
language.choose()
report.words = sentences.of_report
pages = [
    st.Page(PAGES / "home.py", title=_("Home"), icon=":material/home:", default=True),
    st.Page(PAGES / "dataset.py", title=_("Dataset"), icon=":material/photo_library:"),
    st.Page(PAGES / "train.py", title=_("Train"), icon=":material/tune:"),
    st.Page(PAGES / "runs.py", title=_("Runs"), icon=":material/monitoring:"),
    st.Page(PAGES / "compare.py", title=_("Compare"), icon=":material/grid_view:"),
    st.Page(PAGES / "library.py", title=_("Library"), icon=":material/collections_bookmark:"),
    st.Page(PAGES / "png_info.py", title=_("PNG info"), icon=":material/image_search:"),
    st.Page(PAGES / "settings.py", title=_("Settings"), icon=":material/settings:"),
]
most = _("up to {size} a file").format(size=f"{st.get_option('server.maxUploadSize') / 1024:g} GB")
uploader = UPLOADER % tuple(json.dumps(text, ensure_ascii=False) for text in (_("Upload"), most))
st.html(LOOK + uploader + DARK * (st.context.theme.type == "dark"))
page = st.navigation(pages, position="top")
gate.ask()
keys.listen()
line.ensure()  # whatever page is opened first after a power cut
page.run()
