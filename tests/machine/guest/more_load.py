"""What takes longer than a short run has."""

import os

from inside import run, show
from load import callers, withstands


def test_upgrade():
    """the package installed again under callers fails no request"""
    before = show("msi-tokend.service", "MainPID")
    with callers():
        run("dpkg", "--install", "/root/msi-tokend.deb", env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    assert show("msi-tokend.service", "MainPID") != before


def test_tokens():
    """so it is with answers that hold tokens"""
    withstands("tokens, unread")


def test_sdk():
    """so it is with everything that the loopback listener answers"""
    withstands("SDK listener, unread")


def test_all():
    """so it is with everything at every listener, some of it read"""
    withstands("all at once")
