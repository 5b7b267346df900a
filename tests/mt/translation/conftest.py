"""A small translator, lines to translate, and their translations."""

import pytest

from .small_translators import write_translator
from .translate_runs import translations, write_source


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_translator(tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def expected(model):
    return translations(model)


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source.txt")
