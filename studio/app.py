"""The studio's entrance: `lora-studio ui`. Sets the page up and hands over to the pages."""

from pathlib import Path

import streamlit as st

PAGES = Path(__file__).parent / "pages"

st.set_page_config(page_title="LoRA Studio", page_icon="🎨", layout="wide")
st.navigation([st.Page(PAGES / "runs.py", title="Runs", icon="🏃", default=True)]).run()
