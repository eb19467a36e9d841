import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SWEEPS = Path(__file__).parents[1] / "sweeps"
SHARED_FLAGS = {"--storage", "--study", "--out", "--workers"}


def run_slurm(tmp_path, environ):
    """The arguments that the script gives to Python, which is a program of this test."""
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
    fake.chmod(0o755)
    return subprocess.run(
        ["bash", str(SWEEPS / "slurm.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/home/me", **environ},
        capture_output=True,
        text=True,
    )


def test_the_slurm_script_runs_the_command(tmp_path):
    done = run_slurm(tmp_path, {"FLAXYOLO_STORAGE": "grpc://node1:13000"})
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[:2] == ["-m", "flaxyolo.sweep"]
    flags = dict(zip(told[2::2], told[3::2], strict=True))
    assert set(flags) == {"--budget-ms", "--data"} | SHARED_FLAGS
    # By its name: the words of a command are seen by others.
    assert flags["--storage"] == "env:FLAXYOLO_STORAGE"
    assert flags["--out"] == "/home/me/flaxyolo/runs"


def test_the_slurm_script_asks_for_a_storage(tmp_path):
    done = run_slurm(tmp_path, {})
    assert done.returncode != 0
    assert "FLAXYOLO_STORAGE: set it to postgresql://" in done.stderr


def test_slurm_reads_its_settings_before_the_first_command():
    lines = (SWEEPS / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    settings = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(settings) > 5
    assert max(settings) < first
    assert any(re.fullmatch(r"#SBATCH --array=0-\d+", lines[i]) for i in settings)


@pytest.fixture
def parts():
    """The objects of the Kubernetes file, by kind."""
    found = yaml.safe_load_all((SWEEPS / "kubernetes.yaml").read_text())
    return {part["kind"]: part for part in found}


def test_kubernetes_runs_the_command_in_many_pods(parts):
    job = parts["Job"]["spec"]
    assert job["parallelism"] > 1
    assert "completions" not in job
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "flaxyolo.sweep"]
    flags = dict(each.split("=", 1) for each in container["args"])
    assert set(flags) == {"--budget-ms", "--data"} | SHARED_FLAGS


def test_kubernetes_takes_the_url_from_a_secret_and_the_runs_from_a_volume(parts):
    pod = parts["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = dict(each.split("=", 1) for each in container["args"])
    (variable,) = container["env"]
    assert flags["--storage"] == f"env:{variable['name']}"
    assert set(variable["valueFrom"]["secretKeyRef"]) == {"name", "key"}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert flags["--out"].startswith(mount["mountPath"])
    claim = parts["PersistentVolumeClaim"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
