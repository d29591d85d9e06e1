"""Settings: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "service.toml"
    path.write_text('http_port = 1\ngrpc_port = 1\nengine = "inprocess"\n')
    return path


def test_options_win_over_variables_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMODEL_HTTP_PORT", "2")
    monkeypatch.setenv("FLOWMODEL_GRPC_PORT", "2")
    settings = load_settings(config, {"grpc_port": "3", "store": None})
    assert (settings.engine, settings.http_port, settings.grpc_port) == ("inprocess", 2, 3)
    assert settings.store == Path("model_store")


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_a_wrong_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMODEL_THREADS", "many")
    with pytest.raises(SettingsError, match=r"FLOWMODEL_THREADS: input should be a valid integer.*given 'many'"):
        load_settings()


def test_a_wrong_option_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"--drain-seconds: input should be greater than or equal to 0; given '-1'"):
        load_settings(options={"drain_seconds": "-1"})


def test_a_wrong_key_of_the_file_is_refused_with_the_nearest_one(config: Path) -> None:
    config.write_text("grpc_prt = 1\n")
    with pytest.raises(SettingsError, match=r"grpc_prt in .*service.toml is not a setting; did you mean grpc_port\?"):
        load_settings(config)


def test_an_unknown_variable_is_refused_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMODEL_GRPC_PRT", "1")
    with pytest.raises(SettingsError, match=r"FLOWMODEL_GRPC_PRT is not a setting; did you mean FLOWMODEL_GRPC_PORT\?"):
        load_settings()


def test_variables_of_other_commands_and_of_kubernetes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMODEL_TRAIN_LAYERS", "7")
    monkeypatch.setenv("FLOWMODEL_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("FLOWMODEL_PORT_8000_TCP_ADDR", "10.0.0.1")
    load_settings(other_variables=lambda: {"FLOWMODEL_TRAIN_LAYERS"})


@pytest.mark.parametrize("text", ["engine = ", "\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(config: Path, text: str) -> None:
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"service.toml is not TOML"):
        load_settings(config)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*none.toml: No such file"):
        load_settings(tmp_path / "none.toml")


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(SettingsError, match=r"--store: is a file; expected the directory .*; given '.*rows.csv'"):
        load_settings(options={"store": str(tmp_path / "rows.csv")})


def test_what_is_missing_is_not_said_to_be_given() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(options={"tls_certificate": "cert.pem"})
    assert str(refused.value) == "tls_key: tls_key is missing; TLS needs tls_certificate and tls_key"


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="--torchserve-address: must be host:port"):
        load_settings(options={"torchserve_address": "localhost"})


def test_several_processes_are_refused_where_they_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("socket.SO_REUSEPORT")
    assert load_settings(options={"processes": "1"}).processes == 1
    with pytest.raises(SettingsError, match=r"--processes: must be 1 on this system: .*SO_REUSEPORT.*; given '2'"):
        load_settings(options={"processes": "2"})


def test_no_processes_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMODEL_PROCESSES", "0")
    with pytest.raises(SettingsError, match="FLOWMODEL_PROCESSES: input should be greater than or equal to 1; given"):
        load_settings()
