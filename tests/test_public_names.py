import subprocess
import sys

import pytest

import jaxmia


@pytest.mark.parametrize("name", jaxmia.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(jaxmia, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="lira"):
        jaxmia.lira  # noqa: B018


def test_importing_jaxmia_imports_no_jax():
    subprocess.run([sys.executable, "-c", "import sys, jaxmia; sys.exit('jax' in sys.modules)"], check=True)


@pytest.mark.parametrize(("former", "name"), [("features", "feature_set"), ("released", "load_released")])
def test_former_places_go_on_and_say_where_to_go(former, name):
    code = f"import jaxmia; from jaxmia.{former} import {name}; assert {name} is jaxmia.{name}"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], check=True, capture_output=True, text=True
    )
    assert f"DeprecationWarning: jaxmia.{former} is called jaxmia." in done.stderr
