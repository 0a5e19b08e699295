"""A finished run as a PEFT adapter or a merged model: `fcit-ray export`, as a file.

python pipelines/export.py runs/miniature/disco exported/disco
"""

from fcit_ray.cli.app import main

if __name__ == "__main__":
    main("export")
