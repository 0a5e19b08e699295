"""Prepare data: `fcit-ray prepare`, as a file.

python pipelines/prepare.py miniature
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("prepare")
