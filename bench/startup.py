"""How long the light parts take to start, each in interpreters of their own.

Peers: an interpreter that does nothing, and one that imports gRPC alone.
"""

import argparse
import statistics
import subprocess
import sys
import time

from results_file import save

PROGRAMS = {
    "python, nothing": ["-c", "pass"],
    "import grpc": ["-c", "import grpc"],
    "import memoryd_client": ["-c", "import memoryd_client"],
    "memoryd --help": ["-m", "memoryd", "--help"],
}


def seconds(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    figures = []
    for name, arguments in PROGRAMS.items():
        seconds(arguments)  # the first run compiles and fills the file cache
        times = [seconds(arguments) for _ in range(runs)]
        figures.append(
            {
                "program": name,
                "runs": runs,
                "median_seconds": round(statistics.median(times), 4),
                "least_seconds": round(min(times), 4),
            }
        )
        print(f"{name:24} median {statistics.median(times):.3f} s, least {min(times):.3f} s")
    save("startup", figures)


if __name__ == "__main__":
    main()
