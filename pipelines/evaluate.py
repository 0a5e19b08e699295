"""A trained model scored again: `fcit-ray evaluate`, as a file.

python pipelines/evaluate.py runs/disco-seed0 benchmark.split=validation --out runs/disco-validation
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("evaluate")
