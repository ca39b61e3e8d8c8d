"""Warnings beside errors: the error of a piece of work comes alone."""

from __future__ import annotations

import warnings

import pytest

from attentune.cli.console import warnings_after
from attentune.data.encoding import DataWarning
from attentune.errors import DataError


@pytest.mark.filterwarnings("always::attentune.data.encoding.DataWarning")
def test_warnings_come_after_the_work_and_not_beside_its_error() -> None:
    with warnings.catch_warnings(record=True) as told:
        with warnings_after():
            warnings.warn("texts are cut", DataWarning, stacklevel=1)
            assert not told
        assert [str(one.message) for one in told] == ["texts are cut"]
        with pytest.raises(DataError), warnings_after():
            warnings.warn("texts are cut", DataWarning, stacklevel=1)
            raise DataError("line 24 holds no text")
        assert len(told) == 1
