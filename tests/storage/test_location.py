"""Credentials in a URI are refused without being repeated; other URIs are left as they are."""

import json

import pytest
from fcit_layout import fcit

from fcit_ray.config.reading import load_config
from fcit_ray.data.parquet.writing import write_parquet
from fcit_ray.data.records.layout import load_train
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.storage.location import check_uri, redact
from fcit_ray.storage.object_store import Store

KEYED = [
    "s3://AKIAKEY:hush@bucket/fcit",
    "s3://AKIAKEY:hu/sh+hush@bucket/fcit",
    "s3://AKIAKEY:12/hush@bucket",
    "gs://me:hush@bucket/fcit",
    "s3://bucket/fcit?region=eu&secret_key=hush",
    "s3://bucket/fcit?SessionToken=hush&region=eu",
    "https://account.blob.core.windows.net/fcit?sv=2022&sig=hush",
    "abfs://container@account/fcit?account_key=hush",
    "hdfs://me:hush@node:8020/fcit",
]


@pytest.mark.parametrize("uri", KEYED)
def test_credentials_are_refused_and_never_repeated(uri: str, tmp_path) -> None:
    assert "hush" not in redact(f"error: '{uri}': no such place")
    for use in (
        check_uri,
        Store,
        lambda uri: write_parquet(fcit(tmp_path), uri),
        lambda uri: load_train(fcit(uri), "ArxivQA"),
    ):
        with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID") as caught:
            use(uri)
        assert "hush" not in str(caught.value)
    (tmp_path / "c.yaml").write_text(json.dumps({"benchmark": {"root": uri, "tasks": ["ArxivQA"]}}))
    with pytest.raises(ConfigError, match=r"benchmark\.root: .*AWS_ACCESS_KEY_ID") as told:
        load_config([tmp_path / "c.yaml"])
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/fcit?region=eu-west-1&endpoint_override=localhost:9000",
        "gs://anonymous@bucket/fcit",
        "hdfs://namenode:8020/data@2024",
        "abfs://container@account.dfs.core.windows.net/fcit",
        "file:///data/token=1/secret",
        "s3://bucket/design?signal=1",
        "data/a:b@c",
    ],
)
def test_what_is_no_credential_stays(uri: str) -> None:
    assert redact(uri) == uri
    check_uri(uri)
