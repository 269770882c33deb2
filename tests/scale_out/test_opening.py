"""Which engine options ask for."""

from __future__ import annotations

import sys

import pytest

from pipeline.config.options import ScaleOutOptions
from pipeline.errors import OptionError
from pipeline.scale_out import ThisProcess, engine_for


def test_without_workers_this_process_does_it() -> None:
    with engine_for(ScaleOutOptions()) as engine:
        assert isinstance(engine, ThisProcess)


@pytest.mark.parametrize("options", [{"workers": 2}, {"cluster": "tcp://127.0.0.1:8786"}], ids=str)
def test_without_dask_a_message_says_what_to_install(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(OptionError, match=r"need Dask: pip install 'onnx-int8-pipeline\[cluster\]'"),
        engine_for(ScaleOutOptions.from_values(options)),
    ):
        pass


def test_workers_of_both_kinds_are_refused() -> None:
    with pytest.raises(OptionError, match="give one of them"):
        ScaleOutOptions(workers=2, cluster="tcp://127.0.0.1:8786")
