from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, unknown_variables


def test_settings_come_from_prefixed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTUALFORMER_PORT", "9000")
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", "/srv/bundles")
    monkeypatch.setenv("MUTUALFORMER_THREADS", "")

    settings = Settings()

    assert (settings.port, settings.bundles, settings.threads) == (9000, Path("/srv/bundles"), None)


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "99999"), ("DEVICE", "tpu"), ("MAX_PIXELS", "1000000000")]
)
def test_a_value_out_of_range_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"MUTUALFORMER_{name}", value)

    with pytest.raises(ValidationError):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().__setattr__("port", 1)


def test_misspelt_variables_are_found() -> None:
    names = ["MUTUALFORMER_PORT", "MUTUALFORMER_PROT", "PATH", "mutualformer_host"]

    assert unknown_variables(names) == ["MUTUALFORMER_PROT"]


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_tensorrt_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs device=cuda, got cpu"):
        Settings(runtime="tensorrt")
