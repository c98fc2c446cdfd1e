"""The password that a studio asks for when it listens to more than its own machine."""

from __future__ import annotations

import hashlib
import hmac
import os
import time

import streamlit as st

from studio.language import _

VARIABLE = "LORA_STUDIO_PASSWORD_HASH"  # salt:scrypt, in hex; set by `lora-studio ui --listen`
WAIT = 1.0  # seconds that a wrong guess costs


def ask() -> None:
    """End the page here until the password was given; nothing to do where none is set."""
    stored = os.environ.get(VARIABLE, "")
    if not stored or st.session_state.get("let in") == stored:
        return
    with st.form("gate"):
        given = st.text_input(_("Password"), type="password", autocomplete="current-password")
        if st.form_submit_button(_("Open the studio"), type="primary"):
            if fits(given, stored):
                st.session_state["let in"] = stored
                st.rerun()
            time.sleep(WAIT)
            st.error(_("That is not the password."))
    st.stop()


def digest(password: str, salt: bytes | None = None) -> str:
    """What is kept of a password: not enough to find it again."""
    salt = os.urandom(16) if salt is None else salt
    return f"{salt.hex()}:{hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


def fits(password: str, stored: str) -> bool:
    return hmac.compare_digest(digest(password, bytes.fromhex(stored.partition(":")[0])), stored)
