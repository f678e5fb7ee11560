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
