"""The recipes for Slurm and Kubernetes, as far as they can be held without a cluster of either kind.

Field names are those of KubeRay's API (ray.io/v1) and of Kubernetes' pods, options those of the commands themselves.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml

from beph_store_cli.main import app

FOLDER = Path(__file__).parents[1] / "docs" / "cluster"
SBATCH = FOLDER / "slurm.sbatch"
RAYJOB = FOLDER / "kuberay-ingest.yaml"

RAYJOB_SPEC = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "rayClusterSpec",
    "submitterPodTemplate",
    "metadata",
    "clusterSelector",
    "submitterConfig",
    "managedBy",
    "entrypoint",
    "runtimeEnvYAML",
    "jobId",
    "submissionMode",
    "entrypointResources",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "ttlSecondsAfterFinished",
    "shutdownAfterJobFinishes",
    "suspend",
}
CLUSTER_SPEC = {
    "suspend",
    "managedBy",
    "autoscalerOptions",
    "authOptions",
    "headServiceAnnotations",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
}
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType", "resources", "labels"}
WORKERS = {
    "suspend",
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "idleTimeoutSeconds",
    "rayStartParams",
    "template",
    "scaleStrategy",
    "numOfHosts",
    "resources",
    "labels",
}
POD = {
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "nodeSelector",
    "affinity",
    "containers",
    "volumes",
}
CONTAINER = {
    "name",
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "env",
    "envFrom",
    "ports",
    "resources",
    "volumeMounts",
    "lifecycle",
}
#: Of `sbatch`, those that are used here, each with what its value looks like.
SBATCH_OPTIONS = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"1",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "mem": r"\d+[KMGT]",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "signal": r"B:TERM@\d+",
    "requeue": None,
    "output": r"\S+%j\S*",
}


@pytest.fixture(scope="module")
def script():
    return SBATCH.read_text()


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load(RAYJOB.read_text())


def commands(text, name):
    """The words after ``name`` wherever it is called in a script, to the end of its line or lines."""
    joined = text.replace("\\\n", " ")
    called = re.findall(rf"^(?!\s*#).*?\b({re.escape(name)} .*?)(?:>|&|\|\||$)", joined, flags=re.M)
    return [shlex.split(one) for one in called]


def options(command):
    return {param_option for param in command.params for param_option in param.opts}


def test_the_script_is_bash(script):
    assert subprocess.run(["bash", "-n", SBATCH], check=False).returncode == 0
    assert script.startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in script


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(["shellcheck", SBATCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_directives_stand_above_the_first_command_and_are_those_of_sbatch(script):
    lines = script.splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    found = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(found) == len(SBATCH_OPTIONS)
    assert max(found) < first  # sbatch reads no further
    for i in found:
        name, _, value = lines[i].removeprefix("#SBATCH --").partition("=")
        wanted = SBATCH_OPTIONS[name]
        assert value == "" if wanted is None else re.fullmatch(wanted, value), lines[i]


def test_ray_is_started_with_options_that_it_has(script):
    scripts = pytest.importorskip("ray.scripts.scripts")
    starts = commands(script, "ray start")
    assert len(starts) == 2
    for words in starts:
        for word in words[2:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in options(scripts.start), word
    assert "--block" in starts[0]
    assert "--include-dashboard=false" in starts[0]
    for words in commands(script, "ray status"):
        assert words[2].partition("=")[0] in options(scripts.status)


def test_the_token_is_new_in_every_job_and_on_no_command_line(script):
    assert "RAY_AUTH_MODE=token" in script
    assert "secrets.token_hex(32)" in script
    assert not [line for line in script.splitlines() if "srun" in line and "TOKEN" in line]


def test_the_commands_are_ours(script, job):
    ingest = typer.main.get_command(app).commands["ingest"]
    (called,) = commands(script, "beph-store ingest")
    for words in (called, shlex.split(job["spec"]["entrypoint"])):
        assert words[:2] == ["beph-store", "ingest"]
        given = [word for word in words if word.startswith("--")]
        assert {"--store", "--ray"} <= set(given)
        assert set(given) <= options(ingest)


def test_the_manifest_has_the_fields_of_a_rayjob(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec.keys() <= RAYJOB_SPEC
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() <= CLUSTER_SPEC
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"].keys() <= HEAD
    assert {"template", "rayStartParams"} <= cluster["headGroupSpec"].keys()
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKERS
        assert {"groupName", "rayStartParams", "template"} <= group.keys()
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_its_pods_hold_together(job):
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = set()
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod.keys() <= POD
        (container,) = pod["containers"]
        assert container.keys() <= CONTAINER
        images.add(container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all(isinstance(entry["value"], str) for entry in container["env"])
    assert len(images) == 1  # one version everywhere
    assert "KEY" not in RAYJOB.read_text()  # nor a secret


def test_the_page_links_both_and_says_what_was_not_tried():
    page = (FOLDER.parent / "cluster.md").read_text()
    assert f"cluster/{SBATCH.name}" in page
    assert f"cluster/{RAYJOB.name}" in page
    assert "Not tried" in page
