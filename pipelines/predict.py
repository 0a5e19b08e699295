"""Answers of a trained model: `fcit-ray predict`, as a file.

python pipelines/predict.py runs/disco-seed0 questions.jsonl answers.jsonl
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("predict")
