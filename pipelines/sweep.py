"""Run methods x seeds x a grid as Ray Tune trials: `fcit-ray sweep`, as a file.

python pipelines/sweep.py configs/sweeps/miniature.yaml
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("sweep")
