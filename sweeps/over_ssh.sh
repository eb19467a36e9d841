#!/usr/bin/env bash
# Times an ONNX model on another host, for measure and sweep:
#
#   python -m flaxyolo.sweep --budget-ms 30 --engine command --engine-command "sweeps/over_ssh.sh pi@camera"
#
# Arguments: HOST, options of ssh if there are any (such as -o Port=2222), and the model, which
# flaxyolo adds. The host needs sshd, your key (nobody is there to type a password), and Python with
# numpy and onnxruntime; PYTHON names another one there than python3. Leave the host to itself
# meanwhile: what else runs there is in the figures.
set -euo pipefail

host=${1:?expected HOST [OPTIONS OF SSH] MODEL}
model=${*: -1}
options=(-o BatchMode=yes "${@:2:$#-2}")

remote() { ssh "${options[@]}" "$host" "$@"; }

folder=$(remote mktemp -d)
trap 'remote rm -rf "$folder"' EXIT
scp -q "${options[@]}" "$model" "$host:$folder/detector.onnx"

# Its last line is what flaxyolo reads: milliseconds, p50 and p95.
remote "${PYTHON:-python3}" - "$folder/detector.onnx" <<'PY'
import sys
import time

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
size = given.shape[-1]
image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)

times = []
end = time.perf_counter() + 5
while len(times) < 20 or time.perf_counter() < end:
    began = time.perf_counter()
    pixels = np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    session.run(None, {given.name: pixels})
    times.append(1000 * (time.perf_counter() - began))
print(*np.percentile(times[len(times) // 5 :], [50, 95]).round(3))
PY
