"""The studio's entrance: `lora-studio ui`. Sets the page up and hands over to the pages."""

from pathlib import Path

import streamlit as st

PAGES = Path(__file__).parent / "pages"

st.set_page_config(page_title="LoRA Studio", page_icon="🎨", layout="wide")
pages = [
    st.Page(PAGES / "home.py", title="Home", icon=":material/home:", default=True),
    st.Page(PAGES / "dataset.py", title="Dataset", icon=":material/photo_library:"),
    st.Page(PAGES / "train.py", title="Train", icon=":material/tune:"),
    st.Page(PAGES / "runs.py", title="Runs", icon=":material/monitoring:"),
    st.Page(PAGES / "compare.py", title="Compare", icon=":material/grid_view:"),
    st.Page(PAGES / "library.py", title="Library", icon=":material/collections_bookmark:"),
]
st.navigation(pages, position="top").run()
