"""All options: each has one name and one meaning, on the command line and in Python."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

import pipeline
from pipeline.cli.build_command import command
from pipeline.config.options import BuildOptions, QuantizeOptions
from pipeline.config.schema import Option, options_of
from pipeline.errors import OptionError
from pipeline.quantization.observers import ALGORITHMS
from pipeline.quantization.spec import WEIGHT_ALGORITHMS

OPTIONS = options_of(BuildOptions)


@pytest.mark.parametrize("names", [[o.key for o in OPTIONS], [o.flag for o in OPTIONS]], ids=["keys", "flags"])
def test_no_two_options_have_one_name(names: list[str]) -> None:
    assert max(Counter(names).values()) == 1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.key)
def test_every_option_is_a_sentence_and_has_a_valid_default(option: Option) -> None:
    assert option.help[0].isupper()
    assert option.help.endswith(".")
    assert option.checked(option.default) == option.default


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.key)
def test_every_option_is_on_the_command_line_and_in_python(option: Option) -> None:
    parameter = next(p for p in command.params if p.name == option.key)
    assert [*parameter.opts, *parameter.secondary_opts] == [
        *filter(None, [option.short]),
        *option.flag.split("/"),
        *option.aliases,
    ]
    assert inspect.signature(pipeline.build).parameters[option.key].default == option.default
    assert f"{option.key}: {option.help}" in (pipeline.build.__doc__ or "")


def test_quantize_takes_what_quantizing_needs() -> None:
    keys = {o.key for o in options_of(QuantizeOptions)}
    assert keys < set(inspect.signature(pipeline.quantize).parameters)
    assert keys < {o.key for o in OPTIONS}


def test_algorithms_are_those_that_there_are() -> None:
    option = next(o for o in OPTIONS if o.key == "algorithm")
    assert option.choices == tuple(sorted(ALGORITHMS))
    assert BuildOptions.from_values({"algorithm": "KL"}).quantize.calibrate.algorithm == "kl"


def test_algorithms_of_weights_are_those_that_there_are() -> None:
    assert next(o for o in OPTIONS if o.key == "weight_algorithm").choices == WEIGHT_ALGORITHMS


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.paddle], ids=lambda o: o.key)
def test_paddleslims_names_are_answered_with_those_here(option: Option) -> None:
    with pytest.raises(OptionError, match=rf"{option.paddle}.* .*\b{option.key}\b"):
        BuildOptions.from_values({option.paddle: None})
