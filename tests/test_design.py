"""What each shipped config says. More guards: tests/design/, tests/config/test_fields.py."""

from esam_jax import configs


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
