"""A public name that changes is announced, works for two minor versions, and then goes."""

import sys
import types
import warnings

import pytest

import jaxbound
from jaxbound import networks, training
from jaxbound._deprecation import Renamed, old_names


@pytest.fixture
def module():
    """A module whose `old` is `new` since 0.3."""
    made = types.ModuleType("made_for_a_test")
    made.new = object()
    made.__getattr__ = old_names(made.__name__, {"old": Renamed("new", "0.3")})
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_an_old_name_warns_and_works(module):
    with pytest.warns(DeprecationWarning, match="old is .*new since 0.3; the old name goes in 0.5"):
        assert module.old is module.new


def test_the_warning_points_at_the_user(module):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        _ = module.old
    assert found[0].filename == __file__


def test_the_new_name_does_not_warn(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert module.new is not None


def test_other_names_do_not_exist(module):
    with pytest.raises(AttributeError, match="no attribute 'older'"):
        _ = module.older


@pytest.mark.parametrize(
    ("version", "over"), [("0.3.0", False), ("0.4.9", False), ("0.5.0", True), ("1.0.0", True)]
)
def test_two_minor_versions(version, over):
    assert Renamed("new", "0.3").is_over(version) == over


def test_no_old_name_of_ours_is_over():
    """Whoever raises the version removes what was announced two minor versions before."""
    for ours in (jaxbound, networks, training):
        names = getattr(ours, "RENAMED", {})
        assert not [old for old, now in names.items() if now.is_over(jaxbound.__version__)]
