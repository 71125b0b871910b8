"""Tests of references to secrets: recognised, resolved from the environment, never shown."""

from __future__ import annotations

import pytest

from lakehouse_assets.errors import SecretError
from lakehouse_assets.secrets import is_reference, is_sensitive, resolve


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("${secret:NAME}", True),
        ("user=${secret:a.b-c_1};x", True),
        ("{{secrets/scope/key}}", True),
        ("{{ secrets/scope/key }}", True),
        ("${NAME}", False),
        ("${secret:}", False),
        ("{{secrets/scope}}", False),
        ("secret", False),
        ("", False),
    ],
)
def test_a_reference_is_recognised(text, reference):
    """Both spellings, anywhere in the text; a plain variable is none."""
    assert is_reference(text) is reference


@pytest.mark.parametrize(
    ("option", "sensitive"),
    [
        ("password", True),
        ("kafka.ssl.keystore.passwd", True),
        ("kafka.sasl.jaas.config", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("fs.s3a.access.key", True),
        ("accessKey", True),
        ("api_token", True),
        ("credentialsProvider", True),
        ("kafka.bootstrap.servers", False),
        ("header", False),
        ("primary_keys", False),
    ],
)
def test_an_option_is_sensitive_by_its_name(option, sensitive):
    """Names that say password, token, secret, jaas, credential or access key."""
    assert is_sensitive(option) is sensitive


def test_a_reference_is_resolved_where_it_stands():
    """All references of a text, the rest as it is; Databricks' by scope and key."""
    environ = {"NAME": "one", "MY_SCOPE_DB_KEY": "two"}
    assert resolve("a=${secret:NAME};b={{secrets/my-scope/db.key}}", environ) == "a=one;b=two"
    assert resolve("no reference ${NAME}", environ) == "no reference ${NAME}"


def test_a_value_is_not_resolved_again():
    """A secret that looks like a reference is a secret."""
    assert resolve("${secret:A}", {"A": "${secret:B}", "B": "x"}) == "${secret:B}"
    assert resolve("${secret:A}", {"A": "{{secrets/b/c}}", "B_C": "x"}) == "{{secrets/b/c}}"


def test_an_empty_secret_is_a_value():
    """Set and empty is not missing."""
    assert resolve("[${secret:A}]", {"A": ""}) == "[]"


@pytest.mark.parametrize(("text", "variable"), [("${secret:NAME}", "NAME"), ("{{secrets/a/b}}", "A_B")])
def test_a_secret_that_is_missing_names_its_variable(text, variable):
    """The error says which variable to set, and shows no value of any other."""
    with pytest.raises(SecretError, match=f"set the environment variable {variable}$") as caught:
        resolve(text, {"OTHER": "hidden"})
    assert "hidden" not in str(caught.value)
    assert caught.value.transient is False
