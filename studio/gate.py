"""The password that a studio asks for when it listens to more than its own machine."""

from __future__ import annotations

import hmac
import os
import time

import streamlit as st

from studio.language import _

VARIABLE = "LORA_STUDIO_PASSWORD"  # set by `lora-studio ui --listen`
WAIT = 1.0  # seconds that a wrong guess costs


def ask() -> None:
    """End the page here until the password was given; nothing to do where none is set."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted or st.session_state.get("let in"):
        return
    with st.form("gate"):
        given = st.text_input(_("Password"), type="password", autocomplete="current-password")
        if st.form_submit_button(_("Open the studio"), type="primary"):
            if hmac.compare_digest(given.encode(), wanted.encode()):
                st.session_state["let in"] = True
                st.rerun()
            time.sleep(WAIT)
            st.error(_("That is not the password."))
    st.stop()
