"""Pseudonyms, and errors that keep what they know to themselves."""

from __future__ import annotations

import traceback

import pytest

from tasks.codes import Code, ConfigurationError, PairError
from tasks.privacy import Pseudonyms, described, make_pseudonyms, secret_of_environment, without_names
from tasks.storage import StorageError

SECRET = b"0123456789abcdef"


def test_a_pseudonym_is_the_same_every_time_and_another_for_another_secret_or_purpose():
    one, other = Pseudonyms(SECRET), Pseudonyms(b"another secret of 16")
    assert one.of("pair", "Smith") == Pseudonyms(SECRET).of("pair", "Smith")
    found = {one.of("pair", "Smith"), one.of("uri", "Smith"), one.of("pair", "Smyth"), other.of("pair", "Smith")}
    assert len(found) == 4
    assert all(len(name) == 20 and set(name) <= set("0123456789abcdef") for name in found)
    assert one.of("pair", "S\udcffmith") != one.of("pair", "Smith")


def test_pseudonyms_do_not_show_their_secret():
    assert "0123456789" not in repr(Pseudonyms(SECRET))


@pytest.mark.parametrize("secret", [None, b"", b"short"])
def test_without_a_good_secret_nothing_begins_and_the_message_says_how_to_set_one(secret):
    with pytest.raises(ConfigurationError, match="openssl rand -hex 32"):
        make_pseudonyms(secret)


def test_the_secret_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("DDFM_PSEUDONYM_SECRET", raising=False)
    assert secret_of_environment() is None
    monkeypatch.setenv("DDFM_PSEUDONYM_SECRET", "0123456789abcdef")
    assert secret_of_environment() == SECRET


@pytest.mark.parametrize(
    "error",
    [StorageError("/root/Smith/ct", "Smith is gone", "check it"), ValueError("Smith"), OSError(2, "x", "/Smith")],
)
def test_in_strict_privacy_errors_leave_without_names(error):
    with pytest.raises(StorageError, match=r"^/root: ") as caught:
        without_names(True, "/root", failing(error))
    # As a log or a server would keep it, with all that it hangs on.
    assert "Smith" not in "".join(traceback.format_exception(caught.value))


def test_errors_that_name_nobody_by_contract_pass():
    assert without_names(True, "/root", lambda: 3) == 3
    with pytest.raises(PairError):
        without_names(True, "/root", failing(PairError(Code.TRUNCATED)))
    with pytest.raises(ConfigurationError):
        without_names(True, "/root", failing(ConfigurationError("steps")))
    with pytest.raises(ValueError, match="Smith"):
        without_names(False, "/root", failing(ValueError("Smith")))


def failing(error: Exception):
    def fail():
        raise error

    return fail


def test_an_error_is_described_by_its_type_and_place():
    with pytest.raises(KeyError) as caught:
        failing(KeyError("Smith"))()
    assert described(caught.value).startswith("KeyError at test_privacy.py:")
