"""Train and evaluate one run on Ray: `fcit-ray run`, as the file that `ray job submit` runs.

python pipelines/run.py configs/miniature.yaml configs/methods/disco.yaml
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("run")
