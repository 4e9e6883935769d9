"""The size of the configuration, and what each shipped config says. More guards: tests/design/."""

import dataclasses

from esam_jax import config, configs

CONFIG_FIELDS = 157


def test_config_field_count():
    """A new knob is a decision: change the number with it."""
    classes = [
        value
        for value in vars(config).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    ]
    assert sum(len(dataclasses.fields(c)) for c in classes) == CONFIG_FIELDS


def test_every_config_builds_and_says_what_to_expect():
    found = configs.names()
    assert {
        "sami_ti", "sami_s", "sami_b", "sami_all", "segment_ti", "segment_s",
        "quickstart_teacher", "quickstart_sami", "quickstart_segment", "quickstart_scratch",
    } <= set(found)  # fmt: skip
    for name, function in found.items():
        assert function().name == name
        for heading in ("Command", "Hardware", "Expected"):
            assert heading in (function.__doc__ or ""), f"{name} does not say its {heading}"
        assert f"esam train {name}" in (function.__doc__ or "")
