"""What a rank checks before it connects to the others."""

from __future__ import annotations

import pytest

from modules.parallel.process_groups import check_interfaces


@pytest.mark.parametrize(("value", "missing"), [("eth9", "eth9"), ("lo,ib7", "ib7"), ("=lo", "=lo"), (" lo", " lo")])
def test_network_interface_that_the_machine_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, missing: str
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", value)
    with pytest.raises(
        ValueError, match=rf"GLOO_SOCKET_IFNAME={value}: .* has no network interface '{missing}'; unset it, .*lo"
    ):
        check_interfaces()
    for known in ("lo", "", "lo,lo"):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", known)
        check_interfaces()
