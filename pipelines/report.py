"""One table from any number of run folders: `fcit-ray report`, as a file.

python pipelines/report.py runs/*
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("report")
