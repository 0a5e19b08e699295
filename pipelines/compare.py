"""Run several methods on one configuration: `fcit-ray compare`, as a file.

python pipelines/compare.py configs/miniature.yaml --methods finetune disco
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("compare")
