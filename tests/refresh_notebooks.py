"""`make notebooks`: run every notebook with its defaults and keep the outputs that nbval compares, and no others.

Everything else that a notebook shows is for whoever runs it; the reports keep what was found. Cell metadata that
editors leave behind goes too.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

os.environ["LENSSTUDY_BATCH"] = "1"
os.environ["LENSSTUDY_HOME"] = tempfile.mkdtemp()

names = sys.argv[1:]  # such as 03-train; all, if none
for file in sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb")):
    if names and file.stem not in names:
        continue
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, kernel_name="python3", timeout=600).execute()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            guarded = "nbval-check-output" in tags
            cell.execution_count = 1 if guarded else None  # nbval asks for a number where there are outputs
            if not guarded:
                cell.outputs = []
            for output in cell.outputs:
                output.pop("execution_count", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, file)
    print(file.name)
