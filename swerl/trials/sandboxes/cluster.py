"""A run's dealings with a cluster beside single pods: access, patience, the network policies, and removing what a run left."""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import Any

import urllib3
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes.client.rest import ApiException

from swerl.errors import SwerlError, fail

LABEL, NETWORK_LABEL = "swerl.run", "swerl.network"
BUSY = (429, 500, 502, 503, 504)
PATIENCE_S = 120.0


class ClusterAway(RuntimeError):
    """The API server did not answer in time, or the connection to a pod broke."""


def policy(run_tag: str, gateway: str | None) -> dict[str, Any]:
    """Pods of the run with that network: nothing comes in; out goes only what is for the gateway (``host:port``), or nothing at all.
    Policies add up, so each kind of network has its own, and its pods their label."""
    egress, network = [], "none" if gateway is None else "gateway"
    if gateway is not None:
        host, _, port = gateway.rpartition(":")
        egress = [{"to": [{"ipBlock": {"cidr": _cidr(host)}}], "ports": [{"protocol": "TCP", "port": int(port)}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"swerl-{run_tag}-{network}", "labels": {LABEL: run_tag}},
        "spec": {
            "podSelector": {"matchLabels": {LABEL: run_tag, NETWORK_LABEL: network}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": egress,
        },
    }


def _cidr(host: str) -> str:
    address = ipaddress.ip_address(socket.gethostbyname(host))
    if address.is_loopback or address.is_unspecified:
        raise fail(
            "SWERL-T053",
            f"pods cannot reach the gateway at {host}",
            "set infrastructure.bind_host to 0.0.0.0 and infrastructure.node0_ip to this host's address",
        )
    return f"{address}/{address.max_prefixlen}"


def reap(run_tag: str, namespace: str, kubeconfig: str | None, context: str | None = None) -> int:
    """Delete pods and policies that carry this run's label; how many. RuntimeError when the cluster cannot be asked."""
    try:
        client = k8s.ApiClient(configuration(kubeconfig, context))
        core, net, label = Patient(k8s.CoreV1Api(client)), Patient(k8s.NetworkingV1Api(client)), f"{LABEL}={run_tag}"
        now = k8s.V1DeleteOptions(grace_period_seconds=0)
        found = [(core.delete_namespaced_pod, item) for item in core.list_namespaced_pod(namespace, label_selector=label).items]
        policies = net.list_namespaced_network_policy(namespace, label_selector=label).items
        found += [(net.delete_namespaced_network_policy, item) for item in policies]
        for delete, item in found:
            try:
                delete(item.metadata.name, namespace, body=now)
            except ApiException as error:
                if error.status != 404:
                    raise
    except (ApiException, SwerlError, ClusterAway, OSError) as error:
        raise RuntimeError(f"cluster: {str(error)[:300]}") from error
    return len(found)


def configuration(kubeconfig: str | None, context: str | None) -> k8s.Configuration:
    """The kubeconfig's, or that of the pod this runs in. SWERL-T051 without either."""
    configuration = k8s.Configuration()
    try:
        k8s_config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
    except (k8s_config.ConfigException, OSError) as error:
        try:
            if kubeconfig:
                raise
            k8s_config.load_incluster_config(client_configuration=configuration)
        except (k8s_config.ConfigException, OSError):
            remedy = "set k8s.kubeconfig to a readable file"
            raise fail("SWERL-T051", f"no access to a cluster: {error}", remedy, str(kubeconfig or "")) from error
    return configuration


class Patient:
    """An API whose calls are made again while the server is busy or away, for `PATIENCE_S`. Each call of ours can be repeated: a pod that
    was made although the answer was lost is found to exist."""

    def __init__(self, api: Any):
        self._api = api

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._api, name)

        def patiently(*args: Any, **kwargs: Any) -> Any:
            until, delay_s = time.monotonic() + PATIENCE_S, 0.2
            while True:
                try:
                    return method(*args, **{"_request_timeout": (5, 60), **kwargs})
                except ApiException as error:
                    if error.status not in BUSY or time.monotonic() > until:
                        raise
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    if time.monotonic() > until:
                        raise ClusterAway(f"the API server does not answer: {error}") from error
                time.sleep(delay_s)
                delay_s = min(2 * delay_s, 5.0)

        return patiently
