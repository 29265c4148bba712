"""What the chart installs of the admission webhook, which is off unless it is asked for."""

import json
from pathlib import Path

from csi.cli.parsing import parser
from csi.operator import pki
from csi.operator.webhook import certificates, serving
from csi.operator.webhook.affinity import OPT_OUT_LABEL, PLACED_LABEL, SIDECAR_LABEL
from tests.tools.manifests import NAMESPACE, committed, containers, one, pods, render, rendered

WEBHOOK = ("--set", "webhook.enabled=true")


def test_the_webhook_is_off_unless_it_is_asked_for() -> None:
    assert not [item for item in committed() if "webhook" in json.dumps(item)]
    done = render(*WEBHOOK, "--set", "dataset.enabled=false")
    assert "webhook.enabled is true: it needs operator.enabled" in done.stderr


def test_the_webhook_is_asked_for_labelled_pods_alone_and_fails_closed() -> None:
    objects = rendered(*WEBHOOK)
    webhooks = one(objects, "MutatingWebhookConfiguration", "efc-webhook")["webhooks"]
    asked = {webhook["objectSelector"]["matchLabels"].popitem() for webhook in webhooks}
    assert asked == {(PLACED_LABEL, "true"), (SIDECAR_LABEL, "true")}
    (port,) = one(objects, "Service", "efc-webhook")["spec"]["ports"]
    for webhook in webhooks:
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["sideEffects"] == "None"
        assert webhook["timeoutSeconds"] <= 5
        assert webhook["objectSelector"]["matchExpressions"] == [
            {"key": OPT_OUT_LABEL, "operator": "NotIn", "values": ["false"]}
        ]
        assert webhook["rules"] == [
            {
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
                "scope": "Namespaced",
            }
        ]  # fmt: skip
        (own,) = webhook["namespaceSelector"]["matchExpressions"]
        assert (own["operator"], own["values"]) == ("NotIn", [NAMESPACE])
        service = {"name": "efc-webhook", "namespace": NAMESPACE, "path": serving.PATH, "port": port["port"]}
        assert webhook["clientConfig"] == {"service": service}, "the authority is the operator's to write"
    (webhook,) = one(
        rendered(*WEBHOOK, "--set", "webhook.refuseSidecars=false"), "MutatingWebhookConfiguration", "efc-webhook"
    )["webhooks"]
    assert webhook["objectSelector"]["matchLabels"] == {PLACED_LABEL: "true"}


def test_the_webhook_may_read_datasets_and_sees_no_authority() -> None:
    objects = rendered(*WEBHOOK)
    assert one(objects, "ClusterRole", "efc-webhook")["rules"] == [
        {"apiGroups": ["data.fluid.io"], "resources": ["datasets"], "verbs": ["get"]}
    ]
    binding = one(objects, "ClusterRoleBinding", "efc-webhook")
    assert [subject["name"] for subject in binding["subjects"]] == ["efc-webhook"]
    assert not [item for item in objects if item["kind"] == "Role" and "webhook" in item["metadata"]["name"]]
    pod = dict(pods(objects))["efc-webhook"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == certificates.NAME
    assert [item["key"] for item in volume["secret"]["items"]] == [pki.CERTIFICATE, pki.PRIVATE_KEY]
    assert pod["securityContext"]["runAsNonRoot"]
    container = containers(objects)["webhook"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    parsed = parser().parse_args(container["args"])
    assert parsed.module == "csi.cli.webhook"
    (mount,) = container["volumeMounts"]
    assert parsed.certificate == Path(mount["mountPath"])
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": serving.READY_PATH, "port": "https", "scheme": "HTTPS"}
    assert parser().parse_args(containers(objects)["operator"]["args"]).webhook
    assert not parser().parse_args(containers(committed())["operator"]["args"]).webhook


def test_the_operator_may_change_the_webhooks_configuration_and_no_other() -> None:
    rules = one(rendered(*WEBHOOK), "ClusterRole", "efc-operator")["rules"]
    assert rules[:-1] == one(committed(), "ClusterRole", "efc-operator")["rules"]
    assert rules[-1] == {
        "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": [certificates.NAME], "verbs": ["get", "patch"],
    }  # fmt: skip


def test_the_webhook_has_settings_of_its_own() -> None:
    given = {
        "enabled": True, "replicas": 3, "port": 9999, "timeoutSeconds": 2,
        "nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "podLabels": {"team": "storage"}, "podAnnotations": {"note": "n"}, "env": [{"name": "NAME", "value": "value"}],
        "serviceAccount": {"create": True, "name": "own"},
    }  # fmt: skip
    source = {"ipBlock": {"cidr": "192.0.2.1/32"}}
    objects = rendered(
        "--set-json", f"webhook={json.dumps(given)}", "--set-json", f"networkPolicy.webhookFrom={json.dumps([source])}"
    )
    deployment = one(objects, "Deployment", "efc-webhook")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["template"]["metadata"]["labels"]["team"] == "storage"
    assert deployment["template"]["metadata"]["annotations"] == {"note": "n"}
    pod = deployment["template"]["spec"]
    assert (pod["serviceAccountName"], pod["nodeSelector"]["disk"]) == ("own", "fast")
    assert pod["tolerations"] == given["tolerations"]
    (container,) = pod["containers"]
    assert {"name": "NAME", "value": "value"} in container["env"]
    assert "--listen=$(POD_ADDRESS):9999" in container["args"]
    assert container["ports"] == [{"name": "https", "containerPort": 9999}]
    assert "podAntiAffinity" in pod["affinity"]
    webhooks = one(objects, "MutatingWebhookConfiguration", "efc-webhook")["webhooks"]
    assert {webhook["timeoutSeconds"] for webhook in webhooks} == {2}
    (rule,) = one(objects, "NetworkPolicy", "efc-webhook")["spec"]["ingress"]
    assert rule == {"ports": [{"port": "https", "protocol": "TCP"}], "from": [source]}
    (rule,) = one(rendered(*WEBHOOK), "NetworkPolicy", "efc-webhook")["spec"]["ingress"]
    assert "from" not in rule
