"""Memory and time of generating many samples: peak memory must not grow with their number.

``python benchmarks/scale.py [samples ...]`` makes each number of 32x32 Darcy samples in a process of its own, on disk,
float32, and prints the peak resident memory and CPU seconds; the default is 1000, 10 000 and 100 000 (1.6 GB on disk,
removed at the end). ``--method gcrodr`` orders all samples first.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time


def measure(num_samples, method, chunk_size):
    """Return what one run takes in this process."""
    import vcycle as vc

    problem = vc.problems.Darcy(vc.Grid((32, 32)))
    settings = {"method": method, "output_dtype": "float32", "workers": 2, "progress": False}
    vc.generate(problem, num_samples=256, **settings)  # what is compiled and imported once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        data = vc.generate(problem, num_samples=num_samples, out=f"{folder}/d.zarr", chunk_size=chunk_size, **settings)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        worst = float(data.solver["residual"].max())
    return {
        "samples": num_samples,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "grown_MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "largest_residual": worst,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--method", default="auto")
    parser.add_argument("--chunk-size", type=int, default=None)
    parser.add_argument("--here", action="store_true", help="measure in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.samples[0], arguments.method, arguments.chunk_size)))
        return
    for num_samples in arguments.samples:
        further = [] if arguments.chunk_size is None else ["--chunk-size", str(arguments.chunk_size)]
        command = [sys.executable, __file__, str(num_samples), "--here", "--method", arguments.method, *further]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
