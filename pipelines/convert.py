"""Convert a checkpoint once: `fcit-ray convert`, as a file.

python pipelines/convert.py llava-v1.5-7b models/llava-1.5-7b --clip clip-vit-large-patch14-336
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("convert")
